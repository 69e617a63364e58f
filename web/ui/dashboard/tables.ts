// The tables of processes and of rooms.

import { attribute, byId, h, keyed, text, toggle } from "../shared/dom";
import { drain, resume } from "./actions";
import { format, t } from "./context";
import { memoryPercent } from "./map";
import type { Process } from "./store";
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

export class MemberTable {
  readonly #body = byId("member-rows");
  readonly #known = new Map<string, HTMLTableRowElement>();
  readonly #now = new Map<string, Process>();
  readonly #details: (id: string) => void;
  #takers = 0;

  constructor(details: (id: string) => void) {
    this.#details = details;
  }

  show(gateways: readonly Process[], nodes: readonly Process[], serverNow: number): void {
    this.#takers = nodes.filter(({ condition }) => condition === "up").length;
    const all = [...nodes, ...gateways];
    this.#now.clear();
    for (const process of all) this.#now.set(process.id, process);
    toggle(byId("no-members"), all.length === 0);
    keyed(this.#body, this.#known, all, ({ id }) => id, (process) => this.#make(process), (tr, process) => this.#update(tr, process, serverNow));
  }

  #make({ id, kind }: Process): HTMLTableRowElement {
    const details = h("button", { type: "button", class: "plain", "data-act": "details" });
    details.addEventListener("click", () => this.#details(id));
    const actions = h("td", { class: "actions" }, details);
    if (kind === "node") {
      const change = h("button", { type: "button", "data-act": "drain" });
      change.addEventListener("click", () => {
        const node = this.#now.get(id);
        if (node) void (node.condition === "draining" ? resume(node) : drain(node, this.#takers === 1 && node.condition === "up"));
      });
      actions.append(change);
    }
    return row(10, 7, actions);
  }

  #update(tr: HTMLTableRowElement, process: Process, serverNow: number): void {
    const f = format(), said = process.vitals;
    const memory = memoryPercent(process);
    const found = fill(tr, [
      process.id,
      t(`kind_${process.kind}`),
      t(process.condition),
      f.count(process.connections),
      f.percent(process.cpu),
      f.bytes(process.memory) + (memory === null ? "" : ` · ${f.percent(memory)}`),
      process.kind === "node" ? f.rate(said?.delivered_per_s) : "",
      process.kind === "node" ? f.ms(said?.latency_ms?.p99) : "",
      process.kind === "node" && process.quality !== null ? f.count(process.quality) : "",
      f.span(serverNow - process.startedAt),
    ]);
    if (found[2]) attribute(found[2], "class", `condition ${process.condition}`);
    attribute(tr, "data-id", process.id);
    attribute(tr, "data-condition", process.condition);
    const change = tr.querySelector('[data-act="drain"]'), details = tr.querySelector('[data-act="details"]');
    if (details) {
      text(details, t("details"));
      attribute(details, "aria-label", t("details_of", { id: process.id }));
    }
    if (change) {
      const draining = process.condition === "draining";
      text(change, t(draining ? "resume" : "drain"));
      attribute(change, "aria-label", t(draining ? "resume_of" : "drain_of", { id: process.id }));
    }
  }
}

export class RoomTable {
  readonly #body = byId("room-rows");
  readonly #known = new Map<string, HTMLTableRowElement>();

  show(rooms: readonly Busy[]): void {
    toggle(byId("no-rooms"), rooms.length === 0);
    keyed(this.#body, this.#known, rooms, ({ room }) => room, () => row(4, 3), (tr, room) => {
      fill(tr, [room.room, format().rate(room.messages_per_s), format().count(room.subscribers), format().rate(room.deliveries)]);
    });
  }
}
