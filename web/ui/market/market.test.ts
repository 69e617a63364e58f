import assert from "node:assert/strict";
import { test } from "node:test";
import { decoded } from "./address";
import { type Bar, Bars, MOST, bar } from "./bars";
import { Day, shown } from "./day";
import { Quote, TICKS, begin } from "./quotes";
import { drawable, range } from "./span";

const MINUTE = 60_000;
const at = (minute: number, close: number, closed = false): Bar => ({ start: minute * MINUTE, open: 1, high: 9, low: 1, close, volume: 0, closed });
const told = (bars: Bars) => bars.list().map(({ start, close }) => `${start / MINUTE}:${close}`);

test("bars of the store and of the room are one row of bars, whichever comes first", () => {
  for (const first of ["store", "room"]) {
    const bars = new Bars();
    // The store lags: its last bar is open still, the room has closed it and begun the next.
    const store = () => bars.store([at(1, 1, true), at(2, 2, true), at(3, 30)]);
    const room = () => {
      bars.tell(at(3, 35), 7);
      bars.tell(at(4, 40), 8);
      bars.tell(at(3, 33, true), 9);
    };
    if (first === "store") { store(); room(); } else { room(); store(); }
    assert.deepEqual(told(bars), ["1:1", "2:2", "3:33", "4:40"], first);
  }
});

test("an update that comes after the bar's end does not open it again", () => {
  const bars = new Bars();
  bars.tell(at(3, 33, true), 9);
  bars.tell(at(3, 32), 8);
  assert.deepEqual(told(bars), ["3:33"]);
  // A late tick revises it.
  bars.tell(at(3, 31, true), 12);
  assert.deepEqual(told(bars), ["3:31"]);
});

test("after a gap the store says what was missed", () => {
  const bars = new Bars();
  bars.store([at(1, 1, true)]);
  bars.tell(at(2, 2), 90);
  bars.anew();
  bars.tell(at(5, 5), 3);
  bars.store([at(1, 1, true), at(2, 22, true), at(3, 3, true), at(4, 4, true)]);
  assert.deepEqual(told(bars), ["1:1", "2:22", "3:3", "4:4", "5:5"]);
});

test("old bars go", () => {
  const bars = new Bars();
  for (let minute = 0; minute < MOST + 10; minute += 1) bars.tell(at(minute, minute), minute);
  assert.equal(bars.list().length, MOST);
  assert.equal(bars.list()[0]?.start, 10 * MINUTE);
});

test("what is no bar is not taken for one", () => {
  for (const wrong of [null, {}, { start: 1, open: 1, high: 1, low: 1 }, { ...at(1, 1), close: "1" }]) assert.equal(bar(wrong), null);
  assert.equal(bar(at(1, 1))?.start, MINUTE);
});

const message = (seq: number, data: object, conflated = 0) => ({ room: "market_A", event: "quote", seq, timestamp: seq, data, conflated });

test("a quote keeps what a message does not say", () => {
  const quote = new Quote("A");
  quote.take(message(1, { bid_price: 1.5, ask_price: 1.75, ask_volume: 3 }));
  quote.take(message(2, { price: 1.6, volume: 2 }, 4));
  assert.deepEqual([quote.bid, quote.ask, quote.last, quote.askVolume, quote.decimals, quote.conflated], [1.5, 1.75, 1.6, 3, 2, 4]);
  assert.deepEqual(quote.ticks.map(({ price }) => price), [1.625, 1.6]);
  quote.take(message(3, { bid_price: 1.4 }));
  assert.deepEqual([quote.moved.bid, quote.moved.ask, quote.price], ["down", null, 1.4]);
});

test("a message is taken once, and the list of ticks is bounded", () => {
  const quote = new Quote("A");
  for (let seq = 1; seq <= TICKS + 5; seq += 1) quote.take(message(seq, { price: seq }));
  quote.take(message(3, { price: 3 }));
  assert.equal(quote.ticks.length, TICKS);
  assert.equal(quote.price, TICKS + 5);
  begin(quote);
  quote.take(message(1, { price: 77 }));
  assert.equal(quote.price, 77);
});

test("an address that encodes nothing names no symbol, and stops nothing", () => {
  assert.deepEqual(["", "#", "#EURUSD", "#BRK%2FB", "#%", "#%E4%BD"].map(decoded), ["", "", "EURUSD", "BRK/B", "", ""]);
});

test("change is measured from the day's open, and not from what this tab has seen", () => {
  const day = new Day(), quote = new Quote("A");
  quote.take(message(1, { price: 110 }));
  quote.take(message(2, { price: 121 }));
  assert.equal(day.change(quote.price), null, "nothing is known of the day");
  day.store({ ...at(0, 120), open: 100 });
  assert.equal(Math.round(day.change(quote.price)!), 21);
  // The store answers with nothing: what is known stays.
  day.store(null);
  assert.equal(day.open, 100);
  assert.equal(day.change(null), null);
});

test("the store is asked for the day until it has one, and again when the next may have begun", () => {
  const hour = 60 * MINUTE, day = new Day();
  const times = (quoted: (now: number) => number, from: number, to: number) => {
    let asked = 0;
    for (let now = from; now < to; now += 1_000) {
      if (!day.due(quoted(now), now)) continue;
      day.asked(now);
      asked += 1;
    }
    return asked;
  };
  const live = (now: number) => now;
  assert.equal(times(live, 0, 30_000), 6);
  assert.equal(times(live, 30_000, 600_000), 9, "slower where it has none");
  day.store(at(0, 1));
  assert.equal(times(live, 600_000, 23 * hour), 0);
  assert.equal(times(live, 24 * hour, 24 * hour + 30_000), 6, "the day is over");
  day.store(at(24 * 60, 1));
  assert.equal(times(live, 25 * hour, 26 * hour), 0);
  assert.equal(times(() => 30 * hour, 26 * hour, 90 * hour), 0, "on days without quotes there is no new day");
});

test("a change that rounds to nothing has no sign and no colour", () => {
  assert.deepEqual([-0.004, -0, 0, 0.0049].map(shown), Array(4).fill({ text: "0.00 %", sign: "flat" }));
  assert.deepEqual(shown(-0.006), { text: "−0.01 %", sign: "down" });
  assert.deepEqual(shown(1.234), { text: "+1.23 %", sign: "up" });
  assert.deepEqual(shown(null), { text: "–", sign: "flat" });
});

test("one tick is no chart, and the axis of few spans more than one second", () => {
  assert.deepEqual([0, 1, 2].map((points) => drawable("ticks", points)), [false, false, true]);
  assert.deepEqual([0, 1].map((points) => drawable("bars", points)), [false, true]);
  assert.deepEqual(range("ticks", 100, 100), [90, 100]);
  assert.deepEqual(range("ticks", 40, 100), [40, 100]);
  const [from, to] = range("bars", 3_600, 3_600);
  assert.ok(to - from >= 1_800 && from < 3_600 && to > 3_600);
});
