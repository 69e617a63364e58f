// The dialog with all that is known of one process or one session.

import { ApiError, api } from "../shared/api";
import { byId, h, text, toggle } from "../shared/dom";
import { disconnect, drain, resume } from "./actions";
import { format, t } from "./context";
import type { Percentiles, Session } from "./model";
import { type Process, counts } from "./store";

const REFRESH_MS = 2_000;

type Fact = readonly [name: string, value: string];

const three = (values: Percentiles | null | undefined) => [values?.p50, values?.p95, values?.p99].map((value) => format().ms(value)).join(" · ");

function facts(process: Process): Fact[] {
  const f = format(), said = process.vitals;
  const both: Fact[] = [
    [t("state"), t(process.condition)],
    [t("address"), process.address],
    [t("version"), process.version],
    [t("started"), process.startedAt ? f.date(process.startedAt) : "–"],
  ];
  // What it said last says nothing of now.
  if (!counts(process)) return [...both.slice(0, 1), [t("last_report_title"), said ? f.date(said.at) : "–"], ...both.slice(1)];
  const within = process.within === null ? "" : ` (${t("within", { id: process.within })})`;
  both.push(
    [t("connections"), f.count(process.connections)],
    [t("cpu"), f.percent(process.cpu) + within],
    [t("memory"), f.bytes(process.memory) + (said?.memory_limit_bytes ? ` / ${f.bytes(said.memory_limit_bytes)}` : "") + within],
    [t("queue_delay"), f.ms(said?.queue_delay_ms)],
  );
  if (said?.zone) both.push([t("zone"), said.zone]);
  if (!said) return both;
  if (process.kind === "gateway") {
    return [...both, [t("links"), f.count(said.links)], [t("moves"), `${f.rate(said.moves_per_s)} · ${f.rate(said.takeovers_per_s)} ${t("per_second")}`],
      [t("move_pause"), `${f.ms(said.pause_ms?.p50)} · ${f.ms(said.pause_ms?.p99)}`]];
  }
  const stores = Object.entries(said.stores ?? {}).map(([name, { up, connections, max }]): Fact =>
    [t("store", { name }), up ? (max > 0 ? t("store_up", { n: connections, max }) : t("redis_up")) : t("store_down")]);
  const redis = said.redis_up === null || said.redis_up === undefined ? t("in_memory") : t(said.redis_up ? "redis_up" : "redis_down");
  return [...both,
    [t("subscriptions"), f.count(said.subscriptions)],
    [t("room_count"), f.count(said.rooms)],
    [t("published"), `${f.rate(said.published_per_s)} ${t("per_second")}`],
    [t("delivered"), `${f.rate(said.delivered_per_s)} ${t("per_second")}`],
    [t("sent"), `${f.bytes(said.sent_bytes_per_s)}${t("per_second")}`],
    [t("conflated"), `${f.rate(said.conflated_per_s)} ${t("per_second")}`],
    [t("errors"), `${f.rate(said.errors_per_s)} · ${f.rate(said.refused_per_s)} ${t("per_second")}`],
    [t("latency"), three(said.latency_ms)],
    [t("flush_window"), f.ms(said.flush_window_ms)],
    [t("quality"), f.count(said.quality)],
    [t("redis"), redis],
    ...stores,
  ];
}

function sessionFacts(session: Session): Fact[] {
  const f = format();
  return [
    [t("user"), session.user_id],
    [t("node"), session.node_id],
    [t("state"), stateWord(session.state)],
    [t("connected_since"), f.date(session.connected_at)],
    [t("round_trip"), f.ms(session.round_trip_ms)],
    [t("quality"), f.count(session.quality)],
    [t("queue"), f.bytes(session.queued_bytes)],
    [t("protocol"), session.protocol],
    [t("remote"), session.remote],
    [t("messages_in"), f.count(session.messages_in)],
    [t("notifications_out"), f.count(session.notifications_out)],
    [t("conflated"), f.count(session.conflated)],
  ];
}

