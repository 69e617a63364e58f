// Which processes there are, and how each does. Pure: times are parameters, in milliseconds of one clock.
//
// A process is there while it is heard of, or while the newest `GET /api/v1/cluster` has it. What it last said stays until
// it is gone.

import type { ClusterAnswer, Kind, Report, Vitals } from "./model";

/** Silence after which a process counts as silent. */
export const SILENT_MS = 3_000;

export type Condition = "up" | "draining" | "not_ready" | "silent";

export interface Process {
  readonly id: string;
  readonly kind: Kind;
  readonly condition: Condition;
  /** What it last said; null for one that is known by its lease alone. */
  readonly vitals: Vitals | null;
  readonly address: string;
  readonly version: string;
  readonly startedAt: number;
  readonly connections: number;
  readonly cpu: number;
  readonly memory: number;
  readonly quality: number | null;
}

interface Heard {
  readonly vitals: Vitals;
  readonly at: number;
}

export class Store {
  readonly #heard = new Map<string, Heard>();
  #leases = new Map<string, Report & { kind: Kind }>();

  /** A process said this then. */
  hear(vitals: Vitals, at: number): void {
    const before = this.#heard.get(vitals.id);
    // What comes from the log may be older than what was heard live.
    if (before && before.vitals.at > vitals.at) return;
    this.#heard.set(vitals.id, { vitals, at });
  }

  /** Who has a lease now. */
  leases(answer: ClusterAnswer, now: number): void {
    const of = (kind: Kind, reports: readonly Report[]) => reports.map((report) => [report.id, { ...report, kind }] as const);
    this.#leases = new Map([...of("node", answer.nodes), ...of("gateway", answer.gateways)]);
    for (const [id, heard] of this.#heard) {
      if (now - heard.at > SILENT_MS && !this.#leases.has(id)) this.#heard.delete(id);
    }
  }

  /** Those of one kind, by name. */
  present(kind: Kind, now: number): Process[] {
    const ids = new Set([...this.#leases.keys(), ...this.#heard.keys()]);
    const all = [...ids].map((id) => this.#process(id, now)).filter((one) => one !== null);
    return all.filter((one) => one.kind === kind).sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }));
  }

  #process(id: string, now: number): Process | null {
    const heard = this.#heard.get(id), lease = this.#leases.get(id);
    const said = heard?.vitals ?? null;
    const fresh = heard !== undefined && now - heard.at <= SILENT_MS;
    if (!fresh && !lease) return null;
    const told = said ?? lease;
    if (!told) return null;
    return {
      id,
      kind: said?.kind ?? lease?.kind ?? "node",
      condition: condition(said, lease, fresh),
      vitals: said,
      address: told.address,
      version: told.version,
      startedAt: told.started_at,
      // What a client would count: those of a gateway, sessions of a node.
      connections: said?.clients ?? said?.sessions ?? told.connections,
      cpu: told.cpu_percent,
      memory: told.memory_bytes,
      quality: told.quality ?? null,
    };
  }
}

function condition(said: Vitals | null, lease: Report | undefined, fresh: boolean): Condition {
  if (!fresh && said) return "silent";
  if (said ? said.draining : lease?.draining) return "draining";
  if (said && !said.ready) return "not_ready";
  return "up";
}

export interface Sums {
  readonly nodes: number;
  readonly gateways: number;
  readonly sessions: number;
  readonly clients: number;
  readonly published: number;
  readonly delivered: number;
  readonly sentBytes: number;
  /** Of the node where it is worst; null where nothing was written. */
  readonly p99: number | null;
  /** Weighed by sessions; null without any. */
  readonly quality: number | null;
}

/** The cluster in a line. */
export function sums(nodes: readonly Process[], gateways: readonly Process[]): Sums {
  const total = (of: (vitals: Vitals) => number | undefined) => nodes.reduce((sum, node) => sum + ((node.vitals && of(node.vitals)) || 0), 0);
  const p99s = nodes.map((node) => node.vitals?.latency_ms?.p99).filter((value): value is number => typeof value === "number");
  const sessions = total((vitals) => vitals.sessions);
  const points = total((vitals) => (vitals.quality ?? 0) * (vitals.sessions ?? 0));
  return {
    nodes: nodes.length,
    gateways: gateways.length,
    sessions,
    clients: gateways.reduce((sum, gateway) => sum + gateway.connections, 0),
    published: total((vitals) => vitals.published_per_s),
    delivered: total((vitals) => vitals.delivered_per_s),
    sentBytes: total((vitals) => vitals.sent_bytes_per_s),
    p99: p99s.length ? Math.max(...p99s) : null,
    quality: sessions > 0 ? points / sessions : null,
  };
}
