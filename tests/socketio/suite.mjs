// What the Engine.IO v4 and Socket.IO v5 protocol documents ask of a server, against `tickmesh node --conformance
// socketio`: `node suite.mjs URL`. Ends with status 0 when every case passes.
import assert from "node:assert/strict";
import { WebSocket } from "ws";

const url = process.argv[2];
const wsUrl = url.replace("http", "ws");
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const post = (path, body) => fetch(url + path, { method: "POST", body });
const statusOf = async (path, options) => (await fetch(url + path, options)).status;

class Peer {
  constructor(path) {
    this.messages = [];
    this.waiting = [];
    this.closed = false;
    this.socket = new WebSocket(wsUrl + path);
    this.socket.on("message", (data, binary) => this.push(binary ? data : data.toString()));
    this.socket.on("error", () => {});
    this.end = new Promise((resolve) => this.socket.on("close", () => { this.closed = true; resolve(true); }));
  }
  push(message) {
    const waiter = this.waiting.shift();
    waiter ? waiter(message) : this.messages.push(message);
  }
  next() {
    if (this.messages.length) return Promise.resolve(this.messages.shift());
    return Promise.race([
      new Promise((resolve) => this.waiting.push(resolve)),
      sleep(30_000).then(() => { throw new Error("no message"); }),
    ]);
  }
  async nextButPing() {
    for (;;) { const message = await this.next(); if (message !== "2") return message; }
  }
  send(data) { this.socket.send(data); }
  ends() { return Promise.race([this.end, sleep(30_000).then(() => { throw new Error("not closed"); })]); }
}

