// What happened, the newest first: members that come and go, sessions that move.

import { byId, h, toggle } from "../shared/dom";
import type { Message } from "../shared/protocol";
import { format, t, translator } from "./context";
import type { ClusterEvent } from "./model";

const MOST = 100;

interface Entry {
  readonly event: string;
  readonly data: ClusterEvent;
}

const TONES: Record<string, string> = {
  node_lost: "bad", gateway_lost: "bad", node_left: "mild", gateway_left: "mild", node_draining: "mild",
  node_joined: "good", gateway_joined: "good", node_resumed: "good",
};

export class EventLog {
  readonly #list = byId("event-list");
  readonly #entries: Entry[] = [];

  constructor() {
    translator.onChange(() => {
      this.#list.replaceChildren(...this.#entries.map((entry) => this.#row(entry)));
    });
  }

  take(message: Message): void {
    const entry = { event: message.event, data: message.data as ClusterEvent };
    let at = 0;
    while (at < this.#entries.length && this.#entries[at]!.data.at > entry.data.at) at += 1;
    this.#entries.splice(at, 0, entry);
    this.#list.insertBefore(this.#row(entry), this.#list.children[at] ?? null);
    while (this.#entries.length > MOST) {
      this.#entries.pop();
      this.#list.lastElementChild?.remove();
    }
    this.began();
  }

  /** Whether anything has happened is known. */
  began(): void {
    toggle(byId("no-events"), this.#entries.length === 0);
  }

  #row({ event, data }: Entry): HTMLElement {
    return h("li", { class: `event ${TONES[event] ?? ""}`, "data-event": event, "data-id": data.id },
      h("time", { datetime: new Date(data.at).toISOString() }, format().clock(data.at)), h("span", {}, words(event, data)));
  }
}

/** In the language of the page where it knows the event; otherwise as the cluster says it. */
function words(event: string, data: ClusterEvent): string {
  if (event === "moved") {
    const key = data.cause === "takeover" ? "event_takeover" : "event_moved";
    const moved = t(key, { n: data.sessions ?? 0, gateway: data.gateway ?? data.id });
    const pause = data.pause_ms?.p99;
    return typeof pause === "number" ? `${moved} · ${t("pause", { ms: format().ms(pause) })}` : moved;
  }
  const key = `event_${event}`;
  return translator.has(key) ? t(key, { id: data.id }) : data.text;
}
