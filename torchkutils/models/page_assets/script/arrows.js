// The arrows of one open module: between the items that lie in it, and from and to what lies outside.
// They do not depend on what is open: an arrow to something deep inside an item is an arrow to that item.

const MOST_PORTS = 4;

class Arrows {
  constructor(model) {
    this.model = model;
    [this.sources, this.targets, this.counts, this.guesses] = model.data.tree.arrows;
    this.touching = new Map();
    this.levels = new Map();
    for (let arrow = 0; arrow < this.sources.length; arrow += 1) {
      const source = this.sources[arrow], target = this.targets[arrow];
      this.climb(arrow, source, target);
      if (source !== target) this.climb(arrow, target, source, true);
    }
  }

  // Note an arrow at each module around one of its ends up to the one that holds both.
  climb(arrow, from, to, skipCommon = false) {
    let at = this.model.parents[from];
    while (at >= 0) {
      const common = this.model.contains(at, to);
      if (!(common && skipCommon)) {
        if (!this.touching.has(at)) this.touching.set(at, []);
        this.touching.get(at).push(arrow);
      }
      if (common) return;
      at = this.model.parents[at];
    }
  }

  childOf(outer, item) {
    while (this.model.parents[item] !== outer) item = this.model.parents[item];
    return item;
  }

  // { edges: [{ source, target, count, guessed, leaves }], ports: { in: [...], out: [...] } } of a module.
  level(outer) {
    if (!this.levels.has(outer)) this.levels.set(outer, this.made(outer));
    return this.levels.get(outer);
  }

  made(outer) {
    const edges = new Map(), entering = new Map(), leaving = new Map();
    for (const arrow of this.touching.get(outer) ?? []) {
      const source = this.sources[arrow], target = this.targets[arrow];
      const starts = this.model.contains(outer, source), ends = this.model.contains(outer, target);
      if (starts && ends) this.add(edges, this.childOf(outer, source), this.childOf(outer, target), arrow);
      else if (ends) addTo(entering, source, this.childOf(outer, target));
      else addTo(leaving, source, this.childOf(outer, source));
    }
    return {
      edges: [...edges.values()].map((edge) => ({ ...edge, count: sum(edge.leaves.values()) })),
      entering: ports(entering, "in"),
      leaving: ports(leaving, "out"),
    };
  }

  add(edges, source, target, arrow) {
    const key = `${source} ${target}`;
    if (!edges.has(key)) edges.set(key, { source, target, guessed: true, leaves: new Map() });
    const edge = edges.get(key), leaf = this.sources[arrow];
    // One tensor that several modules inside take came in once.
    edge.leaves.set(leaf, Math.max(edge.leaves.get(leaf) ?? 0, this.counts[arrow]));
    if (!this.guesses[arrow]) edge.guessed = false;
  }

  // The leaves that a leaf or an item takes from (or gives to), outside itself.
  neighbours(item, giving) {
    const found = new Map();
    const from = giving ? this.sources : this.targets, to = giving ? this.targets : this.sources;
    for (let arrow = 0; arrow < from.length; arrow += 1) {
      if (this.model.contains(item, from[arrow]) && !this.model.contains(item, to[arrow])) found.set(to[arrow], this.counts[arrow]);
    }
    return [...found.keys()];
  }
}

const sum = (numbers) => { let all = 0; for (const number of numbers) all += number; return all; };

function addTo(map, key, value) {
  if (!map.has(key)) map.set(key, new Set());
  map.get(key).add(value);
}

// Where tensors cross a module's frame: a point for each thing outside, or one for all where they are many.
function ports(crossing, way) {
  const all = [...crossing].map(([leaf, inside]) => ({ leaves: [leaf], inside: [...inside] }));
  if (all.length <= MOST_PORTS) return all.map((port, place) => ({ ...port, id: `${way}${place}` }));
  return [{ id: `${way}0`, leaves: all.flatMap((port) => port.leaves), inside: [...new Set(all.flatMap((port) => port.inside))] }];
}
