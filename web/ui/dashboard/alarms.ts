// Alarms as they are told, and which of them are shown. Pure.

import type { Alarm } from "./model";

/** How long a resolved alarm stays, in milliseconds. */
const RESOLVED_MS = 15 * 60_000;
/** Most of them. */
const RESOLVED_MAX = 5;

export class Alarms {
  readonly #byId = new Map<string, Alarm>();

  /** A newer one of the same id replaces it. True if that is news to somebody who listens: it began, or is over. */
  take(alarm: Alarm): boolean {
    const before = this.#byId.get(alarm.id);
    if (before && before.at > alarm.at) return false;
    this.#byId.set(alarm.id, alarm);
    return before?.state !== alarm.state || before.since !== alarm.since;
  }

  firing(): Alarm[] {
    const grade = (alarm: Alarm) => (alarm.severity === "critical" ? 0 : 1) + (alarm.acknowledged_by === null ? 0 : 2);
    return [...this.#byId.values()].filter((alarm) => alarm.state === "firing").sort((a, b) => grade(a) - grade(b) || b.since - a.since);
  }

  /** Those that were over a short time ago, the newest first. */
  resolved(now: number): Alarm[] {
    const recent = [...this.#byId.values()].filter((alarm) => alarm.state === "resolved" && now - alarm.at < RESOLVED_MS);
    return recent.sort((a, b) => b.at - a.at).slice(0, RESOLVED_MAX);
  }
}
