// How far a price has moved since the day's open. Pure: times are parameters, in UTC milliseconds.
//
// The open is that of the newest day bar in the time-series store: what a tab has seen by itself differs from viewer to viewer
// and is not used.

import type { Bar } from "./bars";

const HOUR = 3_600_000;
/** A day with the shortest clock change. What is quoted later may belong to the next one. */
const SHORTEST = 23 * HOUR;
const USUAL = 24 * HOUR;
/** How soon the store is asked again where it should have a new day by now, and where that is only possible. */
const SOON = 5_000;
const LATER = 60_000;
/** For how long after its usual end the next day is expected at any moment. */
const EXPECTED = 120_000;
/** So often a symbol without any day is asked for at the quicker pace. */
const PATIENCE = 6;

export class Day {
  #bar: Pick<Bar, "start" | "open"> | null = null;
  #asked = -Infinity;
  #times = 0;

  /** The first price of the day; null where that is not known. */
  get open(): number | null {
    return this.#bar?.open ?? null;
  }

  /** The store's newest day bar. */
  store(bar: Bar | null): void {
    if (bar && bar.open > 0) this.#bar = bar;
  }

  /** In percent; null where the day's open or the price is not known. */
  change(price: number | null): number | null {
    const open = this.open;
    return open === null || price === null ? null : (100 * (price - open)) / open;
  }

  /** Whether the store is to be asked now. `quoted` is the time of the symbol's newest quote; 0 without any. */
  due(quoted: number, now: number): boolean {
    const waited = now - this.#asked;
    if (!this.#bar) return waited >= (this.#times < PATIENCE ? SOON : LATER);
    const age = quoted - this.#bar.start;
    if (age < SHORTEST) return false;
    return waited >= (age >= USUAL && age < USUAL + EXPECTED ? SOON : LATER);
  }

  /** The store is being asked. */
  asked(now: number): void {
    this.#asked = now;
    this.#times += 1;
  }
}

export type Sign = "up" | "down" | "flat";

/** A change as it is shown. What rounds to nothing has no sign. */
export function shown(change: number | null): { readonly text: string; readonly sign: Sign } {
  if (change === null) return { text: "–", sign: "flat" };
  const digits = Math.abs(change).toFixed(2);
  if (Number(digits) === 0) return { text: "0.00 %", sign: "flat" };
  return change > 0 ? { text: `+${digits} %`, sign: "up" } : { text: `−${digits} %`, sign: "down" };
}
