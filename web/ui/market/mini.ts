// The small chart in each row: candles of the newest bars, or a line of ticks as long as there are few bars.

import { colour } from "../shared/dom";
import type { Bar } from "./bars";
import type { Tick } from "./quotes";

const WIDTH = 132;
const HEIGHT = 34;
/** Bars that fit. */
const FIT = 33;
/** From so many on bars are shown. */
export const ENOUGH = 5;

export interface Palette {
  readonly up: string;
  readonly down: string;
  readonly line: string;
}

export function palette(): Palette {
  return { up: colour("--up"), down: colour("--down"), line: colour("--accent") };
}

export function prepare(canvas: HTMLCanvasElement): void {
  const scale = Math.max(1, window.devicePixelRatio || 1);
  canvas.width = WIDTH * scale;
  canvas.height = HEIGHT * scale;
}

export function draw(canvas: HTMLCanvasElement, bars: readonly Bar[], ticks: readonly Tick[], colours: Palette): void {
  const context = canvas.getContext("2d");
  if (!context) return;
  const scale = canvas.width / WIDTH;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, WIDTH, HEIGHT);
  if (bars.length >= ENOUGH) candles(context, bars.slice(-FIT), colours);
  else if (ticks.length > 1) line(context, ticks, colours);
}

function scaleOf(low: number, high: number): (value: number) => number {
  const span = high - low || 1;
  return (value) => HEIGHT - 3 - ((value - low) / span) * (HEIGHT - 6);
}

function candles(context: CanvasRenderingContext2D, bars: readonly Bar[], colours: Palette): void {
  const y = scaleOf(Math.min(...bars.map(({ low }) => low)), Math.max(...bars.map(({ high }) => high)));
  const first = WIDTH - bars.length * 4;
  bars.forEach((bar, i) => {
    context.fillStyle = bar.close >= bar.open ? colours.up : colours.down;
    const x = first + i * 4;
    context.fillRect(x + 1, y(bar.high), 1, Math.max(1, y(bar.low) - y(bar.high)));
    const [top, bottom] = [y(Math.max(bar.open, bar.close)), y(Math.min(bar.open, bar.close))];
    context.fillRect(x, top, 3, Math.max(1, bottom - top));
  });
}

function line(context: CanvasRenderingContext2D, ticks: readonly Tick[], colours: Palette): void {
  const prices = ticks.slice(-120).map(({ price }) => price);
  const y = scaleOf(Math.min(...prices), Math.max(...prices));
  context.strokeStyle = colours.line;
  context.lineWidth = 1.4;
  context.beginPath();
  prices.forEach((price, i) => context.lineTo(((i + 120 - prices.length) / 119) * WIDTH, y(price)));
  context.stroke();
}
