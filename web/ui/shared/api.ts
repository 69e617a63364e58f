// The HTTP API, asked with the page's token. The token is kept in sessionStorage: it ends with the tab.

import type { Values } from "./i18n";
import type { Socket } from "./protocol";
import type { Shared } from "./texts";

const KEY = "tickmesh.token";

/** Where the page's host serves: beside the page, so that it works under any path of a proxy. */
const base = () => new URL(".", location.href);

export const token = {
  get: (): string => sessionStorage.getItem(KEY) ?? "",
  set: (value: string): void => sessionStorage.setItem(KEY, value),
  clear: (): void => sessionStorage.removeItem(KEY),
};

/**
 * What the server refused, in its words; without words where it had none. `status` is 0 where there was no answer: what the
 * browser has to say of that is for its console, and not kept here.
 */
export class ApiError extends Error {
  constructor(readonly status: number, readonly code = "", text = "") {
    super(text);
  }
}

/** The same in the words of the page. */
export function reason({ status, message }: ApiError, t: (key: Shared, values?: Values) => string): string {
  return message || (status === 0 ? t("no_answer") : t("bad_answer", { status: String(status) }));
}

export async function api<T>(path: string, method = "GET"): Promise<T> {
  const headers: Record<string, string> = token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
  const url = new URL(`api/v1/${path}`, base());
  const answer = await fetch(url, { method, headers, signal: AbortSignal.timeout(20_000) }).catch(() => null);
  if (!answer) throw new ApiError(0);
  const body: unknown = await answer.json().catch(() => null);
  // An answer that breaks off, or one of a proxy, is none.
  if (answer.ok && body !== null) return body as T;
  if (answer.ok) throw new ApiError(0);
  const { error_code, error_message } = (body ?? {}) as Record<string, string>;
  throw new ApiError(answer.status, error_code, error_message);
}

export interface Me {
  readonly user_id: string;
  readonly role: string;
  readonly operator: boolean;
}

export const me = (): Promise<Me> => api<Me>("me");

/** Opens `/ws` with the page's token. */
export function socket(): Socket {
  const url = new URL("ws", base());
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("batch", "1");
  if (token.get()) url.searchParams.set("token", token.get());
  return new WebSocket(url) as Socket;
}
