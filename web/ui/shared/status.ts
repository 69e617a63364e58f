// The pill that says how the connection does, and the controls beside it. Both pages have them.

import { describe } from "./describe";
import type { Connection } from "./protocol";
import type { Language } from "./format";
import type { Speaker } from "./i18n";
import type { Shared } from "./texts";
import { byId, text } from "./dom";
import { startTheme } from "./theme";

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
