// The client against a socket of this file: what it says, and what it makes of answers.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { Account } from "./account";
import { type ApiError, api, reason } from "./api";
import { backoff } from "./backoff";
import { describe } from "./describe";
import { Format } from "./format";
import { phrase } from "./i18n";
import { Connection, type Message, type Socket, type State } from "./protocol";
import { shared } from "./texts";

class Fake implements Socket {
  readyState = 1;
  onmessage: Socket["onmessage"] = null;
  onclose: Socket["onclose"] = null;
  readonly sent: Record<string, unknown>[] = [];
  send(text: string): void {
    this.sent.push(JSON.parse(text) as Record<string, unknown>);
  }
  close(): void {
    this.readyState = 3;
  }
  says(message: unknown): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
  greet(): void {
    this.says({ type: "notification", room: "", event: "connected", seq: 0, data: { session_id: "s", node_id: "n1" } });
  }
  /** Answers the newest subscription of a room. */
  admit(room: string, answer: object): void {
    const asked = this.sent.filter((one) => one.type === "subscribe" && one.room === room).at(-1);
    this.says({ type: "response", request_id: asked?.request_id, success: true, data: { room, recovered: false, messages: [], ...answer } });
  }
  ends(code: number, reason = ""): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}

let sockets: Fake[] = [];
let states: State[] = [];
let connection: Connection;
const newest = () => sockets.at(-1)!;

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  sockets = [];
  states = [];
  connection = new Connection(() => {
    sockets.push(new Fake());
    return newest();
  }, (state) => states.push(state));
  connection.start();
});
afterEach(() => {
  connection.stop();
  mock.timers.reset();
});

function follow(room: string, options = {}): { seen: Message[]; anew: number; refused: string[] } {
  const got = { seen: [] as Message[], anew: 0, refused: [] as string[] };
  connection.follow(room, options, {
    message: (message) => got.seen.push(message),
    anew: () => { got.anew += 1; },
    refused: (text) => got.refused.push(text),
  });
  return got;
}
const quote = (seq: number, more = {}) => ({ type: "notification", room: "r", event: "q", seq, timestamp: 0, data: {}, ...more });

test("a room begins with its past, and goes on where it stopped after the connection was lost", () => {
  const got = follow("r", { history: 2 });
  newest().greet();
  assert.equal(newest().sent[0]?.history, 2);
  newest().admit("r", { epoch: "e", seq: 4, messages: [quote(3), quote(4)] });
  newest().says(quote(5));
  newest().says([quote(6), quote(7)]);
  assert.deepEqual(got.seen.map(({ seq }) => seq), [3, 4, 5, 6, 7]);

  newest().ends(1006);
  assert.equal(connection.state.phase, "waiting");
  mock.timers.tick(500);
  newest().greet();
  assert.equal(connection.state.recovery, "running");
  assert.deepEqual(newest().sent[0]?.recover, { epoch: "e", seq: 7 });
  assert.equal(newest().sent[0]?.history, undefined);
  newest().admit("r", { epoch: "e", seq: 8, recovered: true, messages: [quote(8)] });
  assert.equal(connection.state.recovery, "gapless");
  assert.equal(got.anew, 0);
  assert.equal(sockets.length, 2);
});

test("what cannot be recovered is told", () => {
  const got = follow("r");
  newest().greet();
  newest().admit("r", { epoch: "e", seq: 4 });
  newest().ends(1006);
  mock.timers.tick(500);
  newest().greet();
  newest().admit("r", { epoch: "f", seq: 1, recovered: false });
  assert.equal(connection.state.recovery, "anew");
  assert.equal(got.anew, 1);
  newest().says({ ...quote(2), event: "resync", data: { epoch: "g", seq: 10 } });
  newest().says(quote(11));
  mock.timers.tick(25_000);
  assert.equal(got.anew, 2);
  assert.equal(connection.totals().lost, 0);
});

test("conflated is told from lost", () => {
  follow("r", { delivery: "latest", max_rate: 1 });
  newest().greet();
  newest().admit("r", { epoch: "e", seq: 0 });
  newest().says(quote(3, { conflated: 2 }));
  // Number 4 waits for its turn, and comes later.
  newest().says(quote(5));
  mock.timers.tick(5_000);
  newest().says(quote(4));
  mock.timers.tick(20_000);
  assert.deepEqual(connection.totals(), { received: 3, conflated: 2, lost: 0 });
});

test("an account counts what never came", () => {
  const account = new Account();
  account.begin({ epoch: "e", seq: 10 });
  account.take(13, 0);
  const window = (looks: number) => {
    for (let i = 0; i < looks; i += 1) account.look();
    account.close();
    return account.lost;
  };
  // Neither a single look, as in a tab that is not seen, nor many such windows say that it will not come.
  assert.deepEqual(Array.from({ length: 20 }, () => window(1)), Array(20).fill(0));
  assert.equal(window(50), 2);
  assert.equal(window(50), 2);
});

