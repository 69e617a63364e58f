// What the dashboard makes of what it hears: members, sums, series, alarms, rooms, the places on the map.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Alarms } from "./alarms";
import { fitted, layout } from "./layout";
import { type Alarm, type Report, type Vitals, vitals } from "./model";
import { SPAN_S, Series } from "./series";
import { Store, sums } from "./store";
import { busiest, paged } from "./traffic";

const node = (id: string, at: number, more: Partial<Vitals> = {}): Vitals => ({
  id, kind: "node", version: "1", address: "a:1", run: 1, started_at: 0, at, draining: false, ready: true,
  connections: 12, sessions: 10, cpu_percent: 1, memory_bytes: 1, quality: 90, ...more,
});
const report = (id: string): Report => ({ id, version: "1", address: "a:1", started_at: 0, draining: false, connections: 3, cpu_percent: 0, memory_bytes: 0 });
const ids = (store: Store, now: number) => store.present("node", now).map(({ id, condition }) => `${id} ${condition}`);

test("a process is there while it is heard of or has a lease", () => {
  const store = new Store();
  store.hear(node("a", 1), 0);
  store.hear(node("b", 1, { draining: true }), 0);
  assert.deepEqual(ids(store, 1_000), ["a up", "b draining"]);
  // Not heard of for three seconds: `a` has a lease still, `b` has none.
  store.leases({ nodes: [report("a"), report("c")], gateways: [] }, 4_000);
  assert.deepEqual(ids(store, 4_000), ["a silent", "c up"]);
  store.leases({ nodes: [report("c")], gateways: [] }, 9_000);
  assert.deepEqual(ids(store, 9_000), ["c up"]);
});

test("what comes from the log does not replace what is newer", () => {
  const store = new Store();
  store.hear(node("a", 5, { sessions: 7 }), 100);
  store.hear(node("a", 4, { sessions: 1 }), 200);
  assert.equal(store.present("node", 300)[0]?.connections, 7);
});

test("sums count sessions of nodes, not links, and the worst latency", () => {
  const store = new Store();
  store.hear(node("a", 1, { latency_ms: { p99: 9 }, quality: 100, delivered_per_s: 5 }), 0);
  store.hear(node("b", 1, { latency_ms: null, quality: 40, sessions: 30, delivered_per_s: 7 }), 0);
  const all = sums(store.present("node", 0), []);
  assert.deepEqual([all.sessions, all.delivered, all.p99, all.quality], [40, 12, 9, 55]);
  assert.equal(sums([], []).quality, null);
});

test("series sum over nodes, hold over a late message, and say nothing where nothing was said", () => {
  const series = new Series();
  for (const at of [100_100, 101_100, 103_100]) series.add(node("a", at, { quality_counts: [1, 0, 0, 0, 0, 0, 0, 0, 0, 3] }), at);
  series.add(node("b", 101_900), 103_100);
  series.add(node("b", 101_900), 103_100);
  const rows = series.rows(109_000);
  assert.equal(rows.time.length, SPAN_S);
  const at = (second: number) => rows.connections[rows.time.indexOf(second)];
  assert.deepEqual([99, 100, 101, 102, 103, 104, 107, 109].map(at), [null, 10, 20, 20, 20, 10, null, null]);
  assert.deepEqual(rows.quality.map((band) => band[rows.time.indexOf(100)]), [25, 0, 0, 75]);
});

test("what is kept of the past is bounded whether it is drawn or not", () => {
  const series = new Series();
  for (let second = 0; second < 10 * SPAN_S; second += 1) {
    const now = second * 1_000;
    for (const id of ["a", "b"]) series.add(node(id, now), now);
    // Clocks that are hours off, and nodes that come and go.
    series.add(node("ahead", now + 3_600_000), now);
    series.add(node("behind", now - 3_600_000), now);
    series.add(node(`gone-${second}`, now), now);
    assert.ok(series.size <= 3 * (SPAN_S + 6), `${series.size} at ${second}`);
  }
  const { connections } = series.rows(10 * SPAN_S * 1_000 - 1);
  assert.ok(connections.every((value) => value !== null && value >= 20), "all that charts show is there");
});

const alarm = (id: string, more: Partial<Alarm> = {}): Alarm => ({
  id, rule: "node_lost", severity: "warning", subject: "", state: "firing", since: 1, at: 1, value: 1, threshold: 0, unit: "", text: id,
  acknowledged_by: null, acknowledged_at: null, change: 1, ...more,
});
const states = (alarms: Alarms) => [...alarms.firing(), ...alarms.resolved(0)].map(({ id, state }) => `${id} ${state}`);

test("a newer alarm of the same id replaces it; only its beginning and end are news", () => {
  const alarms = new Alarms();
  assert.equal(alarms.tell(alarm("a"), 1), true);
  assert.equal(alarms.tell(alarm("a", { at: 2, acknowledged_by: "me" }), 2), false);
  assert.equal(alarms.tell(alarm("a", { at: 1 }), 1), false);
  alarms.tell(alarm("b", { severity: "critical", at: 3 }), 3);
  alarms.tell(alarm("c", { at: 3 }), 4);
  assert.deepEqual(alarms.firing().map(({ id }) => id), ["b", "c", "a"]);
  assert.equal(alarms.tell(alarm("b", { state: "resolved", at: 4, change: 2 }), 5), true);
  assert.deepEqual(alarms.firing().map(({ id }) => id), ["c", "a"]);
  assert.deepEqual(alarms.resolved(5).map(({ id }) => id), ["b"]);
  assert.deepEqual(alarms.resolved(60 * 60_000), []);
});

