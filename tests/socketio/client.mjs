// The real socket.io-client against a server: `node client.mjs URL [TOKEN [market]]`, the last where all clients share one
// store of ticks. Ends with status 0 when everything holds.
import assert from "node:assert/strict";
import { io } from "socket.io-client";

const [url, token, market] = process.argv.slice(2);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const run = `${process.pid}x${Date.now().toString(36)}`;

function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
const once = (socket, event) =>
  within(60_000, event, new Promise((resolve) => socket.once(event, (...args) => resolve(args[0]))));
const ask = (socket, event, argument) => socket.timeout(60_000).emitWithAck(event, argument);

async function until(what, condition) {
  for (const end = Date.now() + 60_000; Date.now() < end; await sleep(10)) if (condition()) return;
  throw new Error(`${what}: not in time`);
}

// Asks until the answer is right.
async function eventually(what, asking, right) {
  let answer;
  for (const end = Date.now() + 60_000; Date.now() < end; await sleep(20)) if (right(answer = await asking())) return answer;
  throw new Error(`${what}: not in time, but ${JSON.stringify(answer)}`);
}

function open(options = {}, namespace = "/") {
  const auth = token ? { token } : undefined;
  return io(url + namespace, { auth, forceNew: true, reconnectionDelay: 50, ...options });
}

async function connected(options) {
  const socket = open(options);
  const status = once(socket, "connect_response");
  await once(socket, "connect");
  assert.equal((await status).sid, socket.id);
  assert.equal((await status).status, "connected");
  return socket;
}

const publish = (socket, room, event, data) =>
  ask(socket, "request", { request_id: "p", action: "publish", payload: { room, event, data } });

const transports = {
  websocket: { transports: ["websocket"] },
  polling: { transports: ["polling"] },
  upgrade: {},
};

async function answers(options, name) {
  const socket = await connected(options);
  const room = `market_${run}_${name}`;
  const event = once(socket, "subscribed");
  const told = await ask(socket, "subscribe", { room });
  assert.deepEqual([told.room, told.status, told.seq, told.recovered], [room, "subscribed", 0, false]);
  assert.deepEqual(await event, told);

  const got = once(socket, "price_update");
  const answer = await publish(socket, room, "price_update", { price: 1.5 });
  assert.deepEqual([answer.type, answer.success, answer.data.seq], ["response", true, 1]);
  const message = await got;
  assert.deepEqual([message.room, message.seq, message.data], [room, 1, { price: 1.5 }]);

  assert.equal((await ask(socket, "subscribe", { room })).error_code, "ALREADY_SUBSCRIBED");
  assert.equal((await ask(socket, "unsubscribe", { room })).status, "unsubscribed");
  const failed = await ask(socket, "request", { request_id: "x", action: "nonsense" });
  assert.deepEqual([failed.type, failed.request_id, failed.error_code], ["error", "x", "INVALID_ACTION"]);
  const error = once(socket, "error");
  socket.emit("nonsense", {});
  assert.equal((await error).error_code, "INVALID_ACTION");
  const pong = once(socket, "pong");
  socket.emit("ping", { timestamp: 7 });
  assert.deepEqual([(await pong).type, (await pong).timestamp], ["pong", 7]);

  const bytes = Buffer.from([0, 1, 2, 255]);
  const echoed = once(socket, "response");
  const echo = await ask(socket, "request", { request_id: "b", action: "echo", payload: { bytes, n: [1] } });
  assert.deepEqual([Buffer.from(echo.data.bytes), echo.data.n], [bytes, [1]]);
  assert.deepEqual(Buffer.from((await echoed).data.bytes), bytes);
  const refused = await ask(socket, "request", { request_id: "c", action: "publish", payload: { bytes } });
  assert.equal(refused.error_code, "INVALID_PARAMETERS");
  socket.disconnect();
}

async function streams() {
  const [a, b] = await Promise.all([connected(), connected(transports.websocket)]);
  const symbols = [`A${run}`, `B${run}`];
  const seen = [];
  a.on("stream_data", (data) => seen.push(data));
  for (const symbol of symbols) {
    const told = await ask(a, "subscribe_market_stream", { symbol, fields: ["price"] });
    assert.deepEqual([told.symbol, told.status], [symbol, "subscribed"]);
  }
  const tick = (symbol) => publish(b, `stream_${symbol}`, "tick", { price: 1, volume: 2, bid: 3 });
  for (const symbol of symbols) await tick(symbol);
  await until("stream_data", () => seen.length === 2);
  // Each room has an order, and they have none among each other.
  assert.deepEqual(seen.map(({ symbol, data, seq }) => [symbol, data, seq]).sort(),
    symbols.map((symbol) => [symbol, { price: 1 }, 1]));
  const changed = await ask(a, "stream_filter_update", { symbol: symbols[0], fields: ["bid", "volume"] });
  assert.deepEqual([changed.symbol, [...changed.fields].sort()], [symbols[0], ["bid", "volume"]]);
  await tick(symbols[0]);
  await until("stream_data", () => seen.length === 3);
  assert.deepEqual(seen[2].data, { volume: 2, bid: 3 });
  assert.equal((await ask(a, "unsubscribe_market_stream", { symbol: symbols[1] })).status, "unsubscribed");
  const error = once(a, "stream_error");
  a.emit("unsubscribe_market_stream", { symbol: symbols[1] });
  assert.equal((await error).error_code, "ROOM_NOT_FOUND");
  assert.equal((await ask(a, "subscribe_market_stream", { symbol: "no such" })).error_code, "INVALID_SYMBOL");
  a.disconnect();
  b.disconnect();
}