test("what waits for its turn is not lost in a tab whose timers fire once a minute", () => {
  const account = new Account();
  account.begin({ epoch: "e", seq: 0 });
  for (let minute = 1; minute <= 5; minute += 1) {
    // Number 3 has overtaken number 2 whenever it is looked.
    account.take(3 * minute - 2, 0);
    account.take(3 * minute, 0);
    account.look();
    account.close();
    account.take(3 * minute - 1, 0);
  }
  for (let i = 0; i < 50; i += 1) account.look();
  account.close();
  assert.equal(account.lost, 0);
});

test("a token that is not accepted is not tried again", () => {
  newest().says({ type: "error", error_code: "AUTH_FAILED", error_message: "no such key" });
  newest().ends(4001);
  mock.timers.tick(60_000);
  assert.equal(connection.state.phase, "refused");
  assert.equal(connection.state.why, "no such key");
  assert.equal(sockets.length, 1);
});

test("a room that is refused is asked for again only where that can help", () => {
  const got = follow("r");
  newest().greet();
  const last = () => newest().sent.filter(({ type }) => type === "subscribe").at(-1);
  const refuse = (code: string) => newest().says({ type: "error", request_id: last()?.request_id, error_code: code, error_message: code });
  refuse("SERVICE_UNAVAILABLE");
  mock.timers.tick(2_000);
  const asked = () => newest().sent.filter(({ type }) => type === "subscribe").length;
  assert.equal(asked(), 2);
  refuse("PERMISSION_DENIED");
  mock.timers.tick(10_000);
  assert.equal(asked(), 2);
  assert.deepEqual(got.refused, ["PERMISSION_DENIED"]);
});

test("a room that is refused after a reconnect does not keep the others from having caught up", () => {
  for (const room of ["r", "other"]) follow(room);
  newest().greet();
  for (const room of ["r", "other"]) newest().admit(room, { epoch: "e", seq: 4 });
  newest().ends(1006);
  mock.timers.tick(500);
  newest().greet();
  newest().admit("r", { epoch: "e", seq: 4, recovered: true });
  assert.equal(connection.state.recovery, "running");
  const asked = newest().sent.filter(({ room }) => room === "other").at(-1);
  newest().says({ type: "error", request_id: asked?.request_id, error_code: "PERMISSION_DENIED", error_message: "" });
  assert.equal(connection.state.recovery, "anew");
});

test("why a connection ended is told in words of the page, not of a protocol or a browser", () => {
  const told = (code: number, reason = "") => {
    newest().ends(code, reason);
    const [, words] = describe(connection.state, Date.now(), true, (key, values = {}) => phrase(shared[key][0], values, new Format("en")));
    mock.timers.tick(60_000);
    return words.replace(/[\d.]+ s$/, "0 s");
  };
  const lost = "connection lost, retrying in 0 s";
  assert.equal(told(1006), lost);
  assert.equal(told(1011, "internal error: Os { code: 32 }"), lost);
  assert.equal(told(1001, "going away"), "connection lost (the server is restarting), retrying in 0 s");
  assert.equal(told(1013), "connection lost (the server is overloaded), retrying in 0 s");
});

test("what a browser says of a failed request is not shown", async (context) => {
  const texts = (error: ApiError) => reason(error, (key, values = {}) => phrase(shared[key][0], values, new Format("en")));
  const outcome = async (answer: () => Promise<Response>) => {
    context.mock.method(globalThis, "fetch", answer);
    return api("rooms").then(() => "fine", (error: ApiError) => texts(error));
  };
  Object.assign(globalThis, { sessionStorage: { getItem: () => null }, location: { href: "http://h/" } });
  assert.equal(await outcome(() => Promise.reject(new TypeError("Failed to fetch"))), "the server does not answer");
  assert.equal(await outcome(() => Promise.reject(new DOMException("signal timed out", "TimeoutError"))), "the server does not answer");
  assert.equal(await outcome(() => Promise.resolve(new Response("{\"rooms\": [", { status: 200 }))), "the server does not answer");
  assert.equal(await outcome(() => Promise.resolve(new Response("<h1>Bad Gateway</h1>", { status: 502 }))), "the server answered with status 502");
  const denied = JSON.stringify({ error_code: "PERMISSION_DENIED", error_message: "role operator is needed" });
  assert.equal(await outcome(() => Promise.resolve(new Response(denied, { status: 403 }))), "role operator is needed");
});

test("attempts come later and later, never all at once, and not before the server wants them", () => {
  assert.equal(backoff(0, 1), 250);
  assert.equal(backoff(0, 0), 125);
  assert.equal(backoff(3, 1), 2_000);
  assert.equal(backoff(1_000, 1), 10_000);
  assert.equal(backoff(0, 0.5, 4_000), 4_000);
});

test("the server says when it wants its clients back", () => {
  newest().greet();
  newest().says({ type: "notification", room: "", event: "going_away", seq: 0, data: { retry_after_ms: 3_000 } });
  newest().ends(1001);
  mock.timers.tick(2_900);
  assert.equal(sockets.length, 1);
  mock.timers.tick(200);
  assert.equal(sockets.length, 2);
});

test("a connection that was cut comes back after its time", () => {
  newest().greet();
  connection.cut(3_000);
  assert.equal(connection.state.phase, "waiting");
  mock.timers.tick(2_900);
  assert.equal(sockets.length, 1);
  mock.timers.tick(200);
  assert.equal(sockets.length, 2);
});
