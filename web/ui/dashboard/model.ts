// What the cluster says of itself: the messages of the rooms `system_*` and the answers of the API, as far as they are shown.

export type Kind = "node" | "gateway";

export interface Percentiles {
  readonly p50?: number | null;
  readonly p95?: number | null;
  readonly p99?: number | null;
}

export interface RoomTraffic {
  readonly room: string;
  readonly messages_per_s: number;
  readonly subscribers: number;
}

/** Room `system_cluster`: one message a second from every process. */
export interface Vitals {
  readonly id: string;
  readonly kind: Kind;
  readonly version: string;
  readonly zone?: string;
  readonly address: string;
  readonly run: number;
  /** Names the process of the operating system; 0 or absent where that is not known. */
  readonly process?: number;
  readonly started_at: number;
  readonly at: number;
  readonly draining: boolean;
  readonly ready: boolean;
  readonly connections: number;
  readonly cpu_percent: number;
  readonly memory_bytes: number;
  readonly memory_limit_bytes?: number;
  readonly memory_level?: string;
  readonly queue_delay_ms?: number;
  readonly quality?: number;
  // nodes
  readonly sessions?: number;
  readonly subscriptions?: number;
  readonly rooms?: number;
  readonly published_per_s?: number;
  readonly delivered_per_s?: number;
  readonly sent_bytes_per_s?: number;
  readonly conflated_per_s?: number;
  readonly errors_per_s?: number;
  readonly refused_per_s?: number;
  readonly latency_ms?: Percentiles | null;
  readonly market_latency_ms?: Percentiles | null;
  readonly flush_window_ms?: number;
  readonly quality_counts?: readonly number[];
  readonly redis_up?: boolean | null;
  readonly stores?: Readonly<Record<string, { readonly up: boolean; readonly connections: number; readonly max: number }>>;
  readonly top_rooms?: readonly RoomTraffic[];
  // gateways
  readonly clients?: number;
  readonly links?: number;
  readonly nodes_known?: number;
  readonly unreachable?: readonly string[];
  readonly moves_per_s?: number;
  readonly takeovers_per_s?: number;
  readonly pause_ms?: Percentiles | null;
}

/** One of `GET /api/v1/cluster`. */
export interface Report {
  readonly id: string;
  readonly kind?: Kind;
  readonly run?: number;
  readonly version: string;
  readonly address: string;
  readonly zone?: string;
  readonly started_at: number;
  readonly draining: boolean;
  readonly connections: number;
  readonly cpu_percent: number;
  readonly memory_bytes: number;
  readonly quality?: number;
}

export interface ClusterAnswer {
  readonly nodes: readonly Report[];
  readonly gateways: readonly Report[];
}

/** Room `system_events`. */
export interface ClusterEvent {
  readonly id: string;
  readonly run?: number;
  readonly at: number;
  readonly text: string;
  readonly gateway?: string;
  readonly cause?: "move" | "takeover";
  readonly sessions?: number;
  readonly pause_ms?: Percentiles | null;
}

/** Room `system_alerts`. */
export interface Alarm {
  readonly id: string;
  readonly rule: string;
  readonly severity: "warning" | "critical";
  readonly subject: string;
  readonly state: "firing" | "resolved";
  readonly since: number;
  readonly at: number;
  readonly value: number | null;
  readonly threshold: number | null;
  readonly unit: string;
  readonly text: string;
  readonly acknowledged_by: string | null;
  readonly acknowledged_at: number | null;
  /** How often it has changed since it began, from 1. */
  readonly change: number;
}

/** One of `GET /api/v1/sessions`. */
export interface Session {
  readonly session_id: string;
  readonly user_id: string;
  readonly node_id: string;
  readonly protocol: string;
  readonly remote: string;
  readonly state: string;
  readonly connected_at: number;
  readonly rooms: readonly string[];
  readonly messages_in: number;
  readonly notifications_out: number;
  readonly conflated: number;
  readonly queued_bytes: number;
  readonly round_trip_ms: number | null;
  readonly quality: number;
}

export interface SessionsAnswer {
  readonly total: number;
  readonly sessions: readonly Session[];
  readonly unanswered: readonly string[];
}

/** A process's own message, or null for anything else. */
export function vitals(data: unknown): Vitals | null {
  const it = data as Partial<Vitals> | null;
  const good = it !== null && typeof it === "object" && typeof it.id === "string" && typeof it.at === "number"
    && (it.kind === "node" || it.kind === "gateway");
  return good ? (it as Vitals) : null;
}
