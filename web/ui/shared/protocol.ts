// A client of tickmesh's WebSocket protocol (docs/protocol.md): it reconnects by itself, goes on in every room where it
// was, and tells conflated messages from lost ones. It must not know what rooms carry or what a page looks like.

import { Account, type Position } from "./account";
import { backoff } from "./backoff";

export interface Message {
  readonly room: string;
  readonly event: string;
  readonly seq: number;
  readonly timestamp: number;
  readonly key?: string;
  readonly conflated?: number;
  readonly data: unknown;
}

export interface Options {
  readonly delivery?: "all" | "latest";
  readonly max_rate?: number;
  readonly history?: number;
}

export interface Follower {
  /** A message; `replay` where it comes from the room's log. */
  message(message: Message, replay: boolean): void;
  /** Messages may be missing before the next one: the log has them no more. */
  anew?(): void;
  /** The room is followed; what it had of the past has been told. */
  began?(): void;
  /** It will not come: not allowed, or no such room. Asked again after the next connection. */
  refused?(text: string): void;
}

export type Phase = "connecting" | "connected" | "waiting" | "refused";

export interface State {
  readonly phase: Phase;
  /** UTC milliseconds of the next attempt, while waiting. */
  readonly retryAt: number;
  /** What the server said before it closed, in its words; empty where it said nothing. */
  readonly why: string;
  /** The code with which it closed, `SILENT` where nothing came any more; 0 for anything else. */
  readonly code: number;
  /** How the last recovery went: every room without a gap, so many anew, or not over yet. */
  readonly recovery: "none" | "running" | "gapless" | "anew";
}

/** In place of a close code: nothing was heard for too long. */
export const SILENT = -1;

const PING_EVERY = 2_000;
const PONG_TIMEOUT = 6_000;
const LOOK_EVERY = 200;
const WINDOW = 10_000;
/** Close codes for which another attempt with the same token is no use. */
const NO_TOKEN = new Set([4001, 4002]);
/** The server closed on purpose: no hurry. */
const SLOWLY = new Map([[1008, 30_000], [1013, 2_000], [4003, 1_000], [4005, 5_000]]);

interface Room {
  readonly options: Options;
  readonly follower: Follower;
  readonly account: Account;
  asked: string | null;
  live: boolean;
}

/** The parts of a WebSocket that are used, so that tests can do without one. */
export interface Socket {
  readyState: number;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  send(text: string): void;
  close(): void;
}

export class Connection {
  readonly #open: () => Socket;
  readonly #rooms = new Map<string, Room>();
  readonly #changed: (state: State) => void;
  #socket: Socket | null = null;
  #state: State = { phase: "connecting", retryAt: 0, why: "", code: 0, recovery: "none" };
  #attempts = 0;
  #nextId = 1;
  #least = 0;
  #fault = "";
  #pinged = 0;
  #answered = 0;
  #recovering = 0;
  #unrecovered = 0;
  #timers: ReturnType<typeof setInterval>[] = [];
  #retry: ReturnType<typeof setTimeout> | undefined;
  greetings = 0;
  anew = 0;
  /** Milliseconds of the last ping; null before the first. */
  roundTrip: number | null = null;
  node = "";
  session = "";
  /** Milliseconds to add to this machine's clock to get the server's. */
  clockOffset = 0;

  /** `open` makes a socket; `changed` hears of every change of state. */
  constructor(open: () => Socket, changed: (state: State) => void) {
    this.#open = open;
    this.#changed = changed;
  }

  get state(): State {
    return this.#state;
  }

