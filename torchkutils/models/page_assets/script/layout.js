// Where the items of one open module lie. Layouts run from top to bottom; other directions turn them (see turned).
//
// dagre lays out what really branches, a few nodes at a time. What it would be slow at is taken from it first:
//   - A node that no edge passes by cuts the list in two: each piece is laid out alone, one below the other.
//     A chain is all cuts, a stack of residual blocks is pieces of three or four nodes.
//   - Where nearly everything is joined with everything (DenseNet), only the edges to the next nodes shape the layout;
//     the long ones are arcs beside it.

const GAP = { node: 26, edge: 14, rank: 38 };
const MOST_CROSSED = 150;

// nodes: [{ id, width, height }] in order of execution; edges: [{ source, target }].
// Gives { width, height, places: Map of id to { x, y } (middles), routes: [{ points, arc }] as edges }.
function laidOut(nodes, edges) {
  const positions = new Map(nodes.map((node, place) => [node.id, place]));
  const spans = edges.map((edge) => {
    const from = positions.get(edge.source), to = positions.get(edge.target);
    return [Math.min(from, to), Math.max(from, to)];
  });
  const long = longEdges(nodes, edges, spans);
  const shaping = spans.filter((span, index) => span[0] !== span[1] && !long.has(index));
  const places = new Map(), bends = new Map();
  const cuts = cutsOf(nodes, edges, shaping, positions);
  let top = { x: 0, y: nodes.length ? nodes[0].height / 2 : 0 };
  for (let piece = 0; piece + 1 < cuts.length; piece += 1) {
    const members = nodes.slice(cuts[piece], cuts[piece + 1] + 1);
    const inside = edges.map((edge, index) => index).filter((index) => {
      const [from, to] = spans[index];
      return from >= cuts[piece] && to <= cuts[piece + 1] && from !== to && !long.has(index);
    });
    top = placed(members, inside, edges, positions, top, places, bends);
  }
  if (nodes.length === 1) places.set(nodes[0].id, { x: 0, y: nodes[0].height / 2 });
  return finished(nodes, edges, places, bends, long);
}

// Edges that only make the layout slow, where they cross too many rows: all but those to the nearest rows.
function longEdges(nodes, edges, spans) {
  const long = new Set(), rows = rowsByLongestWay(nodes, spans);
  const lengths = spans.map(([from, to]) => rows[to] - rows[from]);
  let crossed = 0;
  for (const length of lengths) crossed += Math.max(length - 1, 0);
  if (crossed <= MOST_CROSSED) return long;
  const kept = new Set();
  lengths.map((length, index) => [length, index]).sort((a, b) => a[0] - b[0]).forEach(([length, index]) => {
    // Each node keeps the shortest edge that it takes and the shortest that it gives.
    const { source, target } = edges[index];
    const needed = !kept.has(`<${source}`) || !kept.has(`>${target}`);
    if (length > 1 && !(needed && length <= 3)) long.add(index);
    kept.add(`<${source}`).add(`>${target}`);
  });
  return long;
}

// The row of each node if each lies as high as what it takes from allows; nodes stand in order of execution.
function rowsByLongestWay(nodes, spans) {
  const rows = new Int32Array(nodes.length);
  for (const [from, to] of [...spans].sort((a, b) => a[0] - b[0])) if (from !== to) rows[to] = Math.max(rows[to], rows[from] + 1);
  return rows;
}

// Places of the nodes that no edge passes by; the first and the last node are always among them.
function cutsOf(nodes, edges, spans, positions) {
  const passed = new Int32Array(nodes.length + 1);
  for (const [from, to] of spans) {
    if (to - from > 1) { passed[from + 1] += 1; passed[to] -= 1; }
  }
  const takes = new Uint8Array(nodes.length), gives = new Uint8Array(nodes.length);
  for (const edge of edges) { gives[positions.get(edge.source)] = 1; takes[positions.get(edge.target)] = 1; }
  const found = [0];
  let passing = 0, sinkBefore = false, before = 0;
  for (let place = 1; place < nodes.length - 1; place += 1) {
    passing += passed[place];
    if (place > before + 1 && !gives[place - 1]) sinkBefore = true;
    if (passing !== 0) continue;
    // A second end above and a second start below could land on each other.
    if (sinkBefore && !takes[place + 1]) continue;
    found.push(place);
    before = place;
    sinkBefore = false;
  }
  if (nodes.length > 1) found.push(nodes.length - 1);
  return found;
}

