// What the dashboard makes of what it hears: members, sums, series, alarms, rooms, the places on the map.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Alarms } from "./alarms";
import { fitted, layout } from "./layout";
import { type Alarm, type Report, type Vitals, vitals } from "./model";
import { SPAN_S, Series } from "./series";
import { LOST_MS, Store, sums, tally } from "./store";
import { Held, busiest, paged } from "./traffic";

const node = (id: string, at: number, more: Partial<Vitals> = {}): Vitals => ({
  id, kind: "node", version: "1", address: "a:1", run: 1, started_at: 0, at, draining: false, ready: true,
  connections: 12, sessions: 10, cpu_percent: 1, memory_bytes: 1, quality: 90, ...more,
});
const gateway = (id: string, at: number, unreachable: string[] = []): Vitals => ({ ...node(id, at), kind: "gateway", sessions: undefined!, clients: 5, unreachable });
const report = (id: string): Report => ({ id, run: 1, version: "1", address: "a:1", started_at: 0, draining: false, connections: 3, cpu_percent: 0, memory_bytes: 0 });
const nodes = (store: Store, now: number) => store.present(now).nodes;
const ids = (store: Store, now: number) => nodes(store, now).map(({ id, condition }) => `${id} ${condition}`);
const happened = (store: Store, event: string, id: string, now: number, run = 1, ago = 0) => store.event(event, { id, run, at: 0, text: "" }, now, ago);

/** Three nodes of which `c` is heard of last at 0, and the others until `until`. */
function dying(until: number, more: Partial<Vitals> = {}): Store {
  const store = new Store();
  store.leases({ nodes: ["a", "b", "c"].map(report), gateways: [] });
  store.hear(node("c", 1, more), 0);
  for (let at = 0; at <= until; at += 1_000) for (const id of ["a", "b"]) store.hear(node(id, 1 + at), at);
  return store;
}

test("a process is there while it is heard of or has a lease", () => {
  const store = new Store();
  assert.equal(store.known, false);
  store.hear(node("a", 1), 0);
  store.hear(node("b", 1, { draining: true }), 0);
  assert.deepEqual(ids(store, 1_000), ["a up", "b draining"]);
  store.leases({ nodes: [report("a"), report("c")], gateways: [] });
  assert.deepEqual(ids(store, 1_000), ["a up", "b draining", "c up"]);
  // Who drains and is gone has left.
  store.hear(node("a", 2), 4_000);
  assert.deepEqual(ids(store, 4_000), ["a up", "c up"]);
  store.leases({ nodes: [report("c")], gateways: [] });
  happened(store, "node_left", "a", 4_100);
  assert.deepEqual(ids(store, 4_100), ["c up"], "who left in order is gone at once");
});

test("a node of which nothing is heard while others are is lost, and its figures count no more", () => {
  const store = dying(4_000);
  assert.deepEqual(ids(store, 4_000), ["a up", "b up", "c lost"]);
  const all = nodes(store, 4_000);
  assert.deepEqual(tally(all), { total: 3, up: 2, others: [["lost", 1]] });
  assert.equal(sums(all, []).sessions, 20);
});

test("where nothing is heard of anybody nobody is lost, and no figure is of now", () => {
  const store = dying(0);
  assert.deepEqual(ids(store, 4_000), ["a silent", "b silent", "c silent"]);
  const { sessions, published, p99 } = sums(nodes(store, 4_000), []);
  assert.deepEqual([sessions, published, p99], [null, null, null]);
});

test("a node is lost at once when a gateway says that it does not answer", () => {
  const store = dying(1_000);
  store.hear(gateway("g", 600), 600);
  assert.deepEqual(ids(store, 1_000), ["a up", "b up", "c up"]);
  store.hear(gateway("g", 1_001, ["c"]), 1_000);
  // What it said before may come later.
  store.hear(node("c", 1_000), 1_050);
  assert.deepEqual(ids(store, 1_100), ["a up", "b up", "c lost"]);
  store.hear(gateway("g", 2_001, ["c"]), 2_000);
  assert.deepEqual(ids(store, 2_000), ["a up", "b up", "c lost"]);
  // It lives, and only that gateway does not reach it.
  store.hear(node("c", 2_500), 2_500);
  assert.deepEqual(ids(store, 2_600), ["a up", "b up", "c up"]);
  store.hear(gateway("g", 3_001, ["c"]), 3_000);
  assert.deepEqual(ids(store, 3_000), ["a up", "b up", "c up"]);
});

test("what a gateway said that is silent itself does not count", () => {
  const store = dying(5_000);
  store.hear(gateway("g", 1_000, ["b"]), 1_000);
  assert.deepEqual(ids(store, 5_000), ["a up", "b up", "c lost"]);
  assert.deepEqual(store.present(5_000).gateways.map(({ id, condition }) => `${id} ${condition}`), ["g lost"]);
});

