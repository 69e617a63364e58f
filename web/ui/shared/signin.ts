// Asks for a token where the server wants one, and for another one where it is not enough.

import { ApiError, type Me, me, reason, token } from "./api";
import type { Speaker } from "./i18n";
import type { Shared } from "./texts";
import { byId, text, toggle } from "./dom";

const AGAIN_MS = 2_000;

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Resolves when somebody is signed in of whom `refusal` says nothing; otherwise it says what is wrong with them. `missing` is
 * said where a token is needed and none is there.
 */
export async function signIn(translator: Speaker<Shared>, refusal: (who: Me) => string | null, missing = ""): Promise<Me> {
  const problem = byId("signin-problem");
  for (;;) {
    try {
      const who = await me();
      const why = refusal(who);
      if (why === null) {
        toggle(byId("signin"), false);
        return who;
      }
      await asked(why);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401 || error.status === 403) {
        await asked(token.get() ? translator.t("signin_bad", { why: reason(error, translator.t) }) : missing);
      } else {
        toggle(byId("signin"), true);
        const why = reason(error, translator.t);
        text(problem, error.status === 0 ? translator.t("signin_unanswered") : translator.t("signin_failed", { why }));
        await pause(AGAIN_MS);
      }
    }
  }
}

/** The connection was refused: the token has ended or was revoked. Loads the page again when somebody is signed in. */
export async function signInAgain(translator: Speaker<Shared>, refusal: (who: Me) => string | null): Promise<void> {
  const ended = translator.t("signin_ended");
  // Who is refused without a token would be refused again at once.
  if (token.get() === "") await asked(ended);
  else token.clear();
  await signIn(translator, refusal, ended);
  location.reload();
}

/** Shows the form until a token is given. */
function asked(why: string): Promise<void> {
  const form = byId<HTMLFormElement>("signin-form"), field = byId<HTMLInputElement>("token");
  toggle(byId("signin"), true);
  text(byId("signin-problem"), why);
  field.value = "";
  field.focus();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      const given = field.value.trim();
      if (!given) return;
      token.set(given);
      field.value = "";
      resolve();
    };
  });
}

/** Forgets the token and begins again. */
export function startSignOut(): void {
  const button = byId("sign-out");
  toggle(button, token.get() !== "");
  button.addEventListener("click", () => {
    token.clear();
    location.reload();
  });
}