// Lay one piece out below its first node, which lies at `top`; gives where its last node lies.
function placed(members, inside, edges, positions, top, places, bends) {
  const first = members[0], last = members[members.length - 1];
  if (members.length === 2) {
    places.set(first.id, top);
    const below = { x: top.x, y: top.y + first.height / 2 + GAP.rank + last.height / 2 };
    places.set(last.id, below);
    return below;
  }
  const numbers = new Map(members.map((node, number) => [node.id, number]));
  const links = inside.map((index) => [numbers.get(edges[index].source), numbers.get(edges[index].target),
    positions.get(edges[index].target) - positions.get(edges[index].source) === 1 ? 6 : 1]);
  const piece = byDagre(members, links);
  const shift = { x: top.x - piece.nodes[0].x, y: top.y - piece.nodes[0].y };
  const moved = ({ x, y }) => ({ x: x + shift.x, y: y + shift.y });
  members.forEach((node, number) => places.set(node.id, moved(piece.nodes[number])));
  straightened(members, places, top.x);
  const rows = rowsOf(members, places);
  inside.forEach((index, number) => {
    // dagre puts a point into each row and one between two rows; the ends are ours.
    const passed = piece.points[number].slice(2, -2).filter((_, place) => place % 2 === 0).map(moved);
    bends.set(index, bendsThrough(rows, places.get(edges[index].source), passed, places.get(edges[index].target)));
  });
  return places.get(last.id);
}

const MOST_PIECES = 500;
const pieces = new Map();

// Where dagre puts nodes and the points of links ([from, to, weight]); the blocks of a stack are laid out once.
function byDagre(members, links) {
  const key = `${members.map(({ width, height }) => `${width} ${height}`).join()}|${links.join(" ")}`;
  if (!pieces.has(key)) {
    const graph = new dagre.graphlib.Graph({ multigraph: true });
    graph.setGraph({ rankdir: "TB", nodesep: GAP.node, edgesep: GAP.edge, ranksep: GAP.rank });
    members.forEach(({ width, height }, number) => graph.setNode(String(number), { width, height }));
    links.forEach(([from, to, weight], number) => graph.setEdge(String(from), String(to), { weight }, String(number)));
    dagre.layout(graph);
    if (pieces.size === MOST_PIECES) pieces.clear();
    pieces.set(key, inReadingOrder({
      nodes: members.map((_, number) => graph.node(String(number))),
      points: links.map(([from, to], number) => graph.edge({ v: String(from), w: String(to), name: String(number) }).points),
    }));
  }
  return pieces.get(key);
}

// A layout is as good mirrored: what ran first shall stand on the left.
function inReadingOrder(piece) {
  const last = new Map();
  let order = 0;
  for (const { x, y } of piece.nodes) {
    if (last.has(y)) order += Math.sign(x - last.get(y));
    last.set(y, x);
  }
  if (order >= 0) return piece;
  const mirrored = ({ x, y }) => ({ x: -x, y });
  return { nodes: piece.nodes.map(mirrored), points: piece.points.map((points) => points.map(mirrored)) };
}

// Half the height of each row of a piece, by the row's middle.
function rowsOf(members, places) {
  const rows = new Map();
  for (const node of members) {
    const row = Math.round(places.get(node.id).y);
    rows.set(row, Math.max(rows.get(row) ?? 0, node.height / 2));
  }
  return rows;
}