  start(): void {
    this.#timers = [
      setInterval(() => this.#ping(), PING_EVERY),
      setInterval(() => this.#watch(), 1_000),
      setInterval(() => this.#each((account) => account.look()), LOOK_EVERY),
      setInterval(() => this.#each((account) => account.close()), WINDOW),
    ];
    this.#connect();
  }

  /** For good. */
  stop(): void {
    this.#timers.forEach(clearInterval);
    clearTimeout(this.#retry);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  /** As if the network had ended it, for so many milliseconds. */
  cut(forMs: number): void {
    const socket = this.#socket;
    if (!socket) return;
    this.#least = forMs;
    this.#disconnected(0);
    socket.close();
  }

  /** Does not wait for the next attempt. */
  hurry(): void {
    if (this.#state.phase !== "waiting") return;
    clearTimeout(this.#retry);
    this.#connect();
  }

  follow(name: string, options: Options, follower: Follower): void {
    if (this.#rooms.has(name)) return;
    const room = { options, follower, account: new Account(), asked: null, live: false };
    this.#rooms.set(name, room);
    if (this.#state.phase === "connected") this.#subscribe(name, room);
  }

  follows(name: string): boolean {
    return this.#rooms.has(name);
  }

  /** Sums over all rooms. */
  totals(): { received: number; conflated: number; lost: number } {
    const sum = { received: 0, conflated: 0, lost: 0 };
    this.#each((account) => {
      sum.received += account.received;
      sum.conflated += account.conflated;
      sum.lost += account.lost;
    });
    return sum;
  }

  #each(what: (account: Account) => void): void {
    for (const room of this.#rooms.values()) what(room.account);
  }

  #tell(change: Partial<State>): void {
    this.#state = { ...this.#state, ...change };
    this.#changed(this.#state);
  }

  #connect(): void {
    this.#least = 0;
    this.#fault = "";
    this.#answered = 0;
    // Opening is held to the same time as a ping.
    this.#pinged = performance.now();
    this.#tell({ phase: "connecting", retryAt: 0 });
    const socket = this.#open();
    this.#socket = socket;
    socket.onmessage = (event) => {
      if (socket !== this.#socket || typeof event.data !== "string") return;
      const read: unknown = JSON.parse(event.data);
      for (const message of Array.isArray(read) ? read : [read]) this.#handle(message as Record<string, unknown>);
    };
    socket.onclose = (event) => {
      if (socket === this.#socket) this.#disconnected(event.code);
    };
  }

  #disconnected(code: number): void {
    const why = this.#fault;
    this.#socket = null;
    for (const room of this.#rooms.values()) {
      room.asked = null;
      room.live = false;
    }
    if (NO_TOKEN.has(code)) {
      this.#tell({ phase: "refused", why, code, retryAt: 0 });
      return;
    }
    const wait = backoff(this.#attempts++, Math.random(), Math.max(this.#least, SLOWLY.get(code) ?? 0));
    this.#tell({ phase: "waiting", why, code, retryAt: Date.now() + wait });
    this.#retry = setTimeout(() => this.#connect(), wait);
  }

  // A network that went away closes nothing: silence is what tells.
  #watch(): void {
    const socket = this.#socket;
    if (!socket || this.#pinged <= this.#answered || performance.now() - this.#pinged < PONG_TIMEOUT) return;
    this.#disconnected(SILENT);
    socket.close();
  }

  // One ping at a time, so that a pong belongs to the latest.
  #ping(): void {
    if (this.#pinged > this.#answered || this.#state.phase !== "connected") return;
    this.#pinged = performance.now();
    this.#send({ type: "ping", timestamp: Date.now() });
  }

  #send(message: object): void {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  #handle(message: Record<string, unknown>): void {
    switch (message.type) {
      case "notification":
        if (message.room === "") return this.#notice(message);
        return this.#live(message as unknown as Message);
      case "response":
        return this.#answer(message);
      case "error":
        return this.#error(message);
      case "pong":
        this.#answered = performance.now();
        this.roundTrip = this.#answered - this.#pinged;
    }
  }

  #notice(message: Record<string, unknown>): void {
    const data = (message.data ?? {}) as Record<string, unknown>;
    if (message.event === "going_away") this.#least = Number(data.retry_after_ms) || 0;
    if (message.event !== "connected") return;
    this.#attempts = 0;
    this.greetings += 1;
    this.#answered = this.#pinged;
    this.session = String(data.session_id);
    this.node = String(data.node_id);
    if (typeof message.server_time === "number") this.clockOffset = message.server_time - Date.now();
    this.#unrecovered = 0;
    this.#recovering = [...this.#rooms.values()].filter((room) => room.account.position).length;
    this.#tell({ phase: "connected", why: "", code: 0, retryAt: 0, recovery: this.#recovering ? "running" : "none" });
    for (const [name, room] of this.#rooms) this.#subscribe(name, room);
    this.#ping();
  }

  #subscribe(name: string, room: Room): void {
    if (room.asked || room.live) return;
    room.asked = `s${this.#nextId++}`;
    const { history, ...options } = room.options;
    const position = room.account.position;
    // A room that was followed goes on where it stopped; a new one begins with some of its past.
    const from = position ? { recover: position } : history ? { history } : {};
    this.#send({ type: "subscribe", request_id: room.asked, room: name, ...options, ...from });
  }

  #asked(id: unknown): [string, Room] | undefined {
    return [...this.#rooms].find(([, room]) => room.asked !== null && room.asked === id);
  }

  #answer(message: Record<string, unknown>): void {
    const found = this.#asked(message.request_id);
    if (!found) return;
    const room = found[1];
    const data = message.data as { epoch: string; seq: number; recovered: boolean; messages?: Message[] };
    room.asked = null;
    room.live = true;
    if (room.account.position) {
      this.#recovering -= 1;
      if (!data.recovered) {
        this.anew += 1;
        this.#unrecovered += 1;
        room.follower.anew?.();
      }
    }
    room.account.begin({ epoch: data.epoch, seq: data.seq });
    for (const old of data.messages ?? []) room.follower.message(old, true);
    room.follower.began?.();
    this.#recovered();
  }

  #recovered(): void {
    if (this.#state.recovery !== "running" || this.#recovering > 0) return;
    this.#tell({ recovery: this.#unrecovered ? "anew" : "gapless" });
  }

  #error(message: Record<string, unknown>): void {
    const code = String(message.error_code), text = String(message.error_message);
    const found = this.#asked(message.request_id);
    if (!found) {
      this.#fault = text;
      return;
    }
    const [name, room] = found;
    room.asked = null;
    const details = message.error_details as { retry_after_ms?: number } | undefined;
    if (code === "RATE_LIMIT_EXCEEDED" || code === "SERVICE_UNAVAILABLE") {
      const socket = this.#socket;
      setTimeout(() => {
        if (socket && socket === this.#socket) this.#subscribe(name, room);
      }, details?.retry_after_ms ?? 2_000);
    } else {
      room.follower.refused?.(text);
      if (!room.account.position) return;
      // It is no more what others wait for.
      this.#recovering -= 1;
      this.#unrecovered += 1;
      this.#recovered();
    }
  }

  #live(message: Message): void {
    const room = this.#rooms.get(message.room);
    if (!room) return;
    if (message.event === "resync") {
      this.anew += 1;
      room.account.begin(message.data as Position);
      room.follower.anew?.();
      return;
    }
    room.account.take(message.seq, message.conflated ?? 0);
    room.follower.message(message, false);
  }
}
