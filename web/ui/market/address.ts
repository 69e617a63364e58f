// What the page's address names. Pure.

/** The symbol that `location.hash` names; "" where it names none, such as `#%`, which is no encoding of anything. */
export function decoded(hash: string): string {
  try {
    return decodeURIComponent(hash.slice(1));
  } catch {
    return "";
  }
}