test("a lost node stays until it is back, is dismissed, or ten minutes have passed", () => {
  const lost = (store: Store, now: number) => {
    for (const id of ["a", "b"]) store.hear(node(id, now), now);
    return ids(store, now).includes("c lost");
  };
  const store = dying(4_000);
  // Its lease ends, and the cluster tells that it is lost.
  store.leases({ nodes: ["a", "b"].map(report), gateways: [] });
  assert.ok(lost(store, 6_000));
  happened(store, "node_lost", "c", 9_000);
  assert.ok(lost(store, 9_000 + LOST_MS));
  assert.ok(!lost(store, 9_001 + LOST_MS));

  const back = dying(4_000);
  back.leases({ nodes: ["a", "b"].map(report), gateways: [] });
  happened(back, "node_lost", "c", 9_000);
  happened(back, "node_joined", "c", 9_500, 2);
  back.hear(node("c", 9_600, { run: 2 }), 9_600);
  assert.deepEqual(ids(back, 9_600).at(-1), "c up");

  const dismissed = dying(4_000);
  const kept = dismissed.dismiss("c");
  assert.ok(!lost(dismissed, 5_000));
  const reloaded = new Store(kept);
  happened(reloaded, "node_lost", "c", 0, 1, 60_000);
  assert.ok(!lost(reloaded, 0), "a page that is loaded again shows it no more");
  happened(reloaded, "node_lost", "c", 0, 2, 0);
  assert.ok(lost(reloaded, 0), "another life of it is lost anew");
});

test("a page that comes later shows who was lost, and not who is only in the log", () => {
  const store = new Store();
  store.leases({ nodes: [report("a")], gateways: [] });
  for (const id of ["a", "left", "lost"]) store.hear(node(id, 1), 0, false);
  assert.deepEqual(ids(store, 0), ["a up"]);
  happened(store, "node_left", "left", 0);
  happened(store, "node_lost", "lost", 0, 1, 9 * 60_000);
  assert.deepEqual(ids(store, 0), ["a up", "lost lost"]);
  store.hear(node("a", 61_000), 61_000);
  assert.deepEqual(ids(store, 61_000), ["a up"], "ten minutes have passed");
});

test("after events were missed nobody is taken for lost who may have left", () => {
  const store = dying(4_000);
  store.leases({ nodes: ["a", "b"].map(report), gateways: [] });
  store.anew(4_000);
  assert.deepEqual(ids(store, 4_000), ["a up", "b up"]);
});

test("what comes from the log does not replace what is newer", () => {
  const store = new Store();
  store.hear(node("a", 5, { sessions: 7 }), 100);
  store.hear(node("a", 4, { sessions: 1 }), 200);
  assert.equal(nodes(store, 300)[0]?.connections, 7);
});

test("sums count sessions of nodes, not links, and the worst latency", () => {
  const store = new Store();
  store.hear(node("a", 1, { latency_ms: { p99: 9 }, quality: 100, delivered_per_s: 5 }), 0);
  store.hear(node("b", 1, { latency_ms: null, quality: 40, sessions: 30, delivered_per_s: 7 }), 0);
  const all = sums(nodes(store, 0), []);
  assert.deepEqual([all.sessions, all.delivered, all.p99, all.quality], [40, 12, 9, 55]);
});

test("without a report there is no sum, not even nought", () => {
  const nothing = { sessions: null, clients: null, published: null, delivered: null, sentBytes: null, p99: null, quality: null };
  assert.deepEqual(sums([], []), nothing);
  const store = new Store();
  store.leases({ nodes: [report("a")], gateways: [] });
  assert.deepEqual(sums(nodes(store, 0), []), nothing);
});

test("what several parts of one process use is shown once", () => {
  const store = new Store();
  store.hear({ ...gateway("g", 1), process: 7 }, 0);
  store.hear(node("a", 1, { process: 7 }), 0);
  store.hear(node("b", 1, { process: 8 }), 0);
  store.hear(node("c", 1), 0);
  store.hear(node("d", 1), 0);
  const { gateways, nodes } = store.present(0);
  assert.deepEqual([...gateways, ...nodes].map(({ id, within }) => [id, within]), [["g", null], ["a", "g"], ["b", null], ["c", null], ["d", null]]);
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

test("what a lost node said last is in no sum of later seconds", () => {
  const series = new Series();
  for (const id of ["a", "b"]) series.add(node(id, 100_100), 100_100);
  series.add(node("a", 101_100), 101_100);
  const at = (second: number, gone: string[]) => {
    const rows = series.rows(101_500, new Set(gone));
    return rows.connections[rows.time.indexOf(second)];
  };
  assert.deepEqual([at(100, []), at(101, [])], [20, 20]);
  assert.deepEqual([at(100, ["b"]), at(101, ["b"])], [20, 10]);
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

test("the list of busy rooms does not go with one report that has none", () => {
  const room = { room: "r", messages_per_s: 1, subscribers: 1, deliveries: 1 }, held = new Held();
  assert.deepEqual(held.show([room], 0), [room]);
  assert.deepEqual(held.show([], 2_000), [room]);
  assert.deepEqual(held.show([], 3_500), []);
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
