// Numbers as people read them, in the language of the page. Pure but for Intl.

export type Language = "en" | "zh";

export const NONE = "–";

export class Format {
  readonly #whole: Intl.NumberFormat;
  readonly #short: Intl.NumberFormat;
  readonly #one: Intl.NumberFormat;
  readonly #clock: Intl.DateTimeFormat;
  readonly #date: Intl.DateTimeFormat;
  readonly locale: string;

  constructor(language: Language) {
    this.locale = language === "zh" ? "zh-CN" : "en-GB";
    this.#whole = new Intl.NumberFormat(this.locale, { maximumFractionDigits: 0 });
    this.#short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
    this.#one = new Intl.NumberFormat(this.locale, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
    this.#clock = new Intl.DateTimeFormat(this.locale, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
    this.#date = new Intl.DateTimeFormat(this.locale, { dateStyle: "medium", timeStyle: "medium", hour12: false });
  }

  count(value: number | null | undefined): string {
    return known(value) ? this.#whole.format(value) : NONE;
  }

  /** 12,345 as "12.3K": where there is little room. */
  short(value: number | null | undefined): string {
    if (!known(value)) return NONE;
    return value < 10_000 ? this.#whole.format(value) : this.#short.format(value);
  }

  rate(value: number | null | undefined): string {
    if (!known(value)) return NONE;
    return value > 0 && value < 10 ? this.#one.format(value) : this.short(value);
  }

  /** Milliseconds, with their unit. */
  ms(value: number | null | undefined): string {
    if (!known(value)) return NONE;
    if (value >= 10_000) return `${this.#one.format(value / 1_000)} s`;
    return `${value < 100 ? this.#one.format(value) : this.#whole.format(value)} ms`;
  }

  bytes(value: number | null | undefined): string {
    if (!known(value)) return NONE;
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    while (value >= 1_024 && unit < units.length - 1) {
      value /= 1_024;
      unit += 1;
    }
    return `${unit === 0 || value >= 100 ? this.#whole.format(value) : this.#one.format(value)} ${units[unit]}`;
  }

  percent(value: number | null | undefined): string {
    return known(value) ? `${value < 10 && value > 0 ? this.#one.format(value) : this.#whole.format(value)} %` : NONE;
  }

  clock(utc: number): string {
    return this.#clock.format(utc);
  }

  date(utc: number): string {
    return this.#date.format(utc);
  }

  /** A span of time: "3 d 4 h", "2 min 5 s". */
  span(ms: number): string {
    const seconds = Math.max(0, Math.floor(ms / 1_000));
    const parts: [number, string][] = [
      [Math.floor(seconds / 86_400), "d"],
      [Math.floor(seconds / 3_600) % 24, "h"],
      [Math.floor(seconds / 60) % 60, "min"],
      [seconds % 60, "s"],
    ];
    const first = parts.findIndex(([value]) => value > 0);
    if (first < 0) return "0 s";
    return parts.slice(first, first + 2).filter(([value], i) => i === 0 || value > 0).map(([value, unit]) => `${value} ${unit}`).join(" ");
  }
}

function known(value: number | null | undefined): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

/** Digits after the point that a number was written with. */
export function decimals(value: number): number {
  const [digits = "", exponent] = String(value).toLowerCase().split("e-");
  return Math.min(12, (digits.split(".")[1] ?? "").length + Number(exponent ?? 0));
}
