// The large chart of the chosen symbol: ticks as a line, or one-minute candles. uPlot has the axes, candles are drawn here.

import uPlot from "uplot";
import { byId, colour, text, toggle } from "../shared/dom";
import { onTheme } from "../shared/theme";
import type { Format } from "../shared/format";
import type { Bar } from "./bars";
import type { Tick } from "./quotes";
import { type Mode, drawable, range } from "./span";

const HEIGHT = 280;
/** Width of a time label, in pixels. */
const LABEL = 52;

export interface Content {
  readonly mode: Mode;
  readonly bars: readonly Bar[];
  readonly ticks: readonly Tick[];
  readonly decimals: number;
  /** The same for those who do not see it. */
  readonly words: string;
  /** What is said in its place where there is too little to draw. */
  readonly empty: string;
}

const points = ({ mode, bars, ticks }: Content) => (mode === "bars" ? bars : ticks).length;

export class Chart {
  readonly #box = byId("chart");
  readonly #format: () => Format;
  #plot: uPlot | null = null;
  #content: Content | null = null;
  #bars: readonly Bar[] = [];

  constructor(format: () => Format) {
    this.#format = format;
    new ResizeObserver(() => {
      const width = Math.floor(this.#box.clientWidth);
      if (this.#plot && width > 50 && this.#plot.width !== width) this.#plot.setSize({ width, height: HEIGHT });
      else if (!this.#plot) this.#make();
    }).observe(this.#box);
    onTheme(() => this.#make());
  }

  show(content: Content): void {
    const before = this.#content;
    this.#content = content;
    text(byId("chart-text"), content.words);
    const drawn = drawable(content.mode, points(content));
    text(byId("chart-empty"), drawn ? "" : content.empty);
    toggle(byId("chart-empty"), !drawn);
    if (!drawn) this.#clear();
    else if (!this.#plot || before?.mode !== content.mode || before.decimals !== content.decimals) this.#make();
    else this.#plot.setData(this.#data(content));
  }

  #data(content: Content): uPlot.AlignedData {
    if (content.mode === "ticks") {
      return [content.ticks.map(({ at }) => at / 1_000), content.ticks.map(({ price }) => price)];
    }
    this.#bars = content.bars;
    return [
      content.bars.map(({ start }) => start / 1_000),
      content.bars.map(({ close }) => close),
    ];
  }

  #clear(): void {
    this.#plot?.destroy();
    this.#plot = null;
  }

  #make(): void {
    this.#clear();
    const width = Math.floor(this.#box.clientWidth);
    if (width < 50 || !this.#content || !drawable(this.#content.mode, points(this.#content))) return;
    this.#plot = new uPlot(this.#options(width, this.#content), this.#data(this.#content), this.#box);
  }

  #options(width: number, { mode, decimals }: Content): uPlot.Options {
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const clock = (at: number) => this.#format().clock(at * 1_000);
    const candles = mode === "bars";
    return {
      width,
      height: HEIGHT,
      padding: [10, 6, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: true, range: (_plot, low, high) => range(mode, low, high) },
        y: { range: (_plot, low, high) => this.#range(low, high, candles) },
      },
      axes: [
        { ...axis, size: 26, space: 80, values: (plot, splits) => splits.map((at) => {
          // A label that would be cut off at the left is left out.
          if (plot.valToPos(at, "x") < LABEL / 2) return "";
          return candles ? clock(at).slice(0, 5) : clock(at);
        }) },
        { ...axis, side: 1, size: 24 + 7 * (decimals + 3), space: 36, values: (_plot, splits) => splits.map((value) => value.toFixed(decimals)) },
      ],
      series: [{}, {
        stroke: candles ? "transparent" : colour("--accent"),
        width: 1.8,
        points: { show: false },
        ...(candles ? {} : { fill: `${colour("--accent")}1c` }),
      }],
      hooks: { draw: [(plot) => { if (candles) this.#candles(plot); this.#now(plot); }] },
    };
  }

  #range(low: number | null, high: number | null, candles: boolean): [number, number] {
    if (candles && this.#bars.length) {
      low = Math.min(...this.#bars.map((bar) => bar.low));
      high = Math.max(...this.#bars.map((bar) => bar.high));
    }
    if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
    const room = (high - low) * 0.12 || Math.abs(high) * 0.001 || 1;
    return [low - room, high + room];
  }

  #candles(plot: uPlot): void {
    const context = plot.ctx;
    const wide = Math.max(1, Math.abs(plot.valToPos(60, "x", true) - plot.valToPos(0, "x", true)) * 0.62);
    const stick = Math.max(1, Math.round(devicePixelRatio));
    const [up, down] = [colour("--up"), colour("--down")];
    context.save();
    context.beginPath();
    context.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
    context.clip();
    for (const bar of this.#bars) {
      const middle = plot.valToPos(bar.start / 1_000, "x", true);
      const y = (value: number) => plot.valToPos(value, "y", true);
      context.fillStyle = bar.close >= bar.open ? up : down;
      context.fillRect(middle - stick / 2, y(bar.high), stick, Math.max(1, y(bar.low) - y(bar.high)));
      const [top, bottom] = [y(Math.max(bar.open, bar.close)), y(Math.min(bar.open, bar.close))];
      context.fillRect(middle - wide / 2, top, wide, Math.max(stick, bottom - top));
    }
    context.restore();
  }

  /** A dashed line at the newest price. */
  #now(plot: uPlot): void {
    const newest = plot.data[1]?.at(-1);
    if (typeof newest !== "number") return;
    const context = plot.ctx, y = plot.valToPos(newest, "y", true);
    context.save();
    context.strokeStyle = colour("--accent");
    context.globalAlpha = 0.6;
    context.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    context.beginPath();
    context.moveTo(plot.bbox.left, y);
    context.lineTo(plot.bbox.left + plot.bbox.width, y);
    context.stroke();
    context.restore();
  }
}
