// Where a subscriber is in a room, and what of it was conflated or lost. Pure: no clock, no socket.
//
// `seq` travels by what was received or conflated. What is missing may still wait at the node for its turn under `max_rate`;
// what is missing all through a window will not come. A window without enough looks says nothing: in a tab that is not seen
// timers fire once a minute, and what was missing at its only look may have waited just then.

export interface Position {
  readonly epoch: string;
  readonly seq: number;
}

/** A window with fewer looks is dropped. */
const LOOKS_LEAST = 10;

export class Account {
  #position: Position | null = null;
  #from = 0;
  #told = 0;
  #least = Infinity;
  #looks = 0;
  lost = 0;
  conflated = 0;
  received = 0;

  /** Where the room is known to; null before the first answer. */
  get position(): Position | null {
    return this.#position;
  }

  /** A subscription was answered, or the room starts anew: counting begins here. */
  begin(position: Position): void {
    this.#position = position;
    this.#from = position.seq;
    this.#told = 0;
    this.#least = Infinity;
    this.#looks = 0;
  }

  /** A live message. */
  take(seq: number, conflated: number): void {
    this.received += 1;
    this.conflated += conflated;
    this.#told += 1 + conflated;
    if (this.#position) this.#position = { epoch: this.#position.epoch, seq };
  }

  /** Looks, several times in a window. */
  look(): void {
    if (!this.#position) return;
    this.#least = Math.min(this.#least, this.#position.seq - this.#from - this.#told);
    this.#looks += 1;
  }

  /** The window is over: what was missing all through it is lost. With too few looks that is left to a later one. */
  close(): void {
    if (this.#looks >= LOOKS_LEAST && this.#least > 0) {
      this.lost += this.#least;
      this.#told += this.#least;
    }
    this.#least = Infinity;
    this.#looks = 0;
  }
}