const engine = "/engine.io/?EIO=4";
const polling = `${engine}&transport=polling`;
async function poll(sid) { return fetch(`${url}${polling}&sid=${sid}`); }
// What a poll brings beside pings, which are answered: on a busy machine one may come at any time.
async function pollButPing(sid) {
  for (;;) {
    const packets = (await (await poll(sid)).text()).split("\x1e");
    const others = packets.filter((packet) => packet !== "2");
    if (others.length < packets.length) await post(`${polling}&sid=${sid}`, "3");
    if (others.length) return others.join("\x1e");
  }
}
// What ends a poll that waits during an upgrade: a noop, or the ping that was due by then on a busy machine.
async function assertEnded(polled) {
  assert.match(await (await polled).text(), /^[26]$/);
}
async function begin() {
  const text = await (await fetch(url + polling)).text();
  return JSON.parse(text.slice(1)).sid;
}
// A WebSocket for a session on polling, as soon as it is there.
async function upgrading(sid) {
  const peer = new Peer(`${engine}&transport=websocket&sid=${sid}`);
  await new Promise((resolve) => peer.socket.on("open", resolve));
  return peer;
}
async function websocket() {
  const peer = new Peer(`${engine}&transport=websocket`);
  await peer.next();
  return peer;
}
async function entered(auth = "") {
  const peer = new Peer("/socket.io/?EIO=4&transport=websocket");
  await peer.next();
  peer.send(`40${auth}`);
  assert.match(await peer.nextButPing(), /^40\{"sid":"[^"]+"\}$/);
  assert.equal(await peer.nextButPing(), `42["auth",${auth || "{}"}]`);
  return peer;
}

const cases = {
  async "handshake on polling"() {
    const response = await fetch(url + polling);
    assert.equal(response.status, 200);
    assert.equal(response.headers.get("access-control-allow-origin") ?? "*", "*");
    const text = await response.text();
    assert.equal(text[0], "0");
    const { sid, ...rest } = JSON.parse(text.slice(1));
    assert.equal(typeof sid, "string");
    assert.deepEqual(rest, { upgrades: ["websocket"], pingInterval: 300, pingTimeout: 200, maxPayload: 1000000 });
  },
  async "cors"() {
    const response = await fetch(url + polling, { headers: { origin: "http://a.example" } });
    assert.equal(response.headers.get("access-control-allow-origin"), "*");
  },
  async "handshake on websocket"() {
    const peer = new Peer(`${engine}&transport=websocket`);
    const { sid, ...rest } = JSON.parse((await peer.next()).slice(1));
    assert.equal(typeof sid, "string");
    assert.deepEqual(rest, { upgrades: [], pingInterval: 300, pingTimeout: 200, maxPayload: 1000000 });
    peer.socket.close();
  },
  async "bad handshakes"() {
    for (const path of ["/engine.io/?transport=polling", "/engine.io/?EIO=abc&transport=polling", "/engine.io/?EIO=4",
      "/engine.io/?EIO=4&transport=abc", `${polling}&sid=abc`]) assert.equal(await statusOf(path), 400, path);
    assert.equal(await statusOf(polling, { method: "POST" }), 400);
    assert.equal(await statusOf(polling, { method: "PUT" }), 400);
    for (const path of ["/engine.io/?transport=websocket", "/engine.io/?EIO=abc&transport=websocket", "/engine.io/?EIO=4",
      "/engine.io/?EIO=4&transport=abc", `${engine}&transport=websocket&sid=abc`]) await new Peer(path).ends();
  },
  async "packets on polling"() {
    const sid = await begin();
    const pushed = await post(`${polling}&sid=${sid}`, "4hello");
    assert.equal(pushed.status, 200);
    assert.equal(await pushed.text(), "ok");
    assert.equal(await pollButPing(sid), "4hello");
    await post(`${polling}&sid=${sid}`, "4test1\x1e4test2\x1e4test3");
    assert.equal(await pollButPing(sid), "4test1\x1e4test2\x1e4test3");
    await post(`${polling}&sid=${sid}`, "bAQIDBA==");
    assert.equal(await pollButPing(sid), "bAQIDBA==");
  },
  async "bad payload on polling"() {
    const sid = await begin();
    assert.equal((await post(`${polling}&sid=${sid}`, "abc")).status, 400);
    assert.equal((await poll(sid)).status, 400);
  },
  async "too large a payload"() {
    const sid = await begin();
    assert.equal((await post(`${polling}&sid=${sid}`, `4${"x".repeat(1000000)}`)).status, 413);
  },
  async "two polls"() {
    const sid = await begin();
    const [first, second] = await Promise.all([poll(sid), sleep(5).then(() => poll(sid))]);
    assert.equal(first.status, 200);
    assert.equal(await first.text(), "1");
    assert.ok([400, 500].includes(second.status));
    assert.equal((await poll(sid)).status, 400);
  },
  async "a poll that is cancelled"() {
    const sid = await begin();
    const controller = new AbortController();
    fetch(`${url}${polling}&sid=${sid}`, { signal: controller.signal }).catch(() => {});
    await sleep(20);
    controller.abort();
    await sleep(20);
    assert.equal((await poll(sid)).status, 400);
  },
  async "packets on websocket"() {
    const peer = await websocket();
    peer.send("4hello");
    assert.equal(await peer.nextButPing(), "4hello");
    peer.send(Buffer.from([1, 2, 3, 4]));
    assert.deepEqual(await peer.nextButPing(), Buffer.from([1, 2, 3, 4]));
    peer.send("abc");
    await peer.ends();
  },
  async "heartbeat on polling"() {
    const sid = await begin();
    for (let n = 0; n < 3; n++) {
      assert.equal(await (await poll(sid)).text(), "2");
      assert.equal((await post(`${polling}&sid=${sid}`, "3")).status, 200);
    }
  },
  async "silence on polling"() {
    // No last words: the ping that was not fetched is not given out any more either.
    const sid = await begin();
    await sleep(500);
    assert.equal((await poll(sid)).status, 400);
    assert.equal((await post(`${polling}&sid=${sid}`, "4a")).status, 400);
  },
  async "one ping at a time"() {
    const sid = await begin();
    assert.equal(await (await poll(sid)).text(), "2");
    // It lives, but does not answer.
    for (let n = 0; n < 5; n++) {
      await post(`${polling}&sid=${sid}`, "6");
      await sleep(100);
    }
    await post(`${polling}&sid=${sid}`, "4a");
    assert.equal(await (await poll(sid)).text(), "4a");
  },
  async "heartbeat on websocket"() {
    const peer = await websocket();
    for (let n = 0; n < 3; n++) {
      assert.equal(await peer.next(), "2");
      peer.send("3");
    }
    await peer.ends();
  },
  async "close on polling"() {
    const sid = await begin();
    const [polled, pushed] = await Promise.all([poll(sid), post(`${polling}&sid=${sid}`, "1")]);
    assert.deepEqual([polled.status, pushed.status], [200, 200]);
    assert.equal(await polled.text(), "6");
    assert.equal((await poll(sid)).status, 400);
    // The same where the poll comes too late to be waiting.
    const other = await begin();
    await post(`${polling}&sid=${other}`, "1");
    assert.equal(await (await poll(other)).text(), "6");
    assert.equal((await poll(other)).status, 400);
  },
  async "close on websocket"() {
    const peer = await websocket();
    peer.send("1");
    await peer.ends();
  },
  async "upgrade"() {
    const sid = await begin();
    const peer = await upgrading(sid);
    peer.send("2probe");
    assert.equal(await peer.next(), "3probe");
    peer.send("5");
    peer.send("4hello");
    assert.equal(await peer.next(), "4hello");
    assert.equal((await poll(sid)).status, 400);
    // Let in, and closed.
    await (await upgrading(sid)).ends();
    peer.send("4still");
    assert.equal(await peer.nextButPing(), "4still");
    peer.socket.close();
  },
  async "a poll during the upgrade"() {
    const sid = await begin();
    const polled = poll(sid);
    await sleep(20);
    const peer = await upgrading(sid);
    peer.send("2probe");
    assert.equal(await peer.next(), "3probe");
    await assertEnded(polled);
    // One that comes now waits for the upgrade, but not until the next packet.
    await assertEnded(poll(sid));
    peer.send("5");
    peer.send("4hello");
    assert.equal(await peer.nextButPing(), "4hello");
    peer.socket.close();
  },
  async "an upgrade that is over at once"() {
    for (const waits of [true, false]) {
      const sid = await begin();
      let polled = waits && poll(sid);
      if (waits) await sleep(100);
      const peer = await upgrading(sid);
      peer.send("2probe");
      peer.send("5");
      polled ||= poll(sid);
      const { status } = await polled;
      assert.equal(status, waits ? 200 : 400);
      if (waits) await assertEnded(polled);
      peer.send("4hello");
      assert.equal(await peer.nextButPing(), "3probe");
      assert.equal(await peer.nextButPing(), "4hello");
      peer.socket.close();
    }
  },
  async "one websocket at a time"() {
    const sid = await begin();
    const first = await upgrading(sid);
    const second = await upgrading(sid);
    await second.ends();
    assert.deepEqual(second.messages, []);
    first.socket.close();
    await first.ends();
    // Neither became the transport: the session goes on, and another one may.
    await post(`${polling}&sid=${sid}`, "4a");
    assert.equal(await pollButPing(sid), "4a");
    const third = await upgrading(sid);
    third.send("2probe");
    third.send("5");
    assert.equal(await third.nextButPing(), "3probe");
    third.send("4b");
    assert.equal(await third.nextButPing(), "4b");
    third.socket.close();
  },
  async "connect"() {
    (await entered()).socket.close();
    (await entered('{"token":"123"}')).socket.close();
    const peer = await entered();
    peer.send('40/custom,{"token":"abc"}');
    assert.match(await peer.nextButPing(), /^40\/custom,\{"sid":"[^"]+"\}$/);
    assert.equal(await peer.nextButPing(), '42/custom,["auth",{"token":"abc"}]');
    peer.send("40/random");
    assert.equal(await peer.nextButPing(), '44/random,{"message":"Invalid namespace"}');
    peer.send("41/custom");
    peer.send('42["message","still here"]');
    assert.equal(await peer.nextButPing(), '42["message-back","still here"]');
    peer.socket.close();
  },
  async "the event behind the entry"() {
    const peer = new Peer("/socket.io/?EIO=4&transport=websocket");
    await peer.next();
    peer.send("40");
    assert.match(await peer.next(), /^40/);
    // Not together with the entry: who begins to listen now still hears it.
    assert.deepEqual(peer.messages, []);
    assert.equal(await peer.next(), '42["auth",{}]');
    // Who does not wait for it gets it first.
    peer.send("40/custom");
    peer.send('42/custom,["message",1]');
    assert.match(await peer.nextButPing(), /^40\/custom,/);
    assert.equal(await peer.nextButPing(), '42/custom,["auth",{}]');
    assert.equal(await peer.nextButPing(), '42/custom,["message-back",1]');
    peer.socket.close();
  },
  async "no connect"() {
    const peer = new Peer("/socket.io/?EIO=4&transport=websocket");
    const pongs = setInterval(() => peer.socket.readyState === 1 && peer.send("3"), 100);
    await peer.ends();
    clearInterval(pongs);
  },
  async "disconnect"() {
    const peer = await entered();
    peer.send("41");
    assert.equal(await peer.next(), "2");
    peer.socket.close();
  },
  async "messages"() {
    const peer = await entered();
    peer.send('42["message",1,"2",{"3":[true]}]');
    assert.equal(await peer.nextButPing(), '42["message-back",1,"2",{"3":[true]}]');
    peer.send('42456["message-with-ack",1,"2",{"3":[false]}]');
    assert.equal(await peer.nextButPing(), '43456[1,"2",{"3":[false]}]');
    const places = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}';
    const parts = [Buffer.from([1, 2, 3]), Buffer.from([4, 5, 6])];
    for (const [head, back] of [['452-["message",', '452-["message-back",'], ['452-789["message-with-ack",', "462-789["]]) {
      peer.send(`${head}${places}]`);
      parts.forEach((part) => peer.send(part));
      assert.equal(await peer.nextButPing(), `${back}${places}]`);
      for (const part of parts) assert.deepEqual(await peer.nextButPing(), part);
    }
    peer.socket.close();
  },
  async "what is no packet"() {
    const bad = ["4abc", "42abc", "42{}", "42[]", '42abc["message"]', "4", "47", "43[]", "452[\"message\"]",
      '45999-["message"]', '42/nowhere,["message"]', "41{}", "40[]", "42[1]", '42["message"', "9", "x", "2", "5", "0{}"];
    for (const packet of bad) {
      const peer = await entered();
      peer.send(packet);
      await peer.ends().catch((error) => { throw new Error(`${packet}: ${error.message}`); });
    }
    const peer = await entered();
    peer.send(Buffer.from([1]));
    await peer.ends();
    const half = await entered();
    half.send('451-["message",{"_placeholder":true,"num":0}]');
    half.send('42["message"]');
    await half.ends();
  },
};

let failed = 0;
for (const [name, test] of Object.entries(cases)) {
  try {
    await test();
    console.log(`ok: ${name}`);
  } catch (error) {
    failed++;
    console.error(`FAILED: ${name}:`, error.message ?? error);
  }
}
process.exit(failed ? 1 : 0);