test("an alarm ends and is acknowledged by the order of its log, whatever clock told it", () => {
  const alarms = new Alarms();
  alarms.tell(alarm("a", { since: 90, at: 100 }), 7);
  alarms.tell(alarm("b", { since: 90, at: 100 }), 8);
  // The node that goes on has a clock that is behind.
  assert.equal(alarms.tell(alarm("a", { since: 90, at: 50, state: "resolved", change: 2 }), 9), true);
  alarms.tell(alarm("b", { since: 90, at: 50, acknowledged_by: "me", acknowledged_at: 50 }), 10);
  assert.deepEqual(states(alarms), ["b firing", "a resolved"]);
  assert.equal(alarms.firing()[0]?.acknowledged_by, "me");
  // It begins again, and what comes once more of the log changes nothing.
  assert.equal(alarms.tell(alarm("a", { since: 60, at: 60 }), 11), true);
  assert.equal(alarms.tell(alarm("a", { since: 90, at: 50, state: "resolved", change: 2 }), 9), false);
  assert.deepEqual(states(alarms), ["a firing", "b firing"]);
  // Another life of the log counts from 1 again.
  alarms.anew();
  assert.equal(alarms.tell(alarm("b", { since: 90, at: 51, state: "resolved", change: 2, acknowledged_by: "me" }), 1), true);
  assert.deepEqual(states(alarms), ["a firing", "b resolved"]);
});

test("the API's answer tells what the log does not, and does not undo what it has told since", () => {
  const over = alarm("a", { at: 50, state: "resolved", change: 2 });
  for (const order of ["answer", "log"]) {
    const alarms = new Alarms();
    // The answer was given before the alarm was over, and by a clock that is ahead.
    const answer = () => alarms.answer([alarm("a", { at: 100 }), alarm("old", { at: 3 })]);
    const log = () => {
      alarms.tell(alarm("a", { at: 100 }), 1);
      alarms.tell(over, 2);
    };
    if (order === "answer") { answer(); log(); } else { log(); answer(); }
    assert.deepEqual(states(alarms), ["old firing", "a resolved"], order);
    assert.equal(alarms.tell(over, 2), false);
  }
  const alarms = new Alarms();
  alarms.answer([alarm("a", { at: 100 })]);
  assert.equal(alarms.tell(over, 9), true, "its beginning is no more in what the log told");
});

test("a room's messages are the same at every node, its subscribers are not", () => {
  const top = (subscribers: number, messages_per_s: number) => ({ top_rooms: [{ room: "r", subscribers, messages_per_s }] });
  const found = busiest([node("a", 1, top(3, 10)), node("b", 1, top(4, 9.5)), node("c", 1)], 20);
  assert.deepEqual(found, [{ room: "r", messages_per_s: 10, subscribers: 7, deliveries: 70 }]);
});

test("a page behind the end is the last", () => {
  const list = Array.from({ length: 51 }, (_, i) => i);
  assert.deepEqual(paged(list, 9, 25), { items: [50], page: 2, pages: 3 });
  assert.deepEqual(paged([], 0, 25), { items: [], page: 0, pages: 1 });
});

test("on the map no two boxes meet and none is outside, on a phone and with fifty nodes", () => {
  for (const [width, gateways, nodes] of [[328, 2, 3], [328, 1, 50], [900, 2, 3], [900, 3, 50], [900, 0, 1], [1200, 0, 0]] as const) {
    const named = (kind: string, n: number) => Array.from({ length: n }, (_, i) => `${kind}${i}`);
    const map = layout(width, named("g", gateways), named("n", nodes));
    const boxes = [...map.gateways, ...map.nodes];
    assert.equal(boxes.length, gateways + nodes);
    for (const box of boxes) {
      assert.ok(box.x >= 12 && box.x + map.size.width <= width, `${box.id} at ${box.x} of ${width}`);
      assert.ok(box.y >= 0 && box.y + map.size.height <= map.height, `${box.id} at ${box.y} of ${map.height}`);
      assert.ok(map.branches.has(box.id));
      for (const other of boxes) {
        const apart = Math.abs(box.x - other.x) >= map.size.width || Math.abs(box.y - other.y) >= map.size.height;
        assert.ok(box === other || apart, `${box.id} and ${other.id} at ${width}`);
      }
    }
  }
});

test("of a long name the end is kept", () => {
  assert.equal(fitted("node-1", 10), "node-1");
  assert.equal(fitted("node-abcdef-12345", 9), "node…2345");
});

test("what is no message of a process is not taken for one", () => {
  for (const wrong of [null, 1, "a", {}, { id: "a", at: 1 }, { id: "a", at: "1", kind: "node" }]) assert.equal(vitals(wrong), null);
  assert.equal(vitals({ id: "a", at: 1, kind: "gateway" })?.id, "a");
});
