// How the state of a connection is told. Pure.

import type { Values } from "./i18n";
import { SILENT, type State } from "./protocol";
import type { Shared } from "./texts";

/** Why a connection ended, where people can make something of it. */
const CLOSED: Readonly<Record<number, Shared>> = {
  [SILENT]: "closed_silent", 1001: "closed_leaving", 1008: "closed_limit", 1013: "closed_overloaded", 4003: "closed_slow", 4005: "closed_operator",
};

/** How a state is told: a class for its colour, and words. */
export function describe(state: State, now: number, before: boolean, t: (key: Shared, values?: Values) => string): [string, string] {
  switch (state.phase) {
    case "connecting":
      return before ? ["lost", t("reconnecting")] : ["connecting", t("connecting")];
    case "waiting": {
      const s = Math.max(0, (state.retryAt - now) / 1_000).toFixed(1);
      const known = CLOSED[state.code];
      const why = known ? t(known) : state.why;
      return ["lost", why ? t("waiting_why", { why, s }) : t("waiting", { s })];
    }
    case "refused":
      return ["lost", t("refused")];
    case "connected":
      if (state.recovery === "running") return ["connecting", t("recovering")];
      return ["connected", t(state.recovery === "none" ? "connected" : state.recovery)];
  }
}
