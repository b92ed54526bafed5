// The picture: an element for each item that is shown, inside that of the module around it.
// When a module opens or closes, only it and those around it are drawn anew; all other elements stay.

const MOST_NUMBERS = 60, DEEPEST_SHADE = 6;

class Picture {
  constructor(model, boxes, arrows, root) {
    Object.assign(this, { model, boxes, arrows, root });
    this.elements = new Map();
    this.chosen = -1;
    this.matches = new Set();
    this.colouring = null;
    root.setAttribute("role", "tree");
    root.setAttribute("aria-label", `${model.data.name}, modules and functions`);
  }

  // Draw everything again that is not as it was.
  draw() {
    this.drawInside(0, this.root);
  }

  // An item was opened or closed: it and what is around it must be drawn again.
  changed(item) {
    for (const inner of [...this.elements.keys()]) {
      if (inner > item && this.model.contains(item, inner)) this.elements.delete(inner);
    }
    this.boxes.forget(item);
    this.dirty ??= new Set();
    for (let at = item; at >= 0; at = this.model.parents[at]) this.dirty.add(at);
  }

  drawInside(outer, into) {
    const { layout, offset, level } = this.boxes.inside(outer);
    const place = (item) => {
      const { x, y } = layout.places.get(item), { width, height } = this.boxes.size(item);
      return { x: x - width / 2, y: y - height / 2 };
    };
    const children = this.model.children[outer].map((item) => {
      const element = this.element(item), { x, y } = place(item);
      element.setAttribute("transform", `translate(${Math.round(x * 10) / 10} ${Math.round(y * 10) / 10})`);
      return element;
    });
    into.replaceChildren(...this.drawArrows(outer, level, layout), ...children);
    if (outer !== 0) into.setAttribute("transform", `translate(${offset.x} ${offset.y})`);
    if (outer === 0) this.dirty = null;
  }

  element(item) {
    const known = this.elements.get(item);
    if (known && !this.dirty?.has(item)) return known;
    const made = this.boxes.open.has(item) ? this.frame(item, known) : this.box(item);
    this.elements.set(item, made);
    this.coloured(item, made);
    this.marked(item, made);
    if (known && known === document.activeElement) this.refocus = item;
    return made;
  }

  attributes(item, more) {
    const { model } = this, open = boxesOpen(this, item);
    const shapes = model.text("outputs", item);
    const said = [model.title(item)];
    if (model.kind(item) === "group" || model.kind(item) === "range") said.push(model.text("name", item));
    if (model.has(item, FAILED)) said.push("failed");
    if (model.has(item, UNTRACED)) said.push("where its tensors come from was not seen");
    if (shapes && shapes !== "?") said.push(`output ${shapes}`);
    return {
      "data-key": item,
      role: "treeitem",
      tabindex: item === this.reached ? 0 : -1,
      "aria-label": said.join(", "),
      "aria-level": model.way(item).length,
      "aria-expanded": model.opens(item) ? String(open) : undefined,
      "aria-selected": String(item === this.chosen),
      ...more,
    };
  }

  box(item) {
    const { model } = this, { width, height } = this.boxes.size(item);
    const kind = model.kind(item);
    const rounded = kind === "function" || !model.isModule(item) ? Math.min(height / 2, 14) : 5;
    const classes = ["item", "box", kind, model.has(item, FAILED) ? "failed" : "", model.has(item, UNTRACED) ? "untraced" : ""];
    const lines = linesOf(model, item).map((line, place) =>
      svg("text", { class: line.font, x: width / 2 - (place === 0 && model.opens(item) ? 9 : 0), y: PADDING.y + 13 + place * LINE }, line.text));
    const behind = kind === "group" || kind === "range" ? [svg("rect", { class: "behind", x: 4, y: 4, width, height, rx: rounded })] : [];
    const sign = model.opens(item) ? [svg("path", { class: "sign", d: `M${width - 20} 15h9m-4.5 -4.5v9` })] : [];
    return svg("g", this.attributes(item, { class: classes.filter(Boolean).join(" ") }),
      ...behind, svg("rect", { class: "face", width, height, rx: rounded }), ...lines, ...sign);
  }

  frame(item) {
    const { model } = this, { width, height } = this.boxes.size(item);
    const title = frameTitle(model, item);
    const inside = svg("g", { role: "group" });
    // Each frame lies on those around it: deep inside, no more shade is added.
    const deep = model.way(item).length > DEEPEST_SHADE ? "deep" : "";
    const classes = ["item", "frame", model.kind(item), model.has(item, FAILED) ? "failed" : "", deep];
    const element = svg("g", this.attributes(item, { class: classes.filter(Boolean).join(" ") }),
      svg("rect", { class: "face", width, height, rx: 8 }),
      svg("g", { class: "title" },
        svg("rect", { class: "grip", width, height: TITLE_HEIGHT - 4, rx: 8 }),
        svg("path", { class: "sign", d: "M10 14h9" }),
        svg("text", { x: 26, y: 18 }, svg("tspan", { class: "name" }, title.name), svg("tspan", { class: "more", dx: 8 }, title.kind))),
      inside);
    this.drawInside(item, inside);
    return element;
  }

