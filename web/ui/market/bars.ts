// One-minute bars of a symbol: those of the time-series store, and those that the room `kline_<symbol>_1m` tells as they grow.
// Pure. There is one bar for each beginning, and what was told last counts: what the room says is newer than any answer of the
// store, which lags it by moments.

export interface Bar {
  /** UTC milliseconds. */
  readonly start: number;
  readonly open: number;
  readonly high: number;
  readonly low: number;
  readonly close: number;
  readonly volume: number;
  readonly closed: boolean;
}

/** Bars that are kept. */
export const MOST = 180;

export class Bars {
  readonly #stored = new Map<number, Bar>();
  readonly #live = new Map<number, { seq: number; bar: Bar }>();
  #list: Bar[] | null = null;

  /** An answer of the store. */
  store(bars: readonly Bar[]): void {
    this.#stored.clear();
    for (const bar of bars) this.#stored.set(bar.start, bar);
    this.#list = null;
  }

  /** A message of the room. `bar_update` and `bar_close` are conflated apart, so an older one may come after a newer. */
  tell(bar: Bar, seq: number): void {
    const known = this.#live.get(bar.start);
    if (known && known.seq > seq) return;
    this.#live.set(bar.start, { seq, bar });
    this.#list = null;
  }

  /** Messages of the room may be missing: what it said is no newer than the store any more. */
  anew(): void {
    for (const [start, { bar }] of this.#live) this.#stored.set(start, bar);
    this.#live.clear();
    this.#list = null;
  }

  /** In order of time, the newest `MOST`. */
  list(): readonly Bar[] {
    if (this.#list) return this.#list;
    const all = new Map(this.#stored);
    for (const [start, { bar }] of this.#live) all.set(start, bar);
    const list = [...all.values()].sort((a, b) => a.start - b.start).slice(-MOST);
    const oldest = list[0]?.start ?? 0;
    for (const start of this.#live.keys()) if (start < oldest) this.#live.delete(start);
    for (const start of this.#stored.keys()) if (start < oldest) this.#stored.delete(start);
    this.#list = list;
    return list;
  }
}

/** What a bar was told as, or null for anything else. */
export function bar(data: unknown): Bar | null {
  const it = data as Partial<Bar> | null;
  const good = it !== null && typeof it === "object"
    && [it.start, it.open, it.high, it.low, it.close].every((value) => typeof value === "number" && Number.isFinite(value));
  return good ? ({ volume: 0, closed: false, ...it } as Bar) : null;
}
