// What is open and what is chosen; everything on the page follows from these two.

const MOST_SHOWN = 2500;

class App {
  constructor(model, stage = $("stage"), view = $("view")) {
    this.model = model;
    this.open = new Set();
    this.chosen = -1;
    this.arrows = new Arrows(model);
    this.boxes = new Boxes(model, this.arrows, this.open);
    this.picture = new Picture(model, this.boxes, this.arrows, view);
    this.picture.reached = 1;
    this.view = new View(stage, view, () => this.boxes.size(0));
    this.followers = [];
    this.deepest = 0;
    this.folded = false;
    for (let item = 0; item < model.size; item += 1) {
      if (["group", "range"].includes(model.kind(item))) this.folded = true;
      if (model.kind(item) === "module" && model.opens(item)) this.deepest = Math.max(this.deepest, model.depth(item) + 1);
    }
  }

  // Each part of the page that shows what is open or chosen is told when that changed: "open", "chosen" or "colour".
  follow(act) { this.followers.push(act); }
  tell(what) { for (const act of this.followers) act(what); }

  // ---- opening and closing --------------------------------------------------------------------------------------

  isOpen(item) { return item === 0 || this.open.has(item); }
  shown(item) { return this.model.way(item).every((outer) => this.isOpen(outer)); }

  toggle(item) {
    if (!this.model.opens(item) || item === 0) return;
    this.keeping(item, () => (this.open.has(item) ? this.close(item) : this.openOne(item)));
    if (this.open.has(item)) this.view.show({ ...this.boxes.corner(item), ...this.boxes.size(item) });
  }

  openOne(item) {
    if (item === 0 || !this.model.opens(item) || this.open.has(item)) return;
    this.open.add(item);
    this.picture.changed(item);
  }

  close(item) {
    for (const inner of [...this.open]) if (inner >= item && this.model.contains(item, inner)) this.open.delete(inner);
    this.picture.changed(item);
    if (this.chosen > item && this.model.contains(item, this.chosen)) this.chosen = item;
    if (this.picture.reached > item && this.model.contains(item, this.picture.reached)) this.picture.reached = item;
  }

  // Do something that changes the picture; what it is done to stays where one looks.
  keeping(item, act) {
    const before = this.shown(item) ? this.boxes.corner(item) : null;
    const focused = this.picture.elements.get(item) === document.activeElement;
    act();
    this.redraw();
    const after = before && this.boxes.corner(item);
    if (after) this.view.pan((before.x - after.x) * this.view.scale, (before.y - after.y) * this.view.scale);
    if (focused) this.picture.elements.get(item)?.focus({ preventScroll: true });
  }

  redraw() {
    this.picture.draw();
    this.picture.chosen = this.chosen;
    this.picture.mark();
    this.tell("open");
  }

  // Open only the way to an item.
  openWay(item) {
    const way = this.model.way(item).filter((outer) => !this.isOpen(outer));
    for (const outer of way) this.openOne(outer);
    if (way.length) this.redraw();
    return way;
  }

  // The depths that the slider has: where something is folded, one more that unfolds it.
  get stops() { return this.deepest + (this.folded ? 1 : 0); }

  // Open all modules above a depth and close the others; groups of equal ones stay one box but at the last stop.
  openTo(depth) {
    const middle = this.chosen >= 0 ? this.chosen : null;
    const wanted = new Set();
    let shown = 0;
    const queue = [[0, 0]];
    const unfold = depth > this.deepest;
    for (const [outer, level] of queue) {
      shown += this.model.children[outer].length;
      if (shown > MOST_SHOWN) break;
      if (outer !== 0) wanted.add(outer);
      for (const item of this.model.children[outer]) {
        const kind = this.model.kind(item);
        if (kind === "module" && this.model.opens(item) && level + 1 < depth) queue.push([item, level + 1]);
        if (unfold && (kind === "group" || kind === "range")) queue.push([item, level]);
      }
    }
    if (depth === 0) wanted.clear();
    for (const item of [...this.open]) if (!wanted.has(item) && this.open.has(item)) this.close(item);
    for (const item of wanted) this.openOne(item);
    this.depth = depth;
    this.redraw();
    if (middle !== null && this.shown(this.chosen)) this.reveal(this.chosen, true);
    return shown <= MOST_SHOWN;
  }

  // ---- choosing -------------------------------------------------------------------------------------------------

  // Choose an item, or nothing (-1); `reveal` opens the way to it and brings it into sight.
  choose(item, { reveal = false, focus = false } = {}) {
    if (item > 0 && reveal) this.openWay(item);
    this.chosen = item;
    this.picture.chosen = item;
    if (item > 0 && this.shown(item)) this.picture.reached = item;
    this.picture.mark();
    if (item > 0 && reveal) this.reveal(item, true);
    if (item > 0 && focus) this.focus(item);
    this.tell("chosen");
  }

  focus(item) {
    this.picture.reached = item;
    this.picture.mark();
    this.picture.elements.get(item)?.focus({ preventScroll: true });
    this.reveal(item);
  }

  reveal(item, always = false) {
    const corner = this.boxes.corner(item), size = this.boxes.size(item);
    // Of a module that is larger than the stage, its title.
    const tall = size.height * this.view.scale > this.view.height;
    this.view.reveal({ ...corner, width: size.width, height: tall ? TITLE_HEIGHT : size.height }, always);
  }
}
