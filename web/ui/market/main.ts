// The market page: one WebSocket, one row per symbol, and what the protocol tells: state, recovery, what was conflated.

import { ApiError, api, reason, socket, token } from "../shared/api";
import { attribute, byId, text, toggle } from "../shared/dom";
import { Translator } from "../shared/i18n";
import { Connection, type Message } from "../shared/protocol";
import { signIn, signInAgain, startSignOut } from "../shared/signin";
import { showState, startControls } from "../shared/status";
import { onTheme } from "../shared/theme";
import { decoded } from "./address";
import { type Bar, Bars, bar } from "./bars";
import { Chart } from "./chart";
import { Day } from "./day";
import { ENOUGH } from "./mini";
import { Quote, TICKS, begin } from "./quotes";
import type { Mode } from "./span";
import { Table, showChange } from "./table";
import { texts } from "./texts";

const PREFIX = "market_";
const DRAW_MS = 250;
const ROOMS_MS = 5_000;
/** Symbols that are shown, at most. */
const MOST = 100;
/** For how long the connection is cut: long enough to see it. */
const CUT_MS = 3_000;
/** Bars that are asked for. */
const BARS = 120;
/** Symbols whose day is asked for within a second, at most. */
const DAYS = 10;

const translator = new Translator(texts);
const t = translator.t;

/** A symbol that is shown. */
interface Shown {
  readonly quote: Quote;
  readonly bars: Bars;
  readonly day: Day;
}

class Market {
  readonly #shown = new Map<string, Shown>();
  readonly #changed = new Set<string>();
  /** In the language that the page has when they are shown. */
  readonly #problems = new Map<string, () => string>();
  readonly #table: Table;
  readonly #chart = new Chart(() => translator.format);
  readonly #connection: Connection;
  #chosen = "";
  #mode: Mode | null = null;
  #more = 0;
  #seen = 0;
  /** When the newest message of a market came, by this machine's clock; 0 before the first. */
  #heard = 0;

