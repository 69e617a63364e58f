// The two languages of the pages. `data-t` in the HTML names a text, `data-t-label` an aria-label, `data-t-hint` a placeholder,
// `data-t-title` a tooltip. A text with a bar has a form for one and a form for other numbers of `{n}`: "{n} node|{n} nodes".

import { Format, type Language } from "./format";

export type Texts<K extends string> = Record<K, readonly [en: string, zh: string]>;

const KEY = "tickmesh.language";

function preferred(): Language {
  const kept = localStorage.getItem(KEY);
  if (kept === "en" || kept === "zh") return kept;
  const first = navigator.languages.find((one) => /^(en|zh)\b/i.test(one)) ?? "en";
  return first.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export type Values = Readonly<Record<string, string | number>>;

/** A text with its values, in the form that `n` asks for. */
export function phrase(text: string, values: Values, format: Format): string {
  const bar = text.indexOf("|");
  const form = bar < 0 ? text : values.n === 1 ? text.slice(0, bar) : text.slice(bar + 1);
  return form.replace(/\{(\w+)\}/g, (whole, name: string) => {
    const value = values[name];
    return value === undefined ? whole : typeof value === "number" ? format.count(value) : value;
  });
}

/** What of a page's translator those parts need that all pages share. */
export type Speaker<K extends string> = Pick<Translator<K>, "t" | "language" | "set" | "apply">;

export class Translator<K extends string> {
  readonly #texts: Texts<K>;
  readonly #heard: (() => void)[] = [];
  language: Language = preferred();
  format = new Format(this.language);

  constructor(texts: Texts<K>) {
    this.#texts = texts;
  }

  /** A text, with `{name}` replaced. Numbers are written as counts, and `n` decides about the plural. */
  readonly t = (key: K, values: Values = {}): string => phrase(this.#texts[key][this.language === "zh" ? 1 : 0], values, this.format);

  has(key: string): key is K {
    return Object.hasOwn(this.#texts, key);
  }

  onChange(heard: () => void): void {
    this.#heard.push(heard);
  }

  set(language: Language): void {
    localStorage.setItem(KEY, language);
    this.language = language;
    this.format = new Format(language);
    this.apply();
    for (const heard of this.#heard) heard();
  }

  /** Writes the texts that stand in the HTML. */
  apply(root: ParentNode = document): void {
    document.documentElement.lang = this.language === "zh" ? "zh-CN" : "en";
    const each = (name: string, write: (element: Element, text: string) => void) => {
      for (const element of root.querySelectorAll(`[${name}]`)) {
        const key = element.getAttribute(name) ?? "";
        if (this.has(key)) write(element, this.t(key));
      }
    };
    each("data-t", (element, text) => { element.textContent = text; });
    each("data-t-label", (element, text) => element.setAttribute("aria-label", text));
    each("data-t-title", (element, text) => element.setAttribute("title", text));
    each("data-t-hint", (element, text) => element.setAttribute("placeholder", text));
  }
}