// An edge crosses a row straight, so that it runs into nothing that is higher there, and moves aside between two rows.
function bendsThrough(rows, from, passed, to) {
  const half = ({ y }) => rows.get(Math.round(y)) ?? rows.get(Math.round(y) + 1) ?? rows.get(Math.round(y) - 1) ?? 0;
  const way = Math.sign(to.y - from.y) || 1;
  const bends = [{ x: from.x, y: from.y + way * half(from) }];
  for (const point of passed) bends.push({ x: point.x, y: point.y - way * half(point) }, { x: point.x, y: point.y + way * half(point) });
  return [...bends, { x: to.x, y: to.y - way * half(to) }];
}

// Put the last node of a piece below its first one, where nothing stands beside it: a stack of blocks stays upright.
function straightened(members, places, x) {
  const last = members[members.length - 1], place = places.get(last.id);
  const beside = members.some((node) => {
    const other = places.get(node.id);
    return node !== last && Math.abs(other.y - place.y) < (node.height + last.height) / 2;
  });
  if (!beside) places.set(last.id, { x, y: place.y });
}

// Lay out a few small graphs for nothing.
function warmUp() {
  const edges = [[0, 1], [0, 2], [1, 3], [2, 3], [0, 4], [3, 5], [4, 6], [5, 7], [6, 7], [1, 6]].map(([source, target]) => ({ source, target }));
  const begun = performance.now();
  for (let round = 0; round < 12 && performance.now() - begun < 150; round += 1) {
    // Of another size each time: what was laid out is kept.
    laidOut([0, 1, 2, 3, 4, 5, 6, 7].map((id) => ({ id, width: 80 + round, height: 40 })), edges);
  }
}

function finished(nodes, edges, places, bends, long) {
  let left = Infinity, right = -Infinity, top = Infinity, bottom = -Infinity;
  const sizes = new Map(nodes.map((node) => [node.id, node]));
  const reach = (x, y) => {
    left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
  };
  for (const node of nodes) {
    const { x, y } = places.get(node.id);
    reach(x - node.width / 2, y - node.height / 2);
    reach(x + node.width / 2, y + node.height / 2);
  }
  const edge = right;
  const routes = edges.map(({ source, target }, index) => {
    const from = places.get(source), to = places.get(target);
    if (source === target) return selfRoute(from, sizes.get(source), reach);
    if (long.has(index)) return arcRoute(from, to, sizes.get(source), sizes.get(target), edge, reach);
    return straightRoute(from, to, sizes.get(source), sizes.get(target), bends.get(index) ?? [], reach);
  });
  const move = (point) => ({ x: point.x - left, y: point.y - top });
  return {
    width: Math.max(right - left, 0),
    height: Math.max(bottom - top, 0),
    places: new Map([...places].map(([id, place]) => [id, move(place)])),
    routes: routes.map((route) => ({ ...route, points: route.points.map(move) })),
  };
}

function straightRoute(from, to, source, target, bends, reach) {
  for (const { x, y } of bends) reach(x, y);
  const down = to.y >= from.y;
  const start = { x: from.x, y: from.y + (down ? 1 : -1) * source.height / 2 };
  const end = { x: to.x, y: to.y - (down ? 1 : -1) * target.height / 2 };
  return { points: [start, ...bends, end], arc: false };
}

function selfRoute(from, size, reach) {
  const right = from.x + size.width / 2, out = right + 22;
  reach(out, from.y);
  const points = [{ x: right, y: from.y + size.height / 4 }, { x: out, y: from.y + size.height / 4 }];
  return { points: [...points, { x: out, y: from.y - size.height / 4 }, { x: right, y: from.y - size.height / 4 }], arc: true };
}

// An arc on the right of everything, the wider the longer it is.
function arcRoute(from, to, source, target, edge, reach) {
  const start = { x: from.x + source.width / 2, y: from.y }, end = { x: to.x + target.width / 2, y: to.y };
  const out = Math.max(start.x, end.x, edge - 40) + 24 + Math.min(Math.abs(to.y - from.y) / 4, 420);
  reach(start.x + (out - start.x) * 0.76, from.y);
  return { points: [start, { x: out, y: start.y }, { x: out, y: end.y }, end], arc: true };
}
