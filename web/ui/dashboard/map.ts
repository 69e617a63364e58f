// The cluster map, in SVG: gateways above, nodes below, each with its load. A box is a button that shows the details.

import { attribute, byId, keyed, s, text } from "../shared/dom";
import { format, t } from "./context";
import { type Layout, SMALL, fitted, layout } from "./layout";
import { type Process, counts } from "./store";

const METER_HIGH = 90;
const METER_WARM = 70;

interface Meter {
  readonly fill: SVGRectElement;
  readonly label: SVGTextElement;
}

interface Parts {
  readonly button: SVGRectElement;
  readonly box: SVGRectElement;
  readonly dot: SVGCircleElement;
  readonly name: SVGTextElement;
  readonly count: SVGTextElement;
  readonly unit: SVGTextElement;
  readonly badge: SVGTextElement;
  /** In place of the meters, in two lines. */
  readonly note: readonly [SVGTextElement, SVGTextElement];
  readonly cpu: Meter;
  readonly memory: Meter;
}

/** Part of the limit that is used, in percent; null where there is no limit. */
export function memoryPercent(process: Process): number | null {
  const limit = process.vitals?.memory_limit_bytes ?? 0;
  return limit > 0 ? (100 * process.memory) / limit : null;
}

/** When it was heard of last. */
function last({ vitals }: Process): string {
  return vitals ? t("last_report", { time: format().clock(vitals.at) }) : t("no_report");
}

/** What is said where CPU and memory are not shown. */
function note(process: Process): readonly [string, string] {
  const { vitals, within } = process;
  if (!counts(process)) return vitals ? [t("last_report_short"), format().clock(vitals.at)] : [t("no_report"), ""];
  return within === null ? ["", ""] : [t("within_short"), within];
}

function label(process: Process): string {
  const f = format();
  const values = {
    kind: t(`kind_${process.kind}`), id: process.id, condition: t(process.condition), connections: t("count_connections", { n: process.connections }),
  };
  if (!counts(process)) return t("box_label_lost", { ...values, last: last(process) });
  if (process.within !== null) return t("box_label_within", { ...values, within: t("within", { id: process.within }) });
  return t("box_label", { ...values, cpu: f.percent(process.cpu), memory: f.bytes(process.memory) });
}

export class ClusterMap {
  readonly #svg = byId<SVGSVGElement>("map");
  readonly #trunk = s("path", { class: "trunk" });
  readonly #branches = s("g");
  readonly #boxes = s("g");
  readonly #knownBoxes = new Map<string, SVGGElement>();
  readonly #knownBranches = new Map<string, SVGPathElement>();
  readonly #parts = new WeakMap<Element, Parts>();
  readonly #choose: (id: string) => void;
  #width = 0;
  #last: readonly [readonly Process[], readonly Process[]] | null = null;

