// What an operator can do here: each after a question, and its outcome is told.

import { ApiError, api, reason } from "../shared/api";
import { byId, text } from "../shared/dom";
import { t } from "./context";
import type { Session } from "./model";
import type { Process } from "./store";

const TOAST_MS = 6_000;
let fading: ReturnType<typeof setTimeout> | undefined;

/** Tells an outcome. */
export function toast(words: string, bad = false): void {
  const element = byId("toast");
  element.className = bad ? "shown bad" : "shown";
  text(element, words);
  clearTimeout(fading);
  fading = setTimeout(() => { element.className = ""; }, TOAST_MS);
}

/** Does it, and tells how that went. */
export async function attempt(what: () => Promise<unknown>, done: () => string): Promise<boolean> {
  try {
    await what();
    toast(done());
    return true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    toast(t("failed", { why: reason(error, t) }), true);
    return false;
  }
}

/** Asks first. Resolves with what was answered; Escape is no. */
function confirmed(title: string, words: string, button: string): Promise<boolean> {
  const dialog = byId<HTMLDialogElement>("confirm");
  text(byId("confirm-title"), title);
  text(byId("confirm-text"), words);
  text(byId("confirm-yes"), button);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

export function startActions(): void {
  const dialog = byId<HTMLDialogElement>("confirm");
  byId("confirm-yes").addEventListener("click", () => dialog.close("yes"));
  byId("confirm-no").addEventListener("click", () => dialog.close(""));
}

/** `last`: there is no other node that takes clients. */
export async function drain(node: Process, last: boolean): Promise<void> {
  const n = node.connections;
  const words = last ? t("confirm_drain_last") : n === 0 ? t("confirm_drain_none") : t("confirm_drain_text", { n });
  if (!(await confirmed(t("confirm_drain", { id: node.id }), words, t("drain")))) return;
  await attempt(() => api(`nodes/${encodeURIComponent(node.id)}/drain`, "POST"), () => t("done_drain", { id: node.id }));
}

export async function resume(node: Process): Promise<void> {
  if (!(await confirmed(t("confirm_resume", { id: node.id }), t("confirm_resume_text"), t("resume")))) return;
  await attempt(() => api(`nodes/${encodeURIComponent(node.id)}/resume`, "POST"), () => t("done_resume", { id: node.id }));
}

/** True if it was done. */
export async function disconnect(session: Session): Promise<boolean> {
  const id = session.session_id;
  const words = t("confirm_disconnect_text", { user: session.user_id });
  if (!(await confirmed(t("confirm_disconnect", { id: id.slice(-8) }), words, t("disconnect")))) return false;
  return attempt(() => api(`sessions/${encodeURIComponent(id)}`, "DELETE"), () => t("done_disconnect", { id: id.slice(-8) }));
}
