// Asks for a token where the server wants one, and for another one where it is not enough.

import { ApiError, type Me, me, token } from "./api";
import type { Speaker } from "./i18n";
import type { Shared } from "./texts";
import { byId, text, toggle } from "./dom";

const AGAIN_MS = 2_000;

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves when somebody is signed in of whom `refusal` says nothing; otherwise it says what is wrong with them. */
export async function signIn(translator: Speaker<Shared>, refusal: (who: Me) => string | null): Promise<Me> {
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
        await asked(token.get() ? translator.t("signin_bad", { why: error.message }) : "");
      } else {
        toggle(byId("signin"), true);
        text(problem, translator.t("signin_unanswered", { why: error.message }));
        await pause(AGAIN_MS);
      }
    }
  }
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