  // ---- arrows ---------------------------------------------------------------------------------------------------

  drawArrows(outer, level, layout) {
    const across = this.boxes.across, texts = [];
    const lines = { seen: ["", ""], guessed: ["", ""], arc: ["", ""] };
    level.edges.forEach((edge, index) => {
      const line = lines[layout.routes[index].arc && edge.source !== edge.target ? "arc" : edge.guessed ? "guessed" : "seen"];
      const { path, tip } = this.route(edge, layout.routes[index], layout, across);
      line[0] += path;
      line[1] += tip;
      if (edge.count > 1 && texts.length < MOST_NUMBERS) texts.push(this.numberOf(edge, layout.routes[index].points));
    });
    const made = [];
    for (const [name, [path, tips]] of Object.entries(lines)) {
      if (path) made.push(svg("path", { class: `arrows ${name}`, d: path, "aria-hidden": "true" }));
      if (tips) made.push(svg("path", { class: "tips", d: tips, "aria-hidden": "true" }));
    }
    return [...made, svg("path", { class: "arrows chosen-arrows", "aria-hidden": "true", "data-inside": outer }), ...texts];
  }

  // The path of one arrow; into an open module it goes on to where it is taken up inside.
  route(edge, { points, arc }, layout, across) {
    points = points.map((point) => ({ ...point }));
    let tip = typeof edge.target === "number", more = "";
    if (!arc && edge.source !== edge.target) {
      if (this.boxes.open.has(edge.source)) more += this.through(points, edge, layout, "leaving", across);
      if (this.boxes.open.has(edge.target)) {
        const inside = this.through(points, edge, layout, "entering", across);
        more += inside;
        tip = inside === "";
      }
    }
    return { path: curve(points, arc, across) + more, tip: tip ? head(points, arc, across) : "" };
  }

  // The way from an open module's frame to the places inside where an arrow begins or ends; "" where there are none.
  through(points, edge, layout, way, across) {
    const entering = way === "entering", item = entering ? edge.target : edge.source;
    const inside = this.boxes.inside(item), size = this.boxes.size(item), middle = layout.places.get(item);
    const places = inside.level[way].filter((port) => port.leaves.some((leaf) => edge.leaves.has(leaf))).map((port) => {
      const { x, y } = inside.layout.places.get(port.id);
      return { x: middle.x - size.width / 2 + inside.offset.x + x, y: middle.y - size.height / 2 + inside.offset.y + y };
    });
    if (places.length === 0) return "";
    const end = entering ? points.length - 1 : 0, axis = across ? "y" : "x";
    if (places.length === 1) {
      // The frame is crossed where the inside goes on, so that the line under its title is straight.
      const beside = entering ? end - 1 : 1;
      points[end][axis] = places[0][axis];
      if (points.length > 2) points[beside][axis] = places[0][axis];
    }
    return places.map((place) => (entering ? curve([points[end], place], false, across) : curve([place, points[end]], false, across))).join("");
  }

  numberOf(edge, points) {
    const [one, other] = points.length > 2 ? [points[1], points[1]] : points;
    return svg("text", { class: "number", x: (one.x + other.x) / 2 + 6, y: (one.y + other.y) / 2 + 4 }, String(edge.count));
  }

  // The arrows of the chosen item stand out, inside each module around it.
  drawChosenArrows() {
    for (const path of this.root.querySelectorAll(".chosen-arrows")) path.removeAttribute("d");
    if (this.chosen <= 0) return;
    const outer = this.model.parents[this.chosen];
    const { level, layout } = this.boxes.inside(outer);
    let text = "";
    level.edges.forEach((edge, index) => {
      if (edge.source === this.chosen || edge.target === this.chosen) text += this.route(edge, layout.routes[index], layout, this.boxes.across).path;
    });
    for (const path of this.root.querySelectorAll(".chosen-arrows")) if (Number(path.dataset.inside) === outer) path.setAttribute("d", text);
  }

  // ---- what is marked -------------------------------------------------------------------------------------------

  coloured(item, element) {
    if (!this.colouring) return;
    const { name, share } = this.colouring(item);
    element.dataset.colour = name;
    const more = element.querySelector(":scope > text.more");
    if (!more || !this.model.isModule(item)) return;
    const second = linesOf(this.model, item)[1].text;
    more.textContent = share ? `${second.split(" · ")[0]} · ${share}` : second;
  }

  marked(item, element) {
    element.classList.toggle("chosen", item === this.chosen);
    element.classList.toggle("match", this.matches.has(item));
    element.setAttribute("aria-selected", String(item === this.chosen));
    element.setAttribute("tabindex", item === this.reached ? 0 : -1);
  }

  recolour(colouring) {
    this.colouring = colouring;
    for (const [item, element] of this.elements) this.coloured(item, element);
  }

  mark() {
    for (const [item, element] of this.elements) this.marked(item, element);
    this.drawChosenArrows();
  }
}

const boxesOpen = (picture, item) => picture.boxes.open.has(item);
