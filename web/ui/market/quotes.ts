// The newest quote of each symbol, from the messages of the rooms `market_*`. Pure.

import { decimals } from "../shared/format";
import type { Message } from "../shared/protocol";

/** Ticks that are kept for the line. */
export const TICKS = 240;

export type Direction = "up" | "down" | null;

export interface Tick {
  readonly at: number;
  readonly price: number;
}

export class Quote {
  readonly symbol: string;
  exchange = "";
  last: number | null = null;
  bid: number | null = null;
  ask: number | null = null;
  lastVolume: number | null = null;
  bidVolume: number | null = null;
  askVolume: number | null = null;
  seq = 0;
  at = 0;
  conflated = 0;
  /** Digits that prices are shown with. */
  decimals = 0;
  readonly ticks: Tick[] = [];
  /** Where each moved since it was last shown. */
  readonly moved: Record<"last" | "bid" | "ask", Direction> = { last: null, bid: null, ask: null };

  constructor(symbol: string) {
    this.symbol = symbol;
  }

  /** The price that bars go by: the trade, or the middle of bid and ask, or the one that is there. */
  get price(): number | null {
    return this.ticks.at(-1)?.price ?? null;
  }

  take(message: Message): void {
    if (message.seq <= this.seq) return;
    const data = (message.data ?? {}) as Record<string, unknown>;
    const number = (name: string): number | null => (typeof data[name] === "number" ? (data[name] as number) : null);
    this.seq = message.seq;
    this.at = message.timestamp;
    this.conflated += message.conflated ?? 0;
    if (typeof data.exchange === "string") this.exchange = data.exchange;
    this.lastVolume = number("volume") ?? this.lastVolume;
    this.bidVolume = number("bid_volume") ?? this.bidVolume;
    this.askVolume = number("ask_volume") ?? this.askVolume;
    const [price, bid, ask] = [number("price"), number("bid_price"), number("ask_price")];
    for (const [name, value] of [["last", price], ["bid", bid], ["ask", ask]] as const) {
      if (value === null) continue;
      this.decimals = Math.max(this.decimals, decimals(value));
      const before = this[name];
      this[name] = value;
      if (before !== null && before !== value) this.moved[name] = value > before ? "up" : "down";
    }
    const middle = bid !== null && ask !== null ? (bid + ask) / 2 : (bid ?? ask);
    const by = price ?? middle;
    if (by === null) return;
    this.ticks.push({ at: this.at, price: by });
    if (this.ticks.length > TICKS) this.ticks.shift();
  }
}

/** Another life of the room: numbers begin again. */
export function begin(quote: Quote): void {
  quote.seq = 0;
}
