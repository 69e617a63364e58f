// The dashboard: signs in, follows the rooms `system_*` over /ws, and draws what it knows once a second.

import { ApiError, type Me, api, socket, token } from "../shared/api";
import { byId, text, toggle } from "../shared/dom";
import { Connection, type Message } from "../shared/protocol";
import { signIn, startSignOut } from "../shared/signin";
import { showState, startControls } from "../shared/status";
import { startActions } from "./actions";
import { AlarmView } from "./alarm-view";
import { Alarms } from "./alarms";
import { Charts } from "./charts";
import { Clock, format, t, translator } from "./context";
import { Details } from "./details";
import { EventLog } from "./log";
import { ClusterMap } from "./map";
import { type Alarm, type ClusterAnswer, vitals } from "./model";
import { SPAN_S, Series } from "./series";
import { Sessions } from "./sessions";
import { type Process, Store, sums } from "./store";
import { MemberTable, RoomTable } from "./tables";
import { busiest } from "./traffic";

const DRAW_MS = 1_000;
const LEASES_MS = 5_000;
const BUSIEST = 20;
/** Messages of the past that are asked for, at most. */
const HISTORY = 2_000;
/** And of those of alarms: what is told between the API's answer and the subscription is among them. */
const ALARM_HISTORY = 200;
const [CLUSTER, EVENTS, ALERTS] = ["system_cluster", "system_events", "system_alerts"] as const;
const ROOMS = [CLUSTER, EVENTS, ALERTS];

class Dashboard {
  readonly #clock = new Clock();
  readonly #store = new Store();
  readonly #series = new Series();
  readonly #alarms = new Alarms();
  readonly #charts = new Charts();
  readonly #log = new EventLog();
  readonly #alarmView = new AlarmView();
  readonly #details: Details;
  readonly #map: ClusterMap;
  readonly #members: MemberTable;
  readonly #roomTable = new RoomTable();
  readonly #connection: Connection;
  #processes = 2;
  #problems = new Map<string, string>();

  constructor(who: Me) {
    this.#details = new Details((id) => this.#find(id), who.role === "operator");
    const details = (id: string) => this.#details.process(id);
    this.#map = new ClusterMap(details);
    this.#members = new MemberTable(details);
    new Sessions(this.#details);
    this.#connection = new Connection(() => socket(), (state) => {
      this.#clock.run(state.phase === "connected");
      showState(this.#connection, translator);
      toggle(byId("stale"), state.phase !== "connected" && this.#connection.greetings > 0);
      document.body.classList.toggle("stale", state.phase !== "connected" && this.#connection.greetings > 0);
      if (state.phase === "connected") {
        // Rooms that were refused are asked for again.
        for (const room of ROOMS) this.#problems.delete(room);
        void this.#lookAtLeases();
        if (this.#problems.has("alarms")) void this.#lookAtAlarms();
      }
      if (state.phase === "refused") void this.#askForToken();
    });
  }

  async start(): Promise<void> {
    await this.#lookAtLeases();
    const refused = (room: string) => (code: string, why: string) => this.#problems.set(room, t("refused_room", { room, why: `${code}: ${why}` }));
    this.#connection.follow(CLUSTER,
      { delivery: "latest", max_rate: 1, history: Math.min(HISTORY, this.#processes * SPAN_S) },
      { message: (message, replay) => this.#vitals(message, replay), refused: refused(CLUSTER) });
    this.#connection.follow(EVENTS, { history: 50 }, {
      message: (message, replay) => {
        this.#log.take(message);
        if (!replay) void this.#lookAtLeases();
      },
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
    this.#store.hear(said, this.#clock.now() - (replay ? Math.max(0, this.#serverNow() - said.at) : 0));
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
      this.#store.leases(answer, this.#clock.now());
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
      this.#problems.set("alarms", t("no_evaluator", { why: error.message }));
      if (error.status === 0 || error.status >= 500) setTimeout(() => void this.#lookAtAlarms(), LEASES_MS);
    }
    this.#drawAlarms();
  }

  /** The token has ended or was revoked. */
  async #askForToken(): Promise<void> {
    token.clear();
    await signIn(translator, refusal);
    location.reload();
  }

  #present(): { gateways: Process[]; nodes: Process[] } {
    const now = this.#clock.now();
    return { gateways: this.#store.present("gateway", now), nodes: this.#store.present("node", now) };
  }

  #find(id: string): { process: Process; last: boolean } | null {
    const { gateways, nodes } = this.#present();
    const process = [...gateways, ...nodes].find((one) => one.id === id);
    const takers = nodes.filter(({ condition }) => condition === "up").length;
    return process ? { process, last: process.condition === "up" && takers === 1 } : null;
  }

  #drawAlarms(): void {
    this.#alarmView.show(this.#alarms, this.#serverNow());
    const firing = this.#alarms.firing();
    const open = firing.filter((alarm) => alarm.acknowledged_by === null).length;
    const tile = byId("tile-alarms");
    text(tile, format().count(firing.length));
    tile.className = open > 0 ? "bad" : "";
    text(byId("tile-alarms-note"), firing.length === 0 ? t("all_quiet") : t("unacknowledged", { n: open }));
    document.title = `${open > 0 ? `(${open}) ` : ""}tickmesh · ${t("title")}`;
  }

  #draw(): void {
    showState(this.#connection, translator);
    if (document.hidden) return;
    const { gateways, nodes } = this.#present();
    const now = this.#serverNow();
    this.#drawTiles(gateways, nodes);
    this.#drawAlarms();
    this.#map.show(gateways, nodes);
    this.#members.show(gateways, nodes, now);
    this.#roomTable.show(busiest(nodes.map((node) => node.vitals).filter((said) => said !== null), BUSIEST));
    if (this.#connection.state.phase === "connected") this.#charts.show(this.#series.rows(now));
    const problem = [...this.#problems.values()].join(" ");
    toggle(byId("problem"), problem !== "");
    text(byId("problem"), problem);
    text(byId("via-node"), this.#connection.node);
  }

  #drawTiles(gateways: readonly Process[], nodes: readonly Process[]): void {
    const f = format(), all = sums(nodes, gateways);
    text(byId("tile-connections"), f.short(all.sessions));
    text(byId("tile-connections-note"), gateways.length ? t("via_gateways", { n: f.count(all.clients) }) : "");
    text(byId("tile-delivered"), f.rate(all.delivered));
    text(byId("tile-delivered-note"), t("bytes_out", { n: f.bytes(all.sentBytes) }));
    text(byId("tile-published"), f.rate(all.published));
    text(byId("tile-p99"), f.ms(all.p99));
    text(byId("tile-quality"), all.quality === null ? "–" : f.count(all.quality));
    text(byId("tile-nodes"), f.count(all.nodes));
    text(byId("tile-gateways"), f.count(all.gateways));
    const count = (condition: string) => [...nodes, ...gateways].filter((one) => one.condition === condition).length;
    const [draining, silent] = [count("draining"), count("silent")];
    const notes = [draining ? t("some_draining", { n: draining }) : "", silent ? t("some_silent", { n: silent }) : ""].filter((note) => note);
    text(byId("tile-nodes-note"), notes.join(", ") || t("none_draining"));
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
