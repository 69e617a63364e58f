import assert from "node:assert/strict";
import { test } from "node:test";
import { Format, decimals } from "./format";
import { phrase } from "./i18n";

const format = new Format("en");

test("numbers have units, and as many digits as can be read", () => {
  assert.equal(format.bytes(0), "0 B");
  assert.equal(format.bytes(1_536), "1.5 KiB");
  assert.equal(format.bytes(536_870_912), "512 MiB");
  assert.equal(format.ms(1.24), "1.2 ms");
  assert.equal(format.ms(250), "250 ms");
  assert.equal(format.ms(12_300), "12.3 s");
  assert.equal(format.short(9_999), "9,999");
  assert.equal(format.short(12_345), "12.3K");
  assert.equal(format.rate(0.5), "0.5");
  assert.equal(format.percent(42.5), "43 %");
});

test("what is not known is a dash, not a nought", () => {
  for (const value of [null, undefined, Number.NaN]) {
    assert.deepEqual([format.count(value), format.ms(value), format.bytes(value), format.rate(value)], ["–", "–", "–", "–"]);
  }
});

test("spans have their two largest units", () => {
  assert.equal(format.span(0), "0 s");
  assert.equal(format.span(61_000), "1 min 1 s");
  assert.equal(format.span(3_600_000), "1 h");
  assert.equal(format.span(90_061_000), "1 d 1 h");
});

test("prices keep the digits that they were written with", () => {
  assert.deepEqual([1, 1.5, 0.00001302, 1e-7].map(decimals), [0, 1, 8, 7]);
});

test("a text has the form that its number asks for", () => {
  const moved = "{gateway} moved {n} session|{gateway} moved {n} sessions";
  const told = (n: number) => phrase(moved, { n, gateway: "g1" }, format);
  assert.deepEqual([0, 1, 2, 1_500].map(told), ["g1 moved 0 sessions", "g1 moved 1 session", "g1 moved 2 sessions", "g1 moved 1,500 sessions"]);
  assert.equal(phrase("{n} 个会话", { n: 1 }, format), "1 个会话");
  assert.equal(phrase("{what} of {n}", { n: "12" }, format), "{what} of 12");
});
