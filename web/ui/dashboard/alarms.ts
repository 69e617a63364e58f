// Alarms as they are told, and which of them are shown. Pure.
//
// What the log tells has the order of the log: whoever looks after alarms tells them by its own clock, and the next one's may
// be behind. The API's answer has no place in the log; it is held against the log by how far an alarm has come.

import type { Alarm } from "./model";

/** How long a resolved alarm stays, in milliseconds. */
const RESOLVED_MS = 15 * 60_000;
/** Most of them. */
const RESOLVED_MAX = 5;

/** 0 where the alarm is not from the log as it is now: numbers of a log begin with 1. */
interface Noted {
  readonly alarm: Alarm;
  readonly seq: number;
}

/** Below 0 where `a` has come less far than `b`, as the cluster itself sees it. */
function compare(a: Alarm, b: Alarm): number {
  const seen = (alarm: Alarm) => (alarm.acknowledged_by === null ? 0 : 1);
  return a.since - b.since || a.change - b.change || seen(a) - seen(b);
}

export class Alarms {
  readonly #byId = new Map<string, Noted>();
  /** Which alarms fire is known: without, that there are none would be a guess. */
  known = false;

  /**
   * A message of the log, from its past or live: the one with the greater `seq` replaces the other of the same id. True if that
   * is news to somebody who listens: it began, or is over.
   */
  tell(alarm: Alarm, seq: number): boolean {
    const before = this.#byId.get(alarm.id);
    if (before && (before.seq > 0 ? before.seq >= seq : compare(before.alarm, alarm) > 0)) return false;
    this.#byId.set(alarm.id, { alarm, seq });
    return before?.alarm.state !== alarm.state || before.alarm.since !== alarm.since;
  }

  /** The API's answer, which may be older than what the log has told meanwhile. */
  answer(alarms: readonly Alarm[]): void {
    this.known = true;
    for (const alarm of alarms) {
      const before = this.#byId.get(alarm.id);
      if (!before || compare(before.alarm, alarm) < 0) this.#byId.set(alarm.id, { alarm, seq: before?.seq ?? 0 });
    }
  }

  /** Another life of the log: its numbers begin again. */
  anew(): void {
    for (const [id, { alarm }] of this.#byId) this.#byId.set(id, { alarm, seq: 0 });
  }

  #all(): Alarm[] {
    return [...this.#byId.values()].map(({ alarm }) => alarm);
  }

  firing(): Alarm[] {
    const grade = (alarm: Alarm) => (alarm.severity === "critical" ? 0 : 1) + (alarm.acknowledged_by === null ? 0 : 2);
    return this.#all().filter((alarm) => alarm.state === "firing").sort((a, b) => grade(a) - grade(b) || b.since - a.since);
  }

  /** Those that were over a short time ago, the newest first. */
  resolved(now: number): Alarm[] {
    const recent = this.#all().filter((alarm) => alarm.state === "resolved" && now - alarm.at < RESOLVED_MS);
    return recent.sort((a, b) => b.at - a.at).slice(0, RESOLVED_MAX);
  }
}