  constructor() {
    this.#table = new Table((symbol) => this.#choose(symbol));
    this.#connection = new Connection(() => socket(), (state) => {
      showState(this.#connection, translator);
      this.#showAge();
      if (state.phase === "connected") void this.#findSymbols();
      if (state.phase === "refused") void signInAgain(translator, refusal);
    });
    for (const mode of ["ticks", "bars"] as const) {
      byId(`mode-${mode}`).addEventListener("click", () => {
        this.#mode = mode;
        this.#drawChart();
      });
    }
    byId("cut").addEventListener("click", () => this.#connection.cut(CUT_MS));
    const all = () => { for (const symbol of this.#shown.keys()) this.#changed.add(symbol); };
    translator.onChange(() => {
      all();
      this.#facts();
      this.#showAge();
    });
    onTheme(all);
  }

  start(): void {
    this.#connection.start();
    setInterval(() => this.#draw(), DRAW_MS);
    setInterval(() => this.#facts(), 1_000);
    setInterval(() => void this.#findSymbols(), ROOMS_MS);
    addEventListener("online", () => this.#connection.hurry());
    addEventListener("hashchange", () => this.#choose(decoded(location.hash)));
  }

  /** Prices that are not live are said to be of when they came. */
  #showAge(): void {
    const { phase, recovery } = this.#connection.state;
    const stale = this.#connection.greetings > 0 && !(phase === "connected" && recovery !== "running");
    document.body.classList.toggle("stale", stale);
    const time = translator.format.clock(this.#heard);
    text(byId("stale"), this.#heard ? t("as_of", { time }) : t("no_prices"));
    toggle(byId("stale"), stale);
    text(byId("hero-as-of"), t("as_of_short", { time }));
    toggle(byId("hero-as-of"), stale && this.#heard > 0);
  }

  /** The rooms that there are, for those who may list them; otherwise the address or the watchlist names symbols. */
  async #findSymbols(): Promise<void> {
    const named = new URLSearchParams(location.search).get("symbols");
    try {
      const found = named ? named.split(",") : await listed();
      found.filter((symbol) => symbol !== "").forEach((symbol, i) => {
        if (i < MOST || this.#shown.has(symbol)) this.#follow(symbol);
      });
      this.#more = found.filter((symbol) => !this.#shown.has(symbol)).length;
      this.#problems.delete("rooms");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      // While the connection is away its state says so already.
      if (this.#connection.state.phase === "connected") this.#problems.set("rooms", () => t("rooms_problem", { why: reason(error, t) }));
    }
  }

  #follow(symbol: string): void {
    if (this.#shown.has(symbol)) return;
    const quote = new Quote(symbol), bars = new Bars();
    this.#shown.set(symbol, { quote, bars, day: new Day() });
    this.#table.add(symbol);
    const refused = (room: string) => (why: string) => this.#problems.set(room, () => t("room_problem", { room, why }));
    this.#connection.follow(PREFIX + symbol, { delivery: "latest", max_rate: 4, history: TICKS }, {
      message: (message: Message) => {
        quote.take(message);
        this.#heard = Date.now();
        this.#changed.add(symbol);
      },
      anew: () => begin(quote),
      refused: refused(PREFIX + symbol),
    });
    const kline = `kline_${symbol}_1m`;
    this.#connection.follow(kline, { delivery: "latest", max_rate: 1, history: BARS }, {
      message: ({ data, seq }: Message) => {
        const told = bar(data);
        if (!told) return;
        bars.tell(told, seq);
        this.#changed.add(symbol);
      },
      anew: () => {
        bars.anew();
        void this.#askForBars(symbol);
      },
      refused: refused(kline),
    });
    void this.#askForBars(symbol);
    if (this.#chosen === "" || symbol === decoded(location.hash)) this.#choose(symbol);
  }

  async #askForBars(symbol: string): Promise<void> {
    try {
      const bars = await stored(symbol, "1m", BARS);
      this.#shown.get(symbol)?.bars.store(bars);
      this.#changed.add(symbol);
      this.#problems.delete("bars");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#barsProblem(error);
      if (error.status === 0 || error.status >= 500) setTimeout(() => void this.#askForBars(symbol), ROOMS_MS + Math.random() * ROOMS_MS);
    }
  }

  async #askForDay(symbol: string, day: Day): Promise<void> {
    day.asked(Date.now());
    try {
      const [newest] = await stored(symbol, "1d", 1);
      day.store(newest ?? null);
      this.#changed.add(symbol);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#barsProblem(error);
    }
  }

  /** While the connection is away its state says so already. */
  #barsProblem(error: ApiError): void {
    if (this.#connection.state.phase === "connected") this.#problems.set("bars", () => t("bars_problem", { why: reason(error, t) }));
  }

  /** Of those whose day is not known, or may be over. */
  #askForDays(): void {
    if (this.#connection.state.phase !== "connected") return;
    const now = Date.now();
    const due = [...this.#shown].filter(([, { quote, day }]) => day.due(quote.at, now));
    for (const [symbol, { day }] of due.slice(0, DAYS)) void this.#askForDay(symbol, day);
  }

  #choose(symbol: string): void {
    if (!this.#shown.has(symbol) || this.#chosen === symbol) return;
    if (this.#chosen !== "") history.replaceState(null, "", `#${encodeURIComponent(symbol)}`);
    this.#chosen = symbol;
    this.#table.mark(symbol);
    this.#drawChart();
  }

  #draw(): void {
    if (document.hidden) return;
    for (const symbol of this.#changed) {
      const shown = this.#shown.get(symbol);
      if (shown) this.#table.show(shown.quote, shown.bars, shown.day.change(shown.quote.price), from(shown), translator.format);
    }
    if (this.#changed.has(this.#chosen)) this.#drawChart();
    this.#changed.clear();
  }

  #drawChart(): void {
    const chosen = this.#shown.get(this.#chosen);
    if (!chosen) return;
    const { quote, day } = chosen, list = chosen.bars.list();
    toggle(byId("hero"), true);
    toggle(byId("empty"), false);
    const mode = this.#mode ?? (list.length >= ENOUGH ? "bars" : "ticks");
    for (const one of ["ticks", "bars"] as const) attribute(byId(`mode-${one}`), "aria-pressed", mode === one ? "true" : "false");
    const prices = mode === "bars" ? list.flatMap(({ low, high }) => [low, high]) : quote.ticks.map(({ price }) => price);
    const show = (value: number | null | undefined) => (typeof value === "number" && Number.isFinite(value) ? value.toFixed(quote.decimals) : "–");
    const [low, high] = prices.length ? [Math.min(...prices), Math.max(...prices)] : [null, null];
    text(byId("hero-symbol"), quote.symbol);
    text(byId("hero-exchange"), quote.exchange);
    text(byId("hero-price"), show(quote.price));
    const change = day.change(quote.price);
    showChange(byId("hero-change"), change, from(chosen));
    toggle(byId("hero-from"), change !== null);
    text(byId("hero-bid"), show(quote.bid));
    text(byId("hero-ask"), show(quote.ask));
    text(byId("hero-spread"), quote.bid === null || quote.ask === null ? "–" : show(quote.ask - quote.bid));
    text(byId("hero-high"), show(high));
    text(byId("hero-low"), show(low));
    const n = mode === "bars" ? list.length : quote.ticks.length;
    text(byId("hero-count"), t(mode === "bars" ? "bar_count" : "tick_count", { n }));
    const words = t(mode === "bars" ? "chart_text_bars" : "chart_text_ticks",
      { symbol: quote.symbol, n, close: show(quote.price), low: show(low), high: show(high) });
    const empty = t(mode === "bars" ? "no_bars" : "more_data");
    this.#chart.show({ mode, bars: list, ticks: quote.ticks, decimals: quote.decimals, words, empty });
  }

  #facts(): void {
    this.#askForDays();
    showState(this.#connection, translator);
    const { received, conflated, lost } = this.#connection.totals();
    const f = translator.format;
    text(byId("rate"), f.rate(received - this.#seen));
    this.#seen = received;
    text(byId("round-trip"), f.ms(this.#connection.roundTrip));
    text(byId("received"), f.short(received));
    text(byId("conflated"), f.short(conflated));
    text(byId("lost"), f.count(lost));
    byId("lost").className = lost > 0 ? "bad" : "";
    text(byId("reconnects"), f.count(Math.max(0, this.#connection.greetings - 1)));
    text(byId("anew"), this.#connection.anew ? t("rooms_anew", { n: this.#connection.anew }) : "");
    text(byId("node"), this.#connection.node || "–");
    text(byId("session"), this.#connection.session || "–");
    byId<HTMLButtonElement>("cut").disabled = this.#connection.state.phase !== "connected";
    const problem = [...this.#problems.values()][0]?.() ?? (this.#more ? t("and_more", { n: this.#more }) : "");
    toggle(byId("problem"), problem !== "");
    text(byId("problem"), problem);
  }
}

/** What a symbol's change is measured from, in words. */
function from({ quote, day }: Shown): string {
  return day.open === null ? t("change_unknown") : t("change_from", { open: day.open.toFixed(quote.decimals) });
}

/** The newest bars of the time-series store, in order of time. */
async function stored(symbol: string, timeframe: "1m" | "1d", limit: number): Promise<Bar[]> {
  const { rows } = await api<{ rows: unknown[] }>(`market/${encodeURIComponent(symbol)}?data_type=kline&timeframe=${timeframe}&limit=${limit}`);
  return rows.map(bar).filter((one) => one !== null);
}

async function listed(): Promise<string[]> {
  try {
    const { rooms } = await api<{ rooms: { room: string; seq: number }[] }>("rooms");
    // The liveliest first: the first one is the one whose chart is shown.
    const markets = rooms.filter(({ room }) => room.startsWith(PREFIX)).sort((a, b) => b.seq - a.seq);
    return markets.map(({ room }) => room.slice(PREFIX.length));
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 403) throw error;
    const { symbols } = await api<{ symbols: string[] }>("watchlist").catch(() => ({ symbols: [] }));
    if (symbols.length === 0) throw new ApiError(403, error.code, t("no_symbols"));
    return symbols;
  }
}

function refusal(who: { role: string }): string | null {
  return who.role === "anonymous" && token.get() ? t("nobody") : null;
}

async function main(): Promise<void> {
  startControls(translator);
  await signIn(translator, refusal);
  startSignOut();
  toggle(byId("main"), true);
  new Market().start();
  const dashboard = await fetch("dashboard", { method: "HEAD" }).catch(() => null);
  toggle(byId("dashboard-link"), dashboard?.ok ?? false);
}

void main();