  constructor(choose: (id: string) => void) {
    this.#choose = choose;
    this.#svg.append(this.#trunk, this.#branches, this.#boxes);
    const frame = this.#svg.parentElement;
    if (!frame) return;
    new ResizeObserver(() => {
      this.#width = Math.floor(frame.clientWidth);
      if (this.#last) this.show(...this.#last);
    }).observe(frame);
  }

  show(gateways: readonly Process[], nodes: readonly Process[]): void {
    this.#last = [gateways, nodes];
    if (this.#width < 100) return;
    const where = layout(this.#width, gateways.map(({ id }) => id), nodes.map(({ id }) => id));
    attribute(this.#svg, "viewBox", `0 0 ${where.width} ${where.height}`);
    attribute(this.#svg, "width", where.width);
    attribute(this.#svg, "height", where.height);
    attribute(this.#svg, "aria-label", t("map_label", {
      gateways: t("count_gateways", { n: gateways.length }), nodes: t("count_nodes", { n: nodes.length }),
    }));
    attribute(this.#trunk, "d", where.trunk);
    const all = [...gateways, ...nodes];
    const places = new Map([...where.gateways, ...where.nodes].map((place) => [place.id, place]));
    const idOf = (process: Process) => process.id;
    keyed(this.#branches, this.#knownBranches, all, idOf, () => s("path"), (path, process) => {
      attribute(path, "d", where.branches.get(process.id));
      attribute(path, "class", `branch ${process.condition}`);
    });
    keyed(this.#boxes, this.#knownBoxes, all, idOf, (process) => this.#make(process.id), (group, process) => {
      const place = places.get(process.id);
      if (place) attribute(group, "transform", `translate(${place.x} ${place.y})`);
      this.#update(group, process, where);
    });
  }

  #make(id: string): SVGGElement {
    const meter = (): Meter => ({ fill: s("rect", { class: "meter" }), label: s("text", { class: "meter-label" }) });
    const parts: Parts = {
      button: s("rect", { class: "button", role: "button", tabindex: 0, rx: 8 }),
      box: s("rect", { class: "box", rx: 8 }),
      dot: s("circle", { class: "dot", r: 4.5, cx: 16, cy: 18 }),
      name: s("text", { class: "name", x: 27, y: 22 }),
      count: s("text", { class: "count", x: 12 }),
      unit: s("text", { class: "unit" }),
      badge: s("text", { class: "badge", "text-anchor": "end" }),
      note: [s("text", { class: "meter-label", x: 12 }), s("text", { class: "meter-label", x: 12 })],
      cpu: meter(),
      memory: meter(),
    };
    const meters = [parts.cpu, parts.memory].map(({ fill, label }) => s("g", {}, s("rect", { class: "track" }), fill, label));
    // The button lies over it all, and its label says what is to be seen.
    const seen = s("g", { "aria-hidden": "true" }, parts.box, parts.dot, parts.name, parts.badge, parts.count, parts.unit, ...parts.note, ...meters);
    const group = s("g", {}, seen, parts.button);
    parts.button.addEventListener("click", () => this.#choose(id));
    parts.button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.#choose(id);
    });
    this.#parts.set(group, parts);
    return group;
  }

  #update(group: SVGGElement, process: Process, where: Layout): void {
    const parts = this.#parts.get(group);
    if (!parts) return;
    const { width, height } = where.size;
    const small = height === SMALL.height;
    const shown = counts(process), f = format();
    attribute(group, "class", `process ${process.kind} ${process.condition}${small ? " small" : ""}`);
    attribute(group, "data-id", process.id);
    attribute(parts.button, "aria-label", label(process));
    for (const rect of [parts.box, parts.button]) {
      attribute(rect, "width", width);
      attribute(rect, "height", height);
    }
    const badge = small || process.condition === "up" ? "" : t(process.condition);
    text(parts.badge, badge);
    attribute(parts.badge, "x", width - 10);
    attribute(parts.badge, "y", 22);
    text(parts.name, fitted(process.id, Math.floor((width - 34 - 7 * badge.length) / (small ? 6.6 : 7.4))));
    text(parts.count, shown ? f.short(process.connections) : "–");
    attribute(parts.count, "y", small ? 41 : 47);
    text(parts.unit, small || !shown ? "" : t("connections_short", { n: process.connections }));
    attribute(parts.unit, "x", 12 + 10.5 * (parts.count.textContent?.length ?? 0) + 6);
    attribute(parts.unit, "y", 47);
    note(process).forEach((line, i) => {
      text(parts.note[i]!, small ? "" : fitted(line, Math.floor((width - 20) / 6)));
      attribute(parts.note[i]!, "y", height - 28 + 15 * i);
    });
    const percent = memoryPercent(process), metered = shown && process.within === null;
    this.#meter(parts.cpu, metered ? process.cpu : null, small ? "" : `CPU ${f.percent(process.cpu)}`, 12, height, width, small);
    const used = percent === null ? f.bytes(process.memory) : f.percent(percent);
    this.#meter(parts.memory, metered ? (percent ?? 0) : null, small ? "" : `RAM ${used}`, width / 2 + 4, height, width, small);
  }

  /** `percent` is null where there is no meter to show. */
  #meter(meter: Meter, percent: number | null, label: string, x: number, height: number, width: number, small: boolean): void {
    const length = width / 2 - 16;
    const y = height - (small ? 11 : 14);
    const part = Math.min(100, Math.max(0, percent ?? 0)) / 100;
    const track = meter.fill.previousElementSibling;
    for (const [rect, wide] of [[track, percent === null ? 0 : length], [meter.fill, Math.round(length * part * 10) / 10]] as const) {
      if (!rect) continue;
      attribute(rect, "x", x);
      attribute(rect, "y", y);
      attribute(rect, "width", wide);
      attribute(rect, "height", 4);
      attribute(rect, "rx", 2);
    }
    attribute(meter.fill, "class", `meter ${(percent ?? 0) >= METER_HIGH ? "high" : (percent ?? 0) >= METER_WARM ? "warm" : ""}`);
    text(meter.label, percent === null ? "" : label);
    attribute(meter.label, "x", x);
    attribute(meter.label, "y", y - 5);
  }
}
