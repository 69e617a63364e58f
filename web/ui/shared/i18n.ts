// The two languages of the pages. `data-t` in the HTML names a text, `data-t-label` an aria-label, `data-t-hint` a placeholder.

import { Format, type Language } from "./format";

export type Texts<K extends string> = Record<K, readonly [en: string, zh: string]>;

const KEY = "tickmesh.language";

function preferred(): Language {
  const kept = localStorage.getItem(KEY);
  if (kept === "en" || kept === "zh") return kept;
  const first = navigator.languages.find((one) => /^(en|zh)\b/i.test(one)) ?? "en";
  return first.toLowerCase().startsWith("zh") ? "zh" : "en";
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

  /** A text, with `{name}` replaced. */
  readonly t = (key: K, values: Record<string, string | number> = {}): string => {
    const found = this.#texts[key][this.language === "zh" ? 1 : 0];
    return found.replace(/\{(\w+)\}/g, (whole, name: string) => (name in values ? String(values[name]) : whole));
  };

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
    each("data-t-hint", (element, text) => element.setAttribute("placeholder", text));
  }
}
