// The alarms that fire, those that are over since a short time, and the button that acknowledges.

import { api } from "../shared/api";
import { attribute, byId, h, keyed, text, toggle } from "../shared/dom";
import type { Alarms } from "./alarms";
import { attempt } from "./actions";
import { format, t } from "./context";
import type { Alarm } from "./model";

interface Parts {
  readonly grade: HTMLElement;
  readonly words: HTMLElement;
  readonly note: HTMLElement;
  readonly button: HTMLButtonElement;
}

export class AlarmView {
  readonly #list = byId("alarm-list");
  readonly #known = new Map<string, HTMLElement>();
  readonly #parts = new WeakMap<Element, Parts>();

  show(alarms: Alarms, serverNow: number): void {
    const shown = [...alarms.firing(), ...alarms.resolved(serverNow)];
    toggle(byId("no-alarms"), alarms.known && shown.length === 0);
    keyed(this.#list, this.#known, shown, ({ id }) => id, (alarm) => this.#make(alarm), (row, alarm) => this.#update(row, alarm, serverNow));
  }

  /** Says it to those who listen. */
  announce(alarm: Alarm): void {
    text(byId("announcer"), t(alarm.state === "firing" ? "now_firing" : "now_resolved", { text: alarm.text }));
  }

  #make({ id }: Alarm): HTMLElement {
    const parts: Parts = { grade: h("b", { class: "grade" }), words: h("span", { class: "words" }), note: h("span", { class: "note" }), button: h("button", { type: "button" }) };
    const acknowledge = async () => {
      parts.button.disabled = true;
      await attempt(() => api(`alarms/${encodeURIComponent(id)}/ack`, "POST"), () => t("done_ack"));
      parts.button.disabled = false;
    };
    parts.button.addEventListener("click", () => void acknowledge());
    const row = h("li", { "data-alarm": id }, parts.grade, parts.words, parts.note, parts.button);
    this.#parts.set(row, parts);
    return row;
  }

  #update(row: HTMLElement, alarm: Alarm, serverNow: number): void {
    const parts = this.#parts.get(row);
    if (!parts) return;
    const firing = alarm.state === "firing";
    attribute(row, "class", `alarm ${firing ? alarm.severity : "resolved"}${alarm.acknowledged_by !== null ? " acknowledged" : ""}`);
    attribute(row, "data-state", alarm.state);
    text(parts.grade, t(alarm.severity));
    text(parts.words, alarm.text);
    const when = firing ? t("since", { span: format().span(serverNow - alarm.since) }) : t("resolved_at", { time: format().clock(alarm.at) });
    const who = alarm.acknowledged_by === null ? "" : ` · ${t("acknowledged_by", { user: alarm.acknowledged_by })}`;
    text(parts.note, when + who);
    toggle(parts.button, firing && alarm.acknowledged_by === null);
    text(parts.button, t("acknowledge"));
    attribute(parts.button, "aria-label", t("acknowledge_of", { text: alarm.text }));
  }
}
