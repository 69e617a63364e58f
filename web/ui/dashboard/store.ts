// Which processes there are, and how each does. Pure: times are parameters, in milliseconds of one clock.
//
// A process is there while it is heard of, or while the newest `GET /api/v1/cluster` has it. One that is gone without having
// said that it would go stays as lost: until it is back, somebody dismisses it, or ten minutes have passed. Figures of a
// process that is not heard of are of the past: they count in no sum.

import type { ClusterAnswer, ClusterEvent, Kind, Report, Vitals } from "./model";

/** Silence after which a process counts as silent. */
export const SILENT_MS = 3_000;
/** For how long a lost process is shown, as the alarm for it lasts. */
export const LOST_MS = 10 * 60_000;
/** What a process said just before a gateway missed it may be heard so much later: subscriptions to the newest value wait. */
const ON_THE_WAY_MS = 1_500;

/**
 * `silent`: nothing is heard of it nor of anybody else, so that nothing is known. `lost`: others are heard, or a gateway says
 * that it does not answer.
 */
export type Condition = "up" | "draining" | "not_ready" | "silent" | "lost";

export interface Process {
  readonly id: string;
  readonly kind: Kind;
  readonly condition: Condition;
  /** What it last said; null for one that is known by its lease or by an event alone. */
  readonly vitals: Vitals | null;
  readonly address: string;
  readonly version: string;
  readonly startedAt: number;
  readonly connections: number;
  readonly cpu: number;
  readonly memory: number;
  readonly quality: number | null;
  /** The one that shows CPU and memory, where this is another part of its process; otherwise null. */
  readonly within: string | null;
}

interface Heard {
  readonly vitals: Vitals;
  readonly at: number;
  /** It was heard live, and not only in the log of what was before this page: who is in that may be gone since long. */
  readonly live: boolean;
}

/** That a gateway does not reach a node, since then: by its clock, and by the page's. */
interface Missed {
  readonly said: number;
  readonly heard: number;
}

interface Lost {
  readonly kind: Kind;
  readonly run: number | undefined;
  readonly at: number;
}

/** Whether its figures are of now. */
export function counts({ condition }: Process): boolean {
  return condition !== "silent" && condition !== "lost";
}

export class Store {
  readonly #heard = new Map<string, Heard>();
  readonly #missed = new Map<string, Map<string, Missed>>();
  /** Runs that left in order, by id. */
  readonly #left = new Map<string, number | undefined>();
  readonly #lost = new Map<string, Lost>();
  readonly #dismissed: Set<string>;
  #leases = new Map<string, Report & { kind: Kind }>();
  #answered = false;

  /** `dismissed`: what the last `dismiss` gave, before this page was loaded again. */
  constructor(dismissed: Iterable<string> = []) {
    this.#dismissed = new Set(dismissed);
  }

  /** Something is known of the cluster. */
  get known(): boolean {
    return this.#answered || this.#heard.size > 0;
  }

  /** A process said this then; `live` unless it is from the log of what was before this page. */
  hear(vitals: Vitals, at: number, live = true): void {
    const before = this.#heard.get(vitals.id);
    // What comes from the log may be older than what was heard live.
    if (before && before.vitals.at > vitals.at) return;
    this.#heard.set(vitals.id, { vitals, at, live: live || (before?.live ?? false) });
    if (live) this.#dismissed.delete(named(vitals.id, vitals.run));
    if (vitals.kind !== "gateway") return;
    const known = this.#missed.get(vitals.id);
    const missed = (vitals.unreachable ?? []).map((id) => [id, known?.get(id) ?? { said: vitals.at, heard: at }] as const);
    this.#missed.set(vitals.id, new Map(missed));
  }