export function stateWord(state: string): string {
  switch (state) {
    case "active": return t("active");
    case "idle": return t("idle");
    case "stale": return t("stale_session");
    case "broken": return t("broken");
    default: return state;
  }
}

export class Details {
  readonly #dialog = byId<HTMLDialogElement>("details");
  readonly #body = byId("details-body");
  readonly #act = byId<HTMLButtonElement>("details-act");
  readonly #find: (id: string) => { process: Process; last: boolean } | null;
  readonly #dismiss: (id: string) => void;
  readonly #mayDisconnect: boolean;
  #timer: ReturnType<typeof setInterval> | undefined;

  /** `mayDisconnect`: the server lets nobody end a session without a token, on a laptop neither. */
  constructor(find: (id: string) => { process: Process; last: boolean } | null, dismiss: (id: string) => void, mayDisconnect: boolean) {
    this.#find = find;
    this.#dismiss = dismiss;
    this.#mayDisconnect = mayDisconnect;
    byId("details-close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => clearInterval(this.#timer));
  }

  /** Shows a process, and goes on showing how it does. */
  process(id: string): void {
    const update = () => {
      const found = this.#find(id);
      if (!found) {
        clearInterval(this.#timer);
        toggle(this.#act, false);
        this.#body.replaceChildren(h("p", {}, t("process_gone")));
        return;
      }
      const { process } = found;
      text(byId("details-title"), `${t(`kind_${process.kind}`)} ${process.id}`);
      this.#write(facts(process), []);
      toggle(this.#act, process.kind === "node" || !counts(process));
      text(this.#act, t(!counts(process) ? "dismiss" : process.condition === "draining" ? "resume" : "drain"));
    };
    this.#open(update, () => {
      const found = this.#find(id);
      this.#dialog.close();
      if (!found) return;
      if (!counts(found.process)) this.#dismiss(id);
      else void (found.process.condition === "draining" ? resume(found.process) : drain(found.process, found.last));
    });
  }

  /** Shows a session, and asks how it does. */
  session(session: Session, ended: () => void): void {
    let current = session;
    const update = () => {
      text(byId("details-title"), `${t("session")} ${current.session_id}`);
      this.#write(sessionFacts(current), [...current.rooms]);
      toggle(this.#act, this.#mayDisconnect);
      text(this.#act, t("disconnect"));
    };
    const ask = async () => {
      try {
        current = await api<Session>(`sessions/${encodeURIComponent(session.session_id)}`);
        if (this.#dialog.open) update();
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 404) return;
        clearInterval(this.#timer);
        toggle(this.#act, false);
        this.#body.replaceChildren(h("p", {}, t("session_gone")));
      }
    };
    this.#open(update, async () => {
      this.#dialog.close();
      if (await disconnect(current)) ended();
    }, ask);
  }

  #open(update: () => void, act: () => void, again: () => unknown = update): void {
    clearInterval(this.#timer);
    update();
    this.#act.onclick = act;
    this.#dialog.showModal();
    this.#timer = setInterval(() => void again(), again === update ? 1_000 : REFRESH_MS);
  }

  #write(facts: readonly Fact[], rooms: readonly string[]): void {
    const list = this.#body.querySelector("dl");
    const pairs = list ? [...list.querySelectorAll("dd")] : [];
    if (list && pairs.length === facts.length) {
      facts.forEach(([, value], i) => text(pairs[i]!, value));
      const shown = [...this.#body.querySelectorAll("li")].map((item) => item.textContent);
      if (shown.join("\n") === rooms.join("\n")) return;
    }
    const made = h("dl", { class: "facts" }, ...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    const followed = rooms.length
      ? [h("h3", {}, t("followed_rooms")), h("ul", { class: "chips", tabindex: 0 }, ...rooms.map((room) => h("li", {}, room)))]
      : [];
    this.#body.replaceChildren(made, ...followed);
  }
}
