// The dashboard: signs in, follows the rooms `system_*` over /ws, and draws what it knows once a second.

import { ApiError, type Me, api, reason, socket, token } from "../shared/api";
import { attribute, byId, text, toggle } from "../shared/dom";
import { Connection, type Message } from "../shared/protocol";
import { signIn, signInAgain, startSignOut } from "../shared/signin";
import { showState, startControls } from "../shared/status";
import { startActions } from "./actions";
import { AlarmView } from "./alarm-view";
import { Alarms } from "./alarms";
import { Charts } from "./charts";
import { Clock, format, t, translator } from "./context";
import { Details } from "./details";
import { EventLog } from "./log";
import { ClusterMap } from "./map";
import { type Alarm, type ClusterAnswer, type ClusterEvent, type Session, vitals } from "./model";
import { SPAN_S, Series } from "./series";
import { Sessions } from "./sessions";
import { type Process, Store, counts, sums, tally } from "./store";
import { MemberTable, RoomTable } from "./tables";
import { Held, busiest } from "./traffic";

const DRAW_MS = 1_000;
const LEASES_MS = 5_000;
const BUSIEST = 20;
/** Messages of the past that are asked for, at most. */
const HISTORY = 2_000;
/** And of those of alarms: what is told between the API's answer and the subscription is among them. */
const ALARM_HISTORY = 200;
const [CLUSTER, EVENTS, ALERTS] = ["system_cluster", "system_events", "system_alerts"] as const;
const ROOMS = [CLUSTER, EVENTS, ALERTS];
/** Where lost processes that were dismissed are kept, as long as the tab is there. */
const DISMISSED = "tickmesh.dismissed";

class Dashboard {
  readonly #clock = new Clock();
  readonly #store = new Store(JSON.parse(sessionStorage.getItem(DISMISSED) ?? "[]") as string[]);
  readonly #series = new Series();
  readonly #alarms = new Alarms();
  readonly #charts = new Charts();
  readonly #log = new EventLog();
  readonly #alarmView = new AlarmView();
  readonly #details: Details;
  readonly #map: ClusterMap;
  readonly #members: MemberTable;
  readonly #roomTable = new RoomTable();
  readonly #rooms = new Held();
  readonly #connection: Connection;
  #processes = 2;
  /** In the language that the page has when they are shown. */
  readonly #problems = new Map<string, () => string>();
  /** The node that has the page's own session. */
  #via = "";