// What was published is kept, and can be asked for.
async function marketData(options, name) {
  const socket = await connected(options);
  const symbol = `M${run}${name}`;
  for (const price of [1.5, 2.5]) await publish(socket, `market_${symbol}`, "tick", { price, volume: 3 });
  const asking = (data_type) =>
    ask(socket, "request", { request_id: "m", action: "get_market_data", payload: { symbol, data_type } });
  const answer = await eventually("the newest tick", () => asking("snapshot"), ({ data }) => data?.tick?.price === 2.5);
  assert.deepEqual([answer.type, answer.request_id, answer.data.symbol], ["response", "m", symbol]);
  const event = once(socket, "response");
  const ticks = await asking("tick");
  assert.deepEqual(ticks.data.rows.map(({ seq, price }) => [seq, price]), [[1, 1.5], [2, 2.5]]);
  assert.deepEqual(await event, ticks);
  const bars = await eventually("a bar", () => asking("kline"), ({ data }) => data.rows.length > 0);
  assert.equal(bars.data.rows[0].open, 1.5);
  assert.equal((await asking("nonsense")).error_code, "INVALID_PARAMETERS");
  socket.disconnect();
}

async function refusals() {
  const stranger = open({}, "/nowhere");
  assert.equal((await once(stranger, "connect_error")).message, "Invalid namespace");
  stranger.disconnect();
  const liar = io(url, { auth: { token: "a.b.c" }, forceNew: true });
  const error = await once(liar, "connect_error");
  assert.equal(error.data.error_code, "AUTH_FAILED");
  liar.disconnect();
}

// Messages come all the time while clients go over from polling to WebSocket.
async function upgradeUnderLoad() {
  const room = `market_${run}_load`;
  const publisher = await connected(transports.websocket);
  let going = true;
  let sent = 0;
  const publishing = (async () => {
    while (going) sent = (await publish(publisher, room, "tick", { n: 1 })).data.seq;
  })();
  await Promise.all(Array.from({ length: 20 }, async () => {
    const socket = await connected();
    const seqs = [];
    socket.on("tick", ({ seq }) => seqs.push(seq));
    const { seq } = await ask(socket, "subscribe", { room });
    await until("upgrade", () => socket.io.engine.transport.name === "websocket");
    await until("messages", () => seqs.length > 100);
    assert.deepEqual(seqs, seqs.map((_, n) => seq + 1 + n));
    socket.disconnect();
  }));
  going = false;
  await publishing;
  assert.ok(sent > 100);
  publisher.disconnect();
}

// The connection is cut; what was published meanwhile is sent, once and in order, from several rooms.
async function recovery(options, name) {
  const socket = await connected(options);
  const publisher = await connected(transports.websocket);
  const rooms = ["a", "b", "c"].map((one) => `market_${run}_${name}_${one}`);
  const seqs = {};
  socket.on("tick", ({ room, seq }) => (seqs[room] ??= []).push(seq));
  for (const room of rooms) await ask(socket, "subscribe", { room });
  for (let n = 0; n < 30; n++) await publish(publisher, rooms[n % 3], "tick", { n });
  await until("the first", () => rooms.every((room) => seqs[room]?.length === 10));
  const again = once(socket, "connect");
  socket.io.engine.close();
  const meanwhile = (async () => {
    for (let n = 0; n < 60; n++) await publish(publisher, rooms[n % 3], "tick", { n });
  })();
  await again;
  assert.equal(socket.recovered, true);
  await meanwhile;
  await until("all", () => rooms.every((room) => seqs[room].length >= 30));
  await sleep(100);
  for (const room of rooms) assert.deepEqual(seqs[room], Array.from({ length: 30 }, (_, n) => n + 1));
  socket.disconnect();
  publisher.disconnect();
}

// Who asks for it gets messages that come together as one event; all of them, once and in order.
async function batches() {
  const room = `market_${run}_batches`;
  const socket = await connected({ ...transports.websocket, auth: { ...(token && { token }), batch: true } });
  const publisher = await connected(transports.websocket);
  const seqs = [];
  let together = 0;
  socket.on("tick", ({ seq }) => seqs.push(seq));
  socket.on("batch", (messages) => {
    together += messages.length > 1 ? 1 : 0;
    for (const { event, room: of, seq } of messages) {
      assert.deepEqual([event, of], ["tick", room]);
      seqs.push(seq);
    }
  });
  await ask(socket, "subscribe", { room });
  let sent = 0;
  for (const end = Date.now() + 60_000; together === 0 && Date.now() < end; ) {
    await Promise.all(Array.from({ length: 100 }, () => publish(publisher, room, "tick", { n: 1 })));
    sent += 100;
    await until("all of them", () => seqs.length === sent);
  }
  assert.ok(together > 0, "nothing came together");
  assert.deepEqual(seqs, Array.from({ length: sent }, (_, n) => n + 1));
  socket.disconnect();
  publisher.disconnect();
}

const steps = [
  ...Object.entries(transports).map(([name, options]) => [`answers on ${name}`, () => answers(options, name)]),
  ["market streams", streams],
  ...(market ? ["websocket", "polling"] : []).map((name) =>
    [`market data on ${name}`, () => marketData(transports[name], name)]),
  ["batches", batches],
  ["refusals", refusals],
  ["upgrade under load", upgradeUnderLoad],
  ["recovery on websocket", () => recovery(transports.websocket, "rw")],
  ["recovery on polling", () => recovery(transports.polling, "rp")],
];
for (const [name, step] of steps) {
  try {
    await within(170_000, name, step());
    console.log(`ok: ${name}`);
  } catch (error) {
    console.error(`FAILED: ${name}:`, error);
    process.exit(1);
  }
}
process.exit(0);
