// Notices that are for others, or for one user: `node others.mjs URL1 URL2 TOKEN_ANN TOKEN_BOB`, where rooms `desk_*` announce who
// comes and goes. Ends with status 0 when everything holds.
import assert from "node:assert/strict";
import { io } from "socket.io-client";

const [url1, url2, annsToken, bobsToken] = process.argv.slice(2);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(what, condition) {
  for (const end = Date.now() + 60_000; Date.now() < end; await sleep(10)) if (condition()) return;
  throw new Error(`${what}: not in time`);
}

async function client(url, token, transport) {
  const socket = io(url, { auth: { token }, forceNew: true, transports: [transport] });
  const seen = [];
  socket.onAny((event, argument) => {
    if (/^(room_member_|alert$|mark$)/.test(event)) seen.push([event, argument]);
  });
  await until(`${transport} connects`, () => socket.connected);
  return { socket, seen, ask: (event, argument) => socket.timeout(60_000).emitWithAck(event, argument) };
}

const who = (seen) => seen.filter(([event]) => event.startsWith("room_member_"))
  .map(([event, { room, sid }]) => [event, room, sid]);

const ann = await client(url1, annsToken, "polling");
const bob = await client(url2, bobsToken, "websocket");
const room = "desk_1";
await ann.ask("subscribe", { room });
await bob.ask("subscribe", { room });
await until("ann hears of bob", () => who(ann.seen).length === 1);
assert.deepEqual(who(ann.seen)[0], ["room_member_joined", room, bob.socket.id]);
assert.ok(Number.isInteger(ann.seen[0][1].timestamp));
await ann.ask("unsubscribe", { room });
await until("bob hears of ann", () => who(bob.seen).length === 1);
assert.deepEqual(who(bob.seen)[0], ["room_member_left", room, ann.socket.id]);

// A notice is one user's, on whatever transport and node.
const notify = (user, n) => fetch(`${url2}/api/v1/users/${user}/notify`, {
  method: "POST",
  headers: { authorization: `Bearer ${bobsToken}`, "content-type": "application/json" },
  body: JSON.stringify({ event: "alert", data: { n } }),
});
for (const [user, n] of [["ann", 1], ["bob", 2]]) assert.equal((await notify(user, n)).status, 200);
const alerts = (seen) => seen.filter(([event]) => event === "alert").map(([, { data }]) => data.n);
await until("both have theirs", () => alerts(ann.seen).length >= 1 && alerts(bob.seen).length >= 1);
// What comes later shows that nothing else came before it.
for (const one of [ann, bob]) await one.ask("subscribe", { room: "market_marks" });
await bob.ask("request", { request_id: "m", action: "publish", payload: { room: "market_marks", event: "mark", data: {} } });
const marked = ({ seen }) => seen.some(([event]) => event === "mark");
await until("marks", () => marked(ann) && marked(bob));
assert.deepEqual([alerts(ann.seen), alerts(bob.seen)], [[1], [2]]);
assert.equal(who(ann.seen).length + who(bob.seen).length, 2);
process.exit(0);
