// Sizes and places of everything that is open: each module's inside is laid out by itself, the innermost first,
// and kept until something in it opens or closes.

class Boxes {
  constructor(model, arrows, open) {
    Object.assign(this, { model, arrows, open });
    this.closed = new Map();
    this.opened = new Map();
  }

  size(item) {
    if (item !== 0 && !this.open.has(item)) {
      if (!this.closed.has(item)) this.closed.set(item, boxSize(this.model, item));
      return this.closed.get(item);
    }
    return this.inside(item).size;
  }

  // What changed inside an item concerns all that are around it.
  forget(item) {
    for (let at = item; at >= 0; at = this.model.parents[at]) this.opened.delete(at);
  }

  // { size, level, layout, offset } of an open module.
  inside(item) {
    if (!this.opened.has(item)) this.opened.set(item, this.made(item));
    return this.opened.get(item);
  }

  made(item) {
    const level = this.arrows.level(item);
    const across = this.across;
    const port = ({ id }) => ({ id, width: 8, height: 0 });
    const node = (child) => {
      const { width, height } = this.size(child);
      return across ? { id: child, width: height, height: width } : { id: child, width, height };
    };
    const entering = item === 0 ? [] : level.entering, leaving = item === 0 ? [] : level.leaving;
    const nodes = [...entering.map(port), ...this.model.children[item].map(node), ...leaving.map(port)];
    const edges = [
      ...level.edges,
      ...entering.flatMap((one) => one.inside.map((target) => ({ source: one.id, target, leaves: new Map(one.leaves.map((leaf) => [leaf, 1])), port: true }))),
      ...leaving.flatMap((one) => one.inside.map((source) => ({ source, target: one.id, leaves: new Map(one.leaves.map((leaf) => [leaf, 1])), port: true }))),
    ];
    const layout = this.turned(laidOut(nodes, edges));
    if (item === 0) return { size: { width: layout.width, height: layout.height }, level: { edges, entering, leaving }, layout, offset: { x: 0, y: 0 } };
    const room = { before: entering.length ? PORT_ROOM : INSET, after: leaving.length ? PORT_ROOM : INSET };
    const offset = across ? { x: room.before, y: TITLE_HEIGHT + 4 } : { x: INSET, y: TITLE_HEIGHT + (entering.length ? 6 : 2) };
    const width = layout.width + (across ? room.before + room.after : 2 * INSET);
    const height = offset.y + layout.height + (across ? INSET : room.after);
    const least = titleWidth(this.model, item);
    if (width < least && !across) offset.x += (least - width) / 2;
    return { size: { width: Math.max(width, least), height }, level: { edges, entering, leaving }, layout, offset };
  }

  get across() { return this.model.data.rankdir === "LR" || this.model.data.rankdir === "RL"; }

  // A layout from top to bottom, in the direction that the picture was asked for.
  turned(layout) {
    const direction = this.model.data.rankdir;
    const point = ({ x, y }) => {
      if (direction === "LR") return { x: y, y: x };
      if (direction === "RL") return { x: layout.height - y, y: x };
      return direction === "BT" ? { x, y: layout.height - y } : { x, y };
    };
    const [width, height] = this.across ? [layout.height, layout.width] : [layout.width, layout.height];
    const places = new Map([...layout.places].map(([id, place]) => [id, point(place)]));
    return { width, height, places, routes: layout.routes.map((route) => ({ ...route, points: route.points.map(point) })) };
  }

  // The upper left corner of an item, in the coordinates of the whole picture.
  corner(item) {
    let x = 0, y = 0;
    for (let at = item; at !== 0; at = this.model.parents[at]) {
      const { layout, offset } = this.inside(this.model.parents[at]);
      const middle = layout.places.get(at), { width, height } = this.size(at);
      x += offset.x + middle.x - width / 2;
      y += offset.y + middle.y - height / 2;
    }
    return { x, y };
  }

  // Calls what is given with each shown item, its corner and its size, from the outside in.
  each(act) {
    const stack = [[0, 0, 0]];
    while (stack.length) {
      const [outer, left, top] = stack.pop();
      const { layout, offset } = this.inside(outer);
      for (const item of this.model.children[outer]) {
        const middle = layout.places.get(item), size = this.size(item);
        const x = left + offset.x + middle.x - size.width / 2, y = top + offset.y + middle.y - size.height / 2;
        act(item, x, y, size);
        if (this.open.has(item)) stack.push([item, x, y]);
      }
    }
  }
}
