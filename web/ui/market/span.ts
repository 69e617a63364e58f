// What of a chart there is to draw, and over which time. Pure.

export type Mode = "ticks" | "bars";

/** Least width of a chart of ticks, and of bars, in seconds: with less, all of its time labels would be the same. */
const TICKS_S = 10;
const BARS_S = 29 * 60;

/** Whether so many points make a chart. A single tick is no line; a single bar can be drawn. */
export function drawable(mode: Mode, points: number): boolean {
  return points >= (mode === "ticks" ? 2 : 1);
}

/** From when to when the chart goes, in seconds: at least ten seconds, and of bars half an hour. */
export function range(mode: Mode, first: number, last: number): [number, number] {
  if (mode === "ticks") return [Math.min(first, last - TICKS_S), last];
  return [Math.min(first, last - BARS_S) - 30, last + 60];
}
