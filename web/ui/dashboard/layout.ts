// Where the boxes of the cluster map are. Pure.
//
// Gateways stand above, nodes below; one line goes along between them, from which a branch leads to every box: with n gateways
// and m nodes a line for each pair would be a carpet.

export const BOX = { width: 168, height: 96, gap: 16, lane: 34 } as const;
/** Boxes of a map that shows many. */
export const SMALL = { width: 104, height: 58, gap: 10, lane: 24 } as const;

type Size = { readonly width: number; readonly height: number; readonly gap: number; readonly lane: number };

export interface Place {
  readonly id: string;
  readonly x: number;
  readonly y: number;
}

export interface Layout {
  readonly width: number;
  readonly height: number;
  readonly size: Size;
  readonly gateways: readonly Place[];
  readonly nodes: readonly Place[];
  /** An SVG path for each box, by id: its branch. */
  readonly branches: ReadonlyMap<string, string>;
  /** The line between. */
  readonly trunk: string;
}

/** From so many nodes on boxes are small. */
const MANY = 13;

export function layout(width: number, gateways: readonly string[], nodes: readonly string[]): Layout {
  let size: Size = nodes.length >= MANY ? SMALL : BOX;
  // On a phone two stand side by side.
  const half = Math.floor((width - 24 - size.gap) / 2);
  if (half < size.width) size = { ...size, width: Math.max(96, half) };
  const columns = Math.max(1, Math.floor((width - 24 + size.gap) / (size.width + size.gap)));
  const branches = new Map<string, string>();
  const lanes: { y: number; from: number; to: number }[] = [];
  const place = (ids: readonly string[], top: number, laneBelow: boolean): Place[] => ids.map((id, i) => {
    const row = Math.floor(i / columns);
    const inRow = Math.min(columns, ids.length - row * columns);
    const rowWidth = inRow * size.width + (inRow - 1) * size.gap;
    const x = Math.round(24 + (width - 24 - rowWidth) / 2 + (i % columns) * (size.width + size.gap));
    const y = top + row * (size.height + size.lane);
    const lane = laneBelow ? y + size.height + size.lane / 2 : y - size.lane / 2;
    const middle = Math.round(x + size.width / 2);
    branches.set(id, laneBelow ? `M${middle} ${y + size.height}V${lane}` : `M${middle} ${lane}V${y}`);
    if (i % columns === 0) lanes.push({ y: lane, from: middle, to: middle });
    else lanes[lanes.length - 1]!.to = middle;
    return { id, x, y };
  });
  const rows = (count: number) => Math.ceil(count / columns);
  const above = place(gateways, 4, true);
  const top = 4 + rows(gateways.length) * (size.height + size.lane) + (gateways.length ? 0 : size.lane);
  const below = place(nodes, top, false);
  const height = top + rows(nodes.length) * (size.height + size.lane) - size.lane + 6;
  const ys = lanes.map(({ y }) => y);
  const several = new Set(ys).size > 1;
  // Several rows hang on a line at the left; one needs none.
  const spine = several ? `M8 ${Math.min(...ys)}V${Math.max(...ys)}` : "";
  const first = Math.min(...lanes.map(({ from }) => from));
  const along = lanes.map(({ y, to }) => `M${several ? 8 : first} ${y}H${to}`).join("");
  return { width, height: Math.max(height, 80), size, gateways: above, nodes: below, branches, trunk: along + spine };
}

/** A name with an ellipsis in the middle where it is too long: what tells two apart is often at its end. */
export function fitted(name: string, most: number): string {
  if (name.length <= most) return name;
  const head = Math.ceil((most - 1) / 2);
  return `${name.slice(0, head)}…${name.slice(name.length - (most - 1 - head))}`;
}
