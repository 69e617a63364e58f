// The tables of processes and of rooms.

import { attribute, byId, h, keyed, text, toggle } from "../shared/dom";
import { drain, resume } from "./actions";
import { format, t } from "./context";
import { memoryPercent } from "./map";
import { type Process, counts } from "./store";
import type { Busy } from "./traffic";

type Cells = readonly HTMLElement[];
const cells = new WeakMap<Element, Cells>();

function row(columns: number, numbers: number, ...more: HTMLElement[]): HTMLTableRowElement {
  const head = h("th", { scope: "row" });
  const rest = Array.from({ length: columns - 1 }, (_, i) => h("td", { class: i >= columns - 1 - numbers ? "number" : undefined }));
  const tr = h("tr", {}, head, ...rest, ...more);
  cells.set(tr, [head, ...rest]);
  return tr;
}

function fill(tr: Element, values: readonly string[]): Cells {
  const found = cells.get(tr) ?? [];
  values.forEach((value, i) => {
    const cell = found[i];
    if (cell) text(cell, value);
  });
  return found;
}

/** The names of those that are one process, for each such process. */
function oneProcess(all: readonly Process[]): string[][] {
  const groups = new Map<string, string[]>();
  for (const { id, within } of all) if (within !== null) groups.set(within, [...(groups.get(within) ?? [within]), id]);
  return [...groups.values()];
}

export class MemberTable {
  readonly #body = byId("member-rows");
  readonly #known = new Map<string, HTMLTableRowElement>();
  readonly #now = new Map<string, Process>();
  readonly #details: (id: string) => void;
  readonly #dismiss: (id: string) => void;
  #takers = 0;

  constructor(details: (id: string) => void, dismiss: (id: string) => void) {
    this.#details = details;
    this.#dismiss = dismiss;
  }

  /** `known`: that there is nobody else is known. */
  show(gateways: readonly Process[], nodes: readonly Process[], serverNow: number, known: boolean): void {
    this.#takers = nodes.filter(({ condition }) => condition === "up").length;
    const all = [...nodes, ...gateways];
    this.#now.clear();
    for (const process of all) this.#now.set(process.id, process);
    toggle(byId("no-members"), known && all.length === 0);
    const parts = oneProcess([...gateways, ...nodes]);
    text(byId("one-process"), parts.map((names) => t("one_process", { names: names.slice(0, -1).join(t("comma")) + t("and") + names.at(-1) })).join(" "));
    toggle(byId("one-process"), parts.length > 0);
    keyed(this.#body, this.#known, all, ({ id }) => id, (process) => this.#make(process), (tr, process) => this.#update(tr, process, serverNow));
  }

  #make({ id, kind }: Process): HTMLTableRowElement {
    const details = h("button", { type: "button", class: "plain", "data-act": "details" });
    details.addEventListener("click", () => this.#details(id));
    const actions = h("td", { class: "actions" }, details);
    const change = h("button", { type: "button", "data-act": "change" });
    change.addEventListener("click", () => {
      const found = this.#now.get(id);
      if (!found) return;
      if (!counts(found)) this.#dismiss(id);
      else if (kind === "node") void (found.condition === "draining" ? resume(found) : drain(found, this.#takers === 1 && found.condition === "up"));
    });
    actions.append(change);
    return row(10, 7, actions);
  }

  #update(tr: HTMLTableRowElement, process: Process, serverNow: number): void {
    const f = format(), said = process.vitals;
    const found = fill(tr, [process.id, t(`kind_${process.kind}`), t(process.condition), ...this.#figures(process, serverNow)]);
    if (found[2]) {
      attribute(found[2], "class", `condition ${process.condition}`);
      attribute(found[2], "title", counts(process) ? undefined : said ? t("last_report", { time: f.clock(said.at) }) : t("no_report"));
    }
    for (const cell of [found[4], found[5]]) {
      if (!cell) continue;
      attribute(cell, "title", process.within === null ? undefined : t("within", { id: process.within }));
    }
    attribute(tr, "data-id", process.id);
    attribute(tr, "data-condition", process.condition);
    const change = tr.querySelector<HTMLElement>('[data-act="change"]'), details = tr.querySelector('[data-act="details"]');
    if (details) {
      text(details, t("details"));
      attribute(details, "aria-label", t("details_of", { id: process.id }));
    }
    if (change) {
      const { id, kind } = process;
      const act = !counts(process) ? "dismiss" : process.condition === "draining" ? "resume" : "drain";
      toggle(change, act === "dismiss" || kind === "node");
      text(change, t(act));
      attribute(change, "aria-label", act === "dismiss" ? t("dismiss_of", { kind: t(`kind_${kind}`), id }) : t(`${act}_of`, { id }));
    }
  }

  /** From the connections on. */
  #figures(process: Process, serverNow: number): string[] {
    const f = format(), said = process.vitals, isNode = process.kind === "node";
    if (!counts(process)) return Array<string>(7).fill("–");
    const percent = memoryPercent(process);
    const memory = f.bytes(process.memory) + (percent === null ? "" : ` · ${f.percent(percent)}`);
    return [
      f.count(process.connections),
      process.within === null ? f.percent(process.cpu) : t("counted_in", { id: process.within }),
      process.within === null ? memory : t("counted_in", { id: process.within }),
      isNode ? f.rate(said?.delivered_per_s) : "",
      isNode ? f.ms(said?.latency_ms?.p99) : "",
      isNode && process.quality !== null ? f.count(process.quality) : "",
      f.span(serverNow - process.startedAt),
    ];
  }
}

export class RoomTable {
  readonly #body = byId("room-rows");
  readonly #known = new Map<string, HTMLTableRowElement>();

  /** `known`: that there are no others is known. */
  show(rooms: readonly Busy[], known: boolean): void {
    toggle(byId("no-rooms"), known && rooms.length === 0);
    keyed(this.#body, this.#known, rooms, ({ room }) => room, () => row(4, 3), (tr, room) => {
      fill(tr, [room.room, format().rate(room.messages_per_s), format().count(room.subscribers), format().rate(room.deliveries)]);
    });
  }
}
