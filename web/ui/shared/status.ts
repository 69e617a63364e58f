// The pill that says how the connection does, and the controls beside it. Both pages have them.

import type { Connection, State } from "./protocol";
import type { Language } from "./format";
import type { Speaker } from "./i18n";
import type { Shared } from "./texts";
import { byId, text } from "./dom";
import { startTheme } from "./theme";

/** How a state is told: a class for its colour, and words. */
export function describe(state: State, now: number, before: boolean, t: (key: Shared, values?: Record<string, string | number>) => string): [string, string] {
  switch (state.phase) {
    case "connecting":
      return before ? ["lost", t("reconnecting")] : ["connecting", t("connecting")];
    case "waiting": {
      const s = Math.max(0, (state.retryAt - now) / 1_000).toFixed(1);
      return ["lost", state.why ? t("waiting_why", { why: state.why, s }) : t("waiting", { s })];
    }
    case "refused":
      return ["lost", t("refused")];
    case "connected":
      if (state.recovery === "running") return ["connecting", t("recovering")];
      return ["connected", t(state.recovery === "none" ? "connected" : state.recovery)];
  }
}

export function showState(connection: Connection, translator: Speaker<Shared>): void {
  const [kind, words] = describe(connection.state, Date.now(), connection.greetings > 0, translator.t);
  const pill = byId("state");
  if (pill.className !== kind) pill.className = kind;
  text(pill, words);
}

/** Language and theme. */
export function startControls(translator: Speaker<Shared>): void {
  const select = byId<HTMLSelectElement>("language");
  select.value = translator.language;
  select.addEventListener("change", () => translator.set(select.value as Language));
  startTheme(byId("theme"));
  translator.apply();
}