  /** What happened to a process, `ago` milliseconds before `now`. Events come in order. */
  event(event: string, { id, run }: ClusterEvent, now: number, ago: number): void {
    const [kind, what] = event.split("_");
    if (kind !== "node" && kind !== "gateway") return;
    if (what === "left") this.#left.set(id, run);
    if (what === "lost") this.#lost.set(id, { kind, run, at: now - ago });
    if (what === "joined") {
      this.#left.delete(id);
      this.#lost.delete(id);
    }
  }

  /** Events are missing: who is gone by now may have left in order. */
  anew(now: number): void {
    for (const [id, { at }] of this.#heard) {
      if (now - at > SILENT_MS && !this.#leases.has(id)) this.#heard.delete(id);
    }
  }

  /** Who has a lease now. */
  leases(answer: ClusterAnswer): void {
    const of = (kind: Kind, reports: readonly Report[]) => reports.map((report) => [report.id, { ...report, kind }] as const);
    this.#leases = new Map([...of("node", answer.nodes), ...of("gateway", answer.gateways)]);
    this.#answered = true;
  }

  /** A lost process is not to be shown any more. Gives all that are not. */
  dismiss(id: string): string[] {
    this.#dismissed.add(named(id, this.#run(id)));
    return [...this.#dismissed];
  }

  /** Those that are there or lost, gateways and nodes, each by name. */
  present(now: number): { gateways: Process[]; nodes: Process[] } {
    this.#forget(now);
    const ids = new Set([...this.#leases.keys(), ...this.#heard.keys(), ...this.#lost.keys()]);
    const anybody = [...this.#heard.keys()].some((id) => this.#isFresh(id, now));
    const all = [...ids].map((id) => this.#process(id, now, anybody)).filter((one) => one !== null);
    const of = (kind: Kind) => all.filter((one) => one.kind === kind).sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }));
    return together(of("gateway"), of("node"));
  }

  #run(id: string): number | undefined {
    return this.#heard.get(id)?.vitals.run ?? this.#lost.get(id)?.run ?? this.#leases.get(id)?.run;
  }

  #isFresh(id: string, now: number): boolean {
    const heard = this.#heard.get(id);
    return heard !== undefined && now - heard.at <= SILENT_MS && (heard.live || !this.#answered || this.#leases.has(id));
  }

  #forget(now: number): void {
    for (const [id, { at }] of this.#lost) if (now - at > LOST_MS) this.#lost.delete(id);
    for (const [id, { at }] of this.#heard) {
      if (now - at <= LOST_MS || this.#leases.has(id)) continue;
      this.#heard.delete(id);
      this.#missed.delete(id);
    }
  }

  /** A gateway that is heard says that the node does not answer it, and nothing has been heard of the node since. */
  #isMissed(id: string, heard: Heard | undefined, now: number): boolean {
    for (const [gateway, missed] of this.#missed) {
      const one = missed.get(id);
      if (!one || !this.#isFresh(gateway, now)) continue;
      if (!heard || (heard.vitals.at <= one.said && heard.at <= one.heard + ON_THE_WAY_MS)) return true;
    }
    return false;
  }

  #process(id: string, now: number, anybody: boolean): Process | null {
    const heard = this.#heard.get(id), lease = this.#leases.get(id), lost = this.#lost.get(id);
    const said = heard?.vitals ?? null;
    const fresh = this.#isFresh(id, now);
    const hasLeft = this.#left.has(id) && (this.#left.get(id) ?? this.#run(id)) === this.#run(id);
    if (hasLeft) return null;
    const missed = this.#isMissed(id, heard, now);
    const kind = said?.kind ?? lease?.kind ?? lost?.kind ?? "node";
    const isLost = lost !== undefined && (said === null || lost.run === undefined || lost.run === said.run);
    if (said && fresh && !missed) return process(id, kind, said, said, condition(said, lease));
    if (lease && !said && !missed) return process(id, kind, null, lease, condition(null, lease));
    // Who said that it goes is not lost when it is gone.
    const draining = said ? said.draining : lease?.draining;
    if (!lease && !isLost && (draining || !heard?.live)) return null;
    if (this.#dismissed.has(named(id, this.#run(id)))) return null;
    return process(id, kind, said, said ?? lease, isLost || missed || anybody ? "lost" : "silent");
  }
}

const named = (id: string, run: number | undefined) => `${id} ${run ?? ""}`;

function process(id: string, kind: Kind, vitals: Vitals | null, told: Vitals | Report | null | undefined, condition: Condition): Process {
  return {
    id,
    kind,
    condition,
    vitals,
    address: told?.address ?? "",
    version: told?.version ?? "",
    startedAt: told?.started_at ?? 0,
    // What a client would count: those of a gateway, sessions of a node.
    connections: vitals?.clients ?? vitals?.sessions ?? told?.connections ?? 0,
    cpu: told?.cpu_percent ?? 0,
    memory: told?.memory_bytes ?? 0,
    quality: told?.quality ?? null,
    within: null,
  };
}

function condition(said: Vitals | null, lease: Report | undefined): Condition {
  if (said ? said.draining : lease?.draining) return "draining";
  if (said && !said.ready) return "not_ready";
  return "up";
}

/** Of those that are one process of the operating system the first shows what that uses. */
function together(gateways: Process[], nodes: Process[]): { gateways: Process[]; nodes: Process[] } {
  const first = new Map<number, string>();
  const placed = (one: Process): Process => {
    const name = one.vitals?.process;
    if (!name || !counts(one)) return one;
    const leader = first.get(name);
    if (leader === undefined) first.set(name, one.id);
    return leader === undefined ? one : { ...one, within: leader };
  };
  return { gateways: gateways.map(placed), nodes: nodes.map(placed) };
}

export interface Sums {
  /** Sessions of nodes; null where no node tells any, as below. */
  readonly sessions: number | null;
  readonly clients: number | null;
  readonly published: number | null;
  readonly delivered: number | null;
  readonly sentBytes: number | null;
  /** Of the node where it is worst; null also where nothing was written. */
  readonly p99: number | null;
  /** Weighed by sessions; null also without any. */
  readonly quality: number | null;
}

/** The cluster in a line: of those that are heard. */
export function sums(nodes: readonly Process[], gateways: readonly Process[]): Sums {
  const said = (all: readonly Process[]) => all.filter(counts).map(({ vitals }) => vitals).filter((vitals) => vitals !== null);
  const [ofNodes, ofGateways] = [said(nodes), said(gateways)];
  const total = (all: readonly Vitals[], of: (vitals: Vitals) => number | undefined) =>
    (all.length ? all.reduce((sum, vitals) => sum + (of(vitals) ?? 0), 0) : null);
  const p99s = ofNodes.map((vitals) => vitals.latency_ms?.p99).filter((value): value is number => typeof value === "number");
  const sessions = total(ofNodes, (vitals) => vitals.sessions);
  const points = total(ofNodes, (vitals) => (vitals.quality ?? 0) * (vitals.sessions ?? 0)) ?? 0;
  return {
    sessions,
    clients: total(ofGateways, (vitals) => vitals.clients),
    published: total(ofNodes, (vitals) => vitals.published_per_s),
    delivered: total(ofNodes, (vitals) => vitals.delivered_per_s),
    sentBytes: total(ofNodes, (vitals) => vitals.sent_bytes_per_s),
    p99: p99s.length ? Math.max(...p99s) : null,
    quality: sessions ? points / sessions : null,
  };
}

/** How many of a kind are how. */
export interface Tally {
  readonly total: number;
  readonly up: number;
  readonly others: readonly (readonly [condition: Exclude<Condition, "up">, count: number])[];
}

export function tally(processes: readonly Process[]): Tally {
  const of = (condition: Condition) => processes.filter((one) => one.condition === condition).length;
  const others = (["lost", "silent", "draining", "not_ready"] as const).map((condition) => [condition, of(condition)] as const);
  return { total: processes.length, up: of("up"), others: others.filter(([, count]) => count > 0) };
}
