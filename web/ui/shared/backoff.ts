// How long to wait before the next attempt to connect. Pure.

const FIRST_MS = 250;
const LONGEST_MS = 10_000;

/** After so many attempts that failed; `random` is from 0 to 1, so that not all come at once. `least` is what the server asked for. */
export function backoff(attempts: number, random: number, least = 0): number {
  const wait = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempts, 16)) * (0.5 + random / 2);
  return Math.max(wait, least);
}
