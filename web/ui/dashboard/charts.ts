// The charts of the last minutes, drawn by uPlot. Each has its legend with the present numbers, and a text that says the same
// to those who do not see it.

import uPlot from "uplot";
import { attribute, byId, colour, h, text } from "../shared/dom";
import { onTheme } from "../shared/theme";
import { format, t, translator } from "./context";
import { type Rows, SPAN_S } from "./series";
import type { Key } from "./texts";

/** How often the texts for screen readers change: a number that moves each second cannot be listened to. */
const SUMMARY_MS = 10_000;

interface Line {
  readonly name: Key;
  readonly colour: string;
  readonly of: (rows: Rows) => (number | null)[];
}

interface Spec {
  readonly id: string;
  readonly title: Key;
  readonly show: (value: number | null) => string;
  readonly lines: readonly Line[];
  /** Lines are parts of a whole, one on the other, up to this. */
  readonly stacked?: number;
  /** Least top of the scale. */
  readonly least: number;
}

const HEIGHT = 150;

const SPECS: readonly Spec[] = [
  {
    id: "chart-connections", title: "chart_connections", least: 10, show: (value) => format().short(value),
    lines: [{ name: "line_connections", colour: "--c1", of: (rows) => rows.connections }],
  },
  {
    id: "chart-messages", title: "chart_messages", least: 10, show: (value) => format().rate(value),
    lines: [
      { name: "line_delivered", colour: "--c1", of: (rows) => rows.delivered },
      { name: "line_published", colour: "--c2", of: (rows) => rows.published },
    ],
  },
  {
    id: "chart-latency", title: "chart_latency", least: 5, show: (value) => format().ms(value),
    lines: [
      { name: "p50" as Key, colour: "--c1", of: (rows) => rows.p50 },
      { name: "p95" as Key, colour: "--c2", of: (rows) => rows.p95 },
      { name: "p99", colour: "--c3", of: (rows) => rows.p99 },
    ],
  },
  {
    id: "chart-quality", title: "chart_quality", least: 100, stacked: 100, show: (value) => format().percent(value),
    lines: [
      { name: "band_3", colour: "--q3", of: (rows) => rows.quality[3] ?? [] },
      { name: "band_2", colour: "--q2", of: (rows) => rows.quality[2] ?? [] },
      { name: "band_1", colour: "--q1", of: (rows) => rows.quality[1] ?? [] },
      { name: "band_0", colour: "--q0", of: (rows) => rows.quality[0] ?? [] },
    ],
  },
];

/** A line's name: percentiles are called the same everywhere. */
const called = (line: Line): string => (translator.has(line.name) ? t(line.name) : line.name);

/** What uPlot draws: the worst at the bottom of a stack, each on those below it. */
function drawn(spec: Spec, lines: readonly (number | null)[][]): (number | null)[][] {
  if (spec.stacked === undefined) return [...lines];
  const sums: (number | null)[] = [];
  const stacked = [...lines].reverse().map((line) => line.map((value, i) => {
    sums[i] = value === null ? null : (sums[i] ?? 0) + value;
    return sums[i] ?? null;
  }));
  return stacked.reverse();
}

class Chart {
  readonly #spec: Spec;
  readonly #box: HTMLElement;
  readonly #values: HTMLElement[] = [];
  readonly #names: HTMLElement[] = [];
  readonly #summary: HTMLElement;
  #plot: uPlot | null = null;
  #summarized = -Infinity;
  #data: uPlot.AlignedData = [[]];

  constructor(spec: Spec) {
    this.#spec = spec;
    const figure = byId(spec.id);
    const legend = h("ul", { class: "legend" });
    for (const line of spec.lines) {
      const value = h("b"), name = h("span");
      this.#values.push(value);
      this.#names.push(name);
      legend.append(h("li", {}, h("i", { class: `swatch ${line.colour.slice(2)}`, "aria-hidden": "true" }), name, value));
    }
    this.#summary = h("p", { class: "visually-hidden", id: `${spec.id}-text` }, t(spec.title));
    this.#box = h("div", { class: "plot", role: "img", "aria-labelledby": this.#summary.id });
    figure.append(h("figcaption", { "data-t": spec.title }, t(spec.title)), legend, this.#box, this.#summary);
    new ResizeObserver(() => this.#fit()).observe(this.#box);
    onTheme(() => this.#rebuild());
  }

  #fit(): void {
    const width = Math.floor(this.#box.clientWidth);
    if (width < 50) return;
    if (!this.#plot) this.#rebuild();
    else if (this.#plot.width !== width) this.#plot.setSize({ width, height: HEIGHT });
  }

  #rebuild(): void {
    this.#plot?.destroy();
    this.#plot = null;
    const width = Math.floor(this.#box.clientWidth);
    if (width < 50) return;
    this.#plot = new uPlot(this.#options(width), this.#data, this.#box);
  }

  #options(width: number): uPlot.Options {
    const spec = this.#spec;
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    return {
      width,
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: true },
        y: { range: (_plot, _low, high) => [0, spec.stacked ?? Math.max(spec.least, (high ?? 0) * 1.1)] },
      },
      axes: [
        { ...axis, size: 26, space: 70, values: (_plot, splits) => splits.map((at) => format().clock(at * 1_000).slice(0, 5)) },
        { ...axis, size: 52, space: 30, values: (_plot, splits) => splits.map((value) => format().short(value)) },
      ],
      series: [{}, ...spec.lines.map((line): uPlot.Series => ({
        stroke: colour(line.colour),
        width: spec.stacked === undefined ? 1.5 : 0,
        points: { show: false },
        ...(spec.stacked !== undefined ? { fill: colour(line.colour) } : spec.lines.length === 1 ? { fill: `${colour(line.colour)}22` } : {}),
      }))],
    };
  }

  show(rows: Rows, now: number): void {
    const lines = this.#spec.lines.map((line) => line.of(rows));
    this.#data = [rows.time, ...drawn(this.#spec, lines)] as uPlot.AlignedData;
    this.#plot?.setData(this.#data);
    lines.forEach((line, i) => {
      text(this.#names[i]!, called(this.#spec.lines[i]!));
      // The second that is not over is not complete.
      text(this.#values[i]!, this.#spec.show(line.at(-2) ?? null));
    });
    if (now - this.#summarized >= SUMMARY_MS) this.#summarize(lines, now);
  }

  #summarize(lines: (number | null)[][], now: number): void {
    this.#summarized = now;
    const told = lines.map((line, i) => {
      const known = line.filter((value): value is number => value !== null);
      const show = this.#spec.show;
      const [low, high] = known.length ? [show(Math.min(...known)), show(Math.max(...known))] : [show(null), show(null)];
      return t("chart_line", { name: called(this.#spec.lines[i]!), now: show(line.at(-2) ?? null), low, high });
    });
    text(this.#summary, t("chart_summary", { title: t(this.#spec.title), lines: told.join("; ") }));
  }

  languageChanged(): void {
    this.#summarized = -Infinity;
    this.#rebuild();
  }
}

export class Charts {
  readonly #charts = SPECS.map((spec) => new Chart(spec));

  constructor() {
    attribute(byId("charts"), "data-span", SPAN_S);
    translator.onChange(() => this.#charts.forEach((chart) => chart.languageChanged()));
  }

  show(rows: Rows): void {
    const now = performance.now();
    for (const chart of this.#charts) chart.show(rows, now);
  }
}
