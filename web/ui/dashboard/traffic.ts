// Rooms by traffic, and pages of long lists. Pure.

import type { RoomTraffic, Vitals } from "./model";

export interface Busy extends RoomTraffic {
  /** Messages that leave for subscribers, each second. */
  readonly deliveries: number;
}

/** The busiest rooms of the cluster: each node tells of those it has, with its own subscribers; the messages are the same everywhere. */
export function busiest(nodes: readonly Vitals[], most: number): Busy[] {
  const rooms = new Map<string, { rate: number; subscribers: number }>();
  for (const node of nodes) {
    for (const { room, messages_per_s, subscribers } of node.top_rooms ?? []) {
      const known = rooms.get(room) ?? { rate: 0, subscribers: 0 };
      rooms.set(room, { rate: Math.max(known.rate, messages_per_s), subscribers: known.subscribers + subscribers });
    }
  }
  return [...rooms]
    .map(([room, { rate, subscribers }]) => ({ room, messages_per_s: rate, subscribers, deliveries: rate * subscribers }))
    .sort((a, b) => b.deliveries - a.deliveries || a.room.localeCompare(b.room))
    .slice(0, most);
}

/** How long the list stays where nothing is told of any room, in milliseconds: a node counts by the second, and now and then too early. */
const HOLDS_MS = 3_000;

/** The busiest rooms as they are shown. */
export class Held {
  #rooms: readonly Busy[] = [];
  #at = -Infinity;

  /** Those that are told now, or were told a moment ago. */
  show(rooms: readonly Busy[], now: number): readonly Busy[] {
    if (rooms.length > 0 || now - this.#at > HOLDS_MS) [this.#rooms, this.#at] = [rooms, now];
    return this.#rooms;
  }
}

export interface Page<T> {
  readonly items: readonly T[];
  /** From 0. */
  readonly page: number;
  readonly pages: number;
}

/** A page of a list; one behind the end is the last. */
export function paged<T>(items: readonly T[], page: number, size: number): Page<T> {
  const pages = Math.max(1, Math.ceil(items.length / size));
  const at = Math.min(Math.max(0, page), pages - 1);
  return { items: items.slice(at * size, (at + 1) * size), page: at, pages };
}
