// The HTTP API, asked with the page's token. The token is kept in sessionStorage: it ends with the tab.

import type { Socket } from "./protocol";

const KEY = "tickmesh.token";

/** Where the page's host serves: beside the page, so that it works under any path of a proxy. */
const base = () => new URL(".", location.href);

export const token = {
  get: (): string => sessionStorage.getItem(KEY) ?? "",
  set: (value: string): void => sessionStorage.setItem(KEY, value),
  clear: (): void => sessionStorage.removeItem(KEY),
};

/** What the server refused. `status` is 0 where there was no answer. */
export class ApiError extends Error {
  constructor(readonly status: number, readonly code: string, text: string) {
    super(text);
  }
}

export async function api<T>(path: string, method = "GET"): Promise<T> {
  const headers: Record<string, string> = token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
  let answer: Response;
  try {
    answer = await fetch(new URL(`api/v1/${path}`, base()), { method, headers, signal: AbortSignal.timeout(20_000) });
  } catch (error) {
    throw new ApiError(0, "", error instanceof Error ? error.message : String(error));
  }
  const body: unknown = await answer.json().catch(() => null);
  if (answer.ok) return body as T;
  const { error_code, error_message } = (body ?? {}) as Record<string, string>;
  throw new ApiError(answer.status, error_code ?? "", error_message ?? `HTTP ${answer.status}`);
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
