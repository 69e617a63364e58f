// Clients that follow rooms while nodes behind their gateway are drained and killed: `node disturbed.mjs URL CLIENTS`.
// Half of them poll. Says `ready`; at the end of its input it publishes no more, and ends with status 0 when every client
// has each message once and in order and was never disconnected.
import assert from "node:assert/strict";
import { once } from "node:events";
import { io } from "socket.io-client";

const [url, clients] = [process.argv[2], Number(process.argv[3])];
const rooms = Array.from({ length: 10 }, (_, n) => `market_${process.pid}_${n}`);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const ask = (socket, event, argument) => socket.timeout(60_000).emitWithAck(event, argument);
const open = (transport) => io(url, { transports: [transport], forceNew: true, timeout: 60_000 });

let disconnects = 0;
const watched = [];
for (let n = 0; n < clients; n++) {
  const socket = open(n % 2 ? "polling" : "websocket");
  const room = rooms[n % rooms.length];
  const client = { socket, room, seqs: [], resyncs: 0 };
  socket.on("disconnect", () => disconnects++);
  socket.on("tick", ({ seq }) => client.seqs.push(seq));
  socket.on("resync", () => client.resyncs++);
  watched.push(client);
  if (n % 50 === 49) await sleep(50);
}
await Promise.all(watched.map(async ({ socket, room }) => {
  if (!socket.connected) await once(socket, "connect");
  const told = await ask(socket, "subscribe", { room });
  assert.equal(told.seq, 0);
}));

let going = true;
const sent = {};
const publishers = rooms.map(async (room, n) => {
  const socket = open(n % 2 ? "polling" : "websocket");
  await once(socket, "connect");
  while (going) {
    const payload = { room, event: "tick", data: { n } };
    const answer = await ask(socket, "request", { request_id: "p", action: "publish", payload });
    assert.equal(answer.success, true, JSON.stringify(answer));
    sent[room] = answer.data.seq;
    await sleep(50);
  }
  socket.disconnect();
});
console.log("ready");
process.stdin.resume();
await once(process.stdin, "end");
going = false;
await Promise.all(publishers);
const complete = () => watched.every(({ room, seqs }) => seqs.length >= sent[room]);
for (const end = Date.now() + 60_000; Date.now() < end && !complete(); ) await sleep(20);
await sleep(200);
let wrong = 0;
for (const { room, seqs } of watched) {
  if (seqs.length !== sent[room] || seqs.some((seq, at) => seq !== at + 1)) wrong++;
}
const resyncs = watched.reduce((sum, { resyncs }) => sum + resyncs, 0);
const messages = Object.values(sent).reduce((sum, seq) => sum + seq, 0);
console.log(JSON.stringify({ clients, messages, disconnects, wrong, resyncs }));
process.exit(disconnects || wrong || resyncs ? 1 : 0);
