// The table of sessions: asked for while it is looked at, filtered and shown page by page.

import { ApiError, api, reason } from "../shared/api";
import { attribute, byId, h, keyed, text, toggle } from "../shared/dom";
import { format, t, translator } from "./context";
import { type Details, stateWord } from "./details";
import type { Session, SessionsAnswer } from "./model";
import { paged } from "./traffic";

/** Sessions that are asked for at a time. */
const LOADED = 1_000;
const PAGE = 25;
const REFRESH_MS = 5_000;

export class Sessions {
  readonly #body = byId("session-rows");
  readonly #known = new Map<string, HTMLTableRowElement>();
  readonly #filter = byId<HTMLInputElement>("session-filter");
  readonly #details: Details;
  #answer: SessionsAnswer | null = null;
  #problem: ApiError | null = null;
  #page = 0;
  #visible = false;
  #asking = false;

  constructor(details: Details) {
    this.#details = details;
    this.#filter.addEventListener("input", () => {
      this.#page = 0;
      this.#show();
    });
    const turn = (by: number) => () => {
      this.#page += by;
      this.#show();
    };
    byId("session-previous").addEventListener("click", turn(-1));
    byId("session-next").addEventListener("click", turn(1));
    new IntersectionObserver((entries) => {
      this.#visible = entries.at(-1)?.isIntersecting ?? false;
      void this.#ask();
    }).observe(byId("sessions"));
    setInterval(() => void this.#ask(), REFRESH_MS);
    translator.onChange(() => this.#show());
  }

  async #ask(): Promise<void> {
    if (!this.#visible || document.hidden || this.#asking) return;
    this.#asking = true;
    try {
      this.#answer = await api<SessionsAnswer>(`sessions?limit=${LOADED}`);
      this.#problem = null;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#problem = error;
    } finally {
      this.#asking = false;
    }
    this.#show();
  }

  #show(): void {
    const answer = this.#answer;
    const wanted = this.#filter.value.trim().toLowerCase();
    const matches = ({ user_id, session_id, node_id, state, remote }: Session) =>
      [user_id, session_id, node_id, state, remote].some((value) => value.toLowerCase().includes(wanted));
    const found = (answer?.sessions ?? []).filter((session) => wanted === "" || matches(session));
    const { items, page, pages } = paged(found, this.#page, PAGE);
    this.#page = page;
    keyed(this.#body, this.#known, items, ({ session_id }) => session_id, (session) => this.#make(session), (tr, session) => this.#update(tr, session));
    text(byId("session-page"), t("page_of", { page: page + 1, pages }));
    byId<HTMLButtonElement>("session-previous").disabled = page === 0;
    byId<HTMLButtonElement>("session-next").disabled = page >= pages - 1;
    toggle(byId("no-sessions"), answer !== null && found.length === 0);
    text(byId("session-note"), this.#note(found.length));
  }

  #note(shown: number): string {
    const answer = this.#answer;
    const problem = this.#problem ? [t("sessions_problem", { why: reason(this.#problem, t) })] : [];
    if (!answer) return problem.join("");
    const notes = [t("shown_of", { shown, n: answer.total })];
    if (answer.sessions.length < answer.total) notes.push(t("first_of", { n: answer.sessions.length }));
    if (answer.unanswered.length) notes.push(t("no_answer_from", { nodes: answer.unanswered.join(", ") }));
    return [...notes, ...problem].join(" · ");
  }

  #make({ session_id }: Session): HTMLTableRowElement {
    const button = h("button", { type: "button", class: "plain id" });
    button.addEventListener("click", () => {
      const session = this.#answer?.sessions.find((one) => one.session_id === session_id);
      if (session) this.#details.session(session, () => void this.#ask());
    });
    const plain = () => h("td"), number = () => h("td", { class: "number" });
    return h("tr", {}, h("th", { scope: "row" }, button), plain(), plain(), plain(), number(), number(), number(), number(), number());
  }

  #update(tr: HTMLTableRowElement, session: Session): void {
    const f = format();
    const button = tr.querySelector("button");
    if (button) {
      text(button, session.session_id.slice(-8));
      attribute(button, "aria-label", t("details_of", { id: session.session_id.slice(-8) }));
      attribute(button, "title", session.session_id);
    }
    attribute(tr, "data-id", session.session_id);
    const values = [
      session.user_id, session.node_id, stateWord(session.state), f.count(session.rooms.length), f.ms(session.round_trip_ms),
      f.count(session.quality), f.bytes(session.queued_bytes), f.span(Date.now() - session.connected_at),
    ];
    values.forEach((value, i) => text(tr.cells[i + 1]!, value));
    attribute(tr.cells[3]!, "class", `session-state ${session.state}`);
  }
}
