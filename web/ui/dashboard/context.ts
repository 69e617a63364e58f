// What the views of the dashboard share.

import { Translator } from "../shared/i18n";
import { type Key, texts } from "./texts";

export const translator = new Translator<Key>(texts);
export const t = translator.t;

/** Numbers in the language of the page. */
export const format = () => translator.format;

/** Time of this page as long as it is connected: what was heard does not grow old while nothing can be heard. */
export class Clock {
  #stoppedAt: number | null = 0;
  #lost = 0;

  constructor() {
    this.#stoppedAt = performance.now();
  }

  now(): number {
    return (this.#stoppedAt ?? performance.now()) - this.#lost;
  }

  run(running: boolean): void {
    if (running && this.#stoppedAt !== null) {
      this.#lost += performance.now() - this.#stoppedAt;
      this.#stoppedAt = null;
    } else if (!running && this.#stoppedAt === null) {
      this.#stoppedAt = performance.now();
    }
  }
}
