// The past of the charts: what every node said, and the sums of it second by second. Pure.

import type { Vitals } from "./model";

/** How far back charts go, in seconds. */
export const SPAN_S = 300;
/** What is older is kept no longer, in milliseconds: no chart shows it. */
const KEPT_MS = (SPAN_S + 5) * 1_000;
/** How long what a node said holds where the next one is late, in milliseconds. */
const HOLDS_MS = 3_000;

/** Scores 0-50, 50-80, 80-90, 90-100 of `quality_counts`, which has ten steps. */
const BANDS = [[0, 5], [5, 8], [8, 9], [9, 10]] as const;

/** One row for each second; `null` where nobody said anything. */
export interface Rows {
  /** Seconds since the epoch. */
  readonly time: number[];
  readonly connections: (number | null)[];
  readonly published: (number | null)[];
  readonly delivered: (number | null)[];
  readonly p50: (number | null)[];
  readonly p95: (number | null)[];
  readonly p99: (number | null)[];
  /** Percent of the measured connections in each band, the worst first. */
  readonly quality: (number | null)[][];
}

export class Series {
  /** By node, in order of time. Bounded whether anybody looks or not: in a tab that is not seen nothing is drawn. */
  readonly #said = new Map<string, Vitals[]>();

  /** `now` in UTC milliseconds. */
  add(vitals: Vitals, now: number): void {
    this.#trim(now);
    // What is far ahead, by a clock that is wrong, would stay until its time has come.
    if (vitals.kind !== "node" || Math.abs(now - vitals.at) > KEPT_MS) return;
    let list = this.#said.get(vitals.id);
    if (!list) this.#said.set(vitals.id, (list = []));
    // From the log and live, some come twice.
    let at = list.length;
    while (at > 0 && list[at - 1]!.at > vitals.at) at -= 1;
    if (at > 0 && list[at - 1]!.at === vitals.at) return;
    list.splice(at, 0, vitals);
  }

  /** How many are kept. */
  get size(): number {
    return [...this.#said.values()].reduce((total, list) => total + list.length, 0);
  }

  #trim(now: number): void {
    const oldest = now - KEPT_MS;
    for (const [id, list] of this.#said) {
      let gone = 0;
      while (gone < list.length && list[gone]!.at < oldest) gone += 1;
      list.splice(0, gone);
      if (list.length === 0) this.#said.delete(id);
    }
  }

  /** The last `SPAN_S` seconds before `now` (UTC milliseconds). What those that are `gone` said holds no longer than its second. */
  rows(now: number, gone: ReadonlySet<string> = new Set()): Rows {
    const end = Math.floor(now / 1_000);
    const rows: Rows = {
      time: [], connections: [], published: [], delivered: [], p50: [], p95: [], p99: [], quality: BANDS.map(() => []),
    };
    const next = new Map([...this.#said.keys()].map((id) => [id, 0]));
    for (let second = end - SPAN_S + 1; second <= end; second += 1) {
      const at = (second + 1) * 1_000;
      const current: Vitals[] = [];
      for (const [id, list] of this.#said) {
        let i = next.get(id) ?? 0;
        while (i < list.length && list[i]!.at < at) i += 1;
        next.set(id, i);
        const last = list[i - 1];
        if (last && at - last.at <= (gone.has(id) ? 1_000 : HOLDS_MS)) current.push(last);
      }
      push(rows, second, current);
    }
    return rows;
  }
}

function push(rows: Rows, second: number, current: readonly Vitals[]): void {
  const any = current.length > 0;
  const sum = (of: (vitals: Vitals) => number | undefined) => (any ? current.reduce((total, one) => total + (of(one) ?? 0), 0) : null);
  const worst = (of: (vitals: Vitals) => number | null | undefined) => {
    const values = current.map(of).filter((value): value is number => typeof value === "number");
    return values.length ? Math.max(...values) : null;
  };
  rows.time.push(second);
  rows.connections.push(sum((one) => one.sessions));
  rows.published.push(sum((one) => one.published_per_s));
  rows.delivered.push(sum((one) => one.delivered_per_s));
  rows.p50.push(worst((one) => one.latency_ms?.p50));
  rows.p95.push(worst((one) => one.latency_ms?.p95));
  rows.p99.push(worst((one) => one.latency_ms?.p99));
  const bands = bandsOf(current);
  const measured = bands.reduce((total, count) => total + count, 0);
  bands.forEach((count, band) => rows.quality[band]!.push(measured > 0 ? (100 * count) / measured : null));
}

/** Connections in each band of quality. */
export function bandsOf(current: readonly Vitals[]): number[] {
  return BANDS.map(([from, to]) => current.reduce(
    (total, one) => total + (one.quality_counts ?? []).slice(from, to).reduce((sum, count) => sum + count, 0), 0));
}