  constructor(who: Me) {
    const dismiss = (id: string) => this.#dismiss(id);
    this.#details = new Details((id) => this.#find(id), dismiss, who.role === "operator");
    const details = (id: string) => this.#details.process(id);
    this.#map = new ClusterMap(details);
    this.#members = new MemberTable(details, dismiss);
    new Sessions(this.#details);
    this.#connection = new Connection(() => socket(), (state) => {
      this.#clock.run(state.phase === "connected");
      showState(this.#connection, translator);
      const away = state.phase !== "connected", before = this.#connection.greetings > 0;
      toggle(byId("stale"), away && before);
      document.body.classList.toggle("stale", away && before);
      if (state.phase === "connected") {
        this.#via = this.#connection.node;
        // Rooms that were refused are asked for again.
        for (const room of ROOMS) this.#problems.delete(room);
        void this.#lookAtLeases();
        if (this.#problems.has("alarms")) void this.#lookAtAlarms();
      }
      if (state.phase !== "refused") return;
      // Without data there is nothing to be seen but the form.
      toggle(byId("main"), before);
      void signInAgain(translator, refusal);
    });
  }

  async start(): Promise<void> {
    await this.#lookAtLeases();
    const refused = (room: string) => (why: string) => this.#problems.set(room, () => t("refused_room", { room, why }));
    this.#connection.follow(CLUSTER,
      { delivery: "latest", max_rate: 1, history: Math.min(HISTORY, this.#processes * SPAN_S) },
      { message: (message, replay) => this.#vitals(message, replay), refused: refused(CLUSTER) });
    this.#connection.follow(EVENTS, { history: 50 }, {
      message: (message, replay) => {
        this.#log.take(message);
        const happened = message.data as ClusterEvent;
        this.#store.event(message.event, happened, this.#clock.now(), Math.max(0, this.#serverNow() - happened.at));
        if (replay) return;
        void this.#lookAtLeases();
        void this.#lookWhereThisIs();
        this.#draw();
      },
      began: () => this.#log.began(),
      anew: () => this.#store.anew(this.#clock.now()),
      refused: refused(EVENTS),
    });
    this.#connection.follow(ALERTS, { history: ALARM_HISTORY }, {
      message: (message, replay) => this.#alarm(message, replay),
      anew: () => {
        this.#alarms.anew();
        void this.#lookAtAlarms();
      },
      refused: refused(ALERTS),
    });
    void this.#lookAtAlarms();
    this.#connection.start();
    setInterval(() => void this.#lookAtLeases(), LEASES_MS);
    setInterval(() => this.#draw(), DRAW_MS);
    // A tab that comes to the front is up to date at once.
    document.addEventListener("visibilitychange", () => this.#draw());
    translator.onChange(() => this.#draw());
    addEventListener("online", () => this.#connection.hurry());
    this.#draw();
  }

  #serverNow(): number {
    return Date.now() + this.#connection.clockOffset;
  }

  #vitals({ data }: Message, replay: boolean): void {
    const said = vitals(data);
    if (!said) return;
    this.#series.add(said, this.#serverNow());
    // What was missed while the connection was away is as old as it says; what was before it, the leases tell.
    const missed = replay && this.#connection.greetings > 1;
    const before = this.#lost();
    this.#store.hear(said, this.#clock.now() - (missed ? Math.max(0, this.#serverNow() - said.at) : 0), !replay);
    // That somebody is lost is not to wait for the next second.
    if (!replay && said.unreachable?.length && this.#lost() !== before) this.#draw();
  }

  #lost(): number {
    const { gateways, nodes } = this.#present();
    return [...gateways, ...nodes].filter(({ condition }) => condition === "lost").length;
  }

  #dismiss(id: string): void {
    sessionStorage.setItem(DISMISSED, JSON.stringify(this.#store.dismiss(id)));
    this.#draw();
  }

  #alarm({ data, seq }: Message, replay: boolean): void {
    const alarm = data as Alarm;
    // What was before this page is no news; what was told while the connection was away is.
    if (!this.#alarms.tell(alarm, seq) || (replay && this.#connection.greetings === 1)) return;
    this.#alarmView.announce(alarm);
    this.#drawAlarms();
  }

  async #lookAtLeases(): Promise<void> {
    try {
      const answer = await api<ClusterAnswer>("cluster");
      this.#processes = answer.nodes.length + answer.gateways.length;
      this.#store.leases(answer);
    } catch (error) {
      // The connection's state says what there is to say.
      if (!(error instanceof ApiError)) throw error;
    }
  }

  async #lookAtAlarms(): Promise<void> {
    try {
      const { alarms } = await api<{ alarms: Alarm[] }>("alarms");
      this.#alarms.answer(alarms);
      this.#problems.delete("alarms");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#problems.set("alarms", () => t("no_evaluator", { why: reason(error, t) }));
      if (error.status === 0 || error.status >= 500) setTimeout(() => void this.#lookAtAlarms(), LEASES_MS);
    }
    this.#drawAlarms();
  }

  /** The node that has this page's session: a gateway gives it to another one without a word. */
  async #lookWhereThisIs(): Promise<void> {
    const { session } = this.#connection;
    try {
      const { node_id } = await api<Session>(`sessions/${encodeURIComponent(session)}`);
      if (session === this.#connection.session) this.#via = node_id;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
    }
  }

  #present(): { gateways: Process[]; nodes: Process[] } {
    return this.#store.present(this.#clock.now());
  }

  #find(id: string): { process: Process; last: boolean } | null {
    const { gateways, nodes } = this.#present();
    const process = [...gateways, ...nodes].find((one) => one.id === id);
    const takers = nodes.filter(({ condition }) => condition === "up").length;
    return process ? { process, last: process.condition === "up" && takers === 1 } : null;
  }

  #drawAlarms(): void {
    this.#alarmView.show(this.#alarms, this.#serverNow());
    const firing = this.#alarms.firing(), known = this.#alarms.known || firing.length > 0;
    const open = firing.filter((alarm) => alarm.acknowledged_by === null).length;
    const tile = byId("tile-alarms");
    text(tile, format().count(known ? firing.length : null));
    tile.className = open > 0 ? "bad" : "";
    const note = firing.length === 0 ? t("all_quiet") : open === 0 ? t("all_acknowledged") : t("unacknowledged", { n: open });
    text(byId("tile-alarms-note"), known ? note : "");
    document.title = `${open > 0 ? `(${open}) ` : ""}tickmesh · ${t("title")}`;
  }

