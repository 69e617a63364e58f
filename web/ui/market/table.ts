// The table of quotes: one row for each symbol, drawn at most four times a second, however many messages came.

import { attribute, byId, h, text } from "../shared/dom";
import type { Format } from "../shared/format";
import { onTheme } from "../shared/theme";
import type { Bars } from "./bars";
import { shown } from "./day";
import { type Palette, draw, palette, prepare } from "./mini";
import type { Quote } from "./quotes";

const FLASH_MS = 450;

interface Price {
  readonly cell: HTMLElement;
  readonly value: HTMLElement;
  readonly size: HTMLElement;
}

interface Row {
  readonly tr: HTMLTableRowElement;
  readonly button: HTMLButtonElement;
  readonly exchange: HTMLElement;
  readonly last: Price;
  readonly bid: Price;
  readonly ask: Price;
  readonly change: HTMLElement;
  readonly canvas: HTMLCanvasElement;
  readonly time: HTMLElement;
  readonly seq: Price;
}

function price(when: "" | " wide" | " roomy"): Price {
  const value = h("span"), size = h("span", { class: "size" });
  return { cell: h("td", { class: `number price${when}` }, value, size), value, size };
}

export class Table {
  readonly #body = byId("quotes");
  readonly #rows = new Map<string, Row>();
  readonly #chosen: (symbol: string) => void;
  #palette: Palette = palette();

  constructor(chosen: (symbol: string) => void) {
    this.#chosen = chosen;
    onTheme(() => { this.#palette = palette(); });
  }

  add(symbol: string): void {
    const button = h("button", { type: "button", class: "symbol" }, symbol);
    button.addEventListener("click", () => this.#chosen(symbol));
    const canvas = h("canvas", { "aria-hidden": "true" });
    prepare(canvas);
    const row = {
      button, canvas, last: price(" wide"), bid: price(""), ask: price(" roomy"), seq: price(" wide"),
      exchange: h("td", { class: "wide" }), change: h("td", { class: "number change" }), time: h("td", { class: "number wide" }),
    };
    const tr = h("tr", { "data-symbol": symbol }, h("th", { scope: "row" }, button), row.exchange, row.last.cell, row.bid.cell, row.ask.cell,
      row.change, h("td", { class: "trend" }, canvas), row.time, row.seq.cell);
    const after = [...this.#rows].map(([other, { tr }]) => [other, tr] as const).sort(([a], [b]) => a.localeCompare(b)).find(([other]) => other > symbol);
    this.#body.insertBefore(tr, after?.[1] ?? null);
    this.#rows.set(symbol, { ...row, tr });
  }

  /** Which row is the chosen one. */
  mark(symbol: string): void {
    for (const [one, { tr, button }] of this.#rows) {
      tr.classList.toggle("chosen", one === symbol);
      attribute(button, "aria-pressed", one === symbol ? "true" : "false");
    }
  }

  /** `from` says what the change is measured from. */
  show(quote: Quote, bars: Bars, change: number | null, from: string, format: Format): void {
    const row = this.#rows.get(quote.symbol);
    if (!row) return;
    text(row.exchange, quote.exchange);
    for (const [name, value, size] of [["last", quote.last, quote.lastVolume], ["bid", quote.bid, quote.bidVolume], ["ask", quote.ask, quote.askVolume]] as const) {
      const cell = row[name];
      text(cell.value, value === null ? "–" : value.toFixed(quote.decimals));
      text(cell.size, size === null ? "" : size.toLocaleString(format.locale, { maximumFractionDigits: 4 }));
      const moved = quote.moved[name];
      quote.moved[name] = null;
      if (!moved) continue;
      cell.cell.classList.remove("up", "down", "flash-up", "flash-down");
      cell.cell.classList.add(moved, `flash-${moved}`);
      setTimeout(() => cell.cell.classList.remove("flash-up", "flash-down"), FLASH_MS);
    }
    showChange(row.change, change, from);
    text(row.time, quote.at ? format.clock(quote.at) : "");
    text(row.seq.value, format.count(quote.seq));
    text(row.seq.size, quote.conflated ? `+${format.short(quote.conflated)}` : "");
    draw(row.canvas, bars.list(), quote.ticks, this.#palette);
  }
}

/** Writes a change, and from where it is measured into the tooltip. */
export function showChange(element: HTMLElement, change: number | null, from: string): void {
  const { text: words, sign } = shown(change);
  text(element, words);
  element.classList.toggle("up", sign === "up");
  element.classList.toggle("down", sign === "down");
  attribute(element, "title", from);
}