  #draw(): void {
    showState(this.#connection, translator);
    if (document.hidden) return;
    const { gateways, nodes } = this.#present();
    const now = this.#serverNow(), heard = nodes.filter(counts).map((node) => node.vitals).filter((said) => said !== null);
    this.#drawTiles(gateways, nodes);
    this.#drawAlarms();
    this.#map.show(gateways, nodes);
    this.#members.show(gateways, nodes, now, this.#store.known);
    this.#roomTable.show(this.#rooms.show(busiest(heard, BUSIEST), this.#clock.now()), heard.length > 0);
    const gone = new Set(nodes.filter((node) => !counts(node)).map(({ id }) => id));
    if (this.#connection.state.phase === "connected") this.#charts.show(this.#series.rows(now, gone));
    const waits = this.#connection.state.phase === "waiting" && this.#connection.greetings === 0;
    const problem = waits && !this.#store.known ? t("no_data") : [...this.#problems.values()].map((words) => words()).join(" ");
    toggle(byId("problem"), problem !== "");
    text(byId("problem"), problem);
    const via = nodes.find(({ id }) => id === this.#via);
    text(byId("via-node"), (via && !counts(via) ? "" : this.#via) || "–");
  }

  #drawTiles(gateways: readonly Process[], nodes: readonly Process[]): void {
    const f = format(), all = sums(nodes, gateways);
    text(byId("tile-connections"), f.short(all.sessions));
    text(byId("tile-connections-note"), all.clients === null ? "" : t("via_gateways", { n: all.clients }));
    text(byId("tile-delivered"), f.rate(all.delivered));
    text(byId("tile-delivered-note"), all.sentBytes === null ? "" : t("bytes_out", { bytes: f.bytes(all.sentBytes) }));
    text(byId("tile-published"), f.rate(all.published));
    const unmeasured = all.delivered !== null && all.p99 === null;
    text(byId("tile-p99"), f.ms(all.p99));
    attribute(byId("tile-p99"), "title", unmeasured ? t("none_measured_hint") : undefined);
    text(byId("tile-p99-note"), t(unmeasured ? "none_measured" : "worst_node"));
    text(byId("tile-quality"), f.count(all.quality));
    for (const [id, processes] of [["tile-nodes", nodes], ["tile-gateways", gateways]] as const) {
      const { up, total, others } = tally(processes);
      const list = others.map(([condition, n]) => t(`some_${condition}`, { n })).join(t("comma"));
      const lost = others.some(([condition]) => condition === "lost");
      text(byId(id), f.count(this.#store.known ? up : null));
      byId(id).className = lost ? "bad" : "";
      text(byId(`${id}-note`), total === 0 ? "" : list ? t("some_up", { up, total, others: list }) : t("all_up"));
    }
  }
}

function refusal(who: Me): string | null {
  if (who.operator) return null;
  return token.get() ? t("needs_operator", { user: who.user_id, role: who.role }) : t("nobody");
}

async function main(): Promise<void> {
  startControls(translator);
  startActions();
  const who = await signIn(translator, refusal);
  startSignOut();
  toggle(byId("main"), true);
  text(byId("who"), who.user_id);
  await new Dashboard(who).start();
  // Only where the market page is served, too.
  const market = await fetch(".", { method: "HEAD" }).catch(() => null);
  toggle(byId("market-link"), market?.ok ?? false);
}

void main();
