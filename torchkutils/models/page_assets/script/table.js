// The table beside the picture: the same modules, open as in the picture, one row each. Only rows in sight exist.

const ROW = 26;

class Table {
  constructor(app, host) {
    Object.assign(this, { app, host, rows: [] });
    this.body = html("div", { class: "rows", role: "rowgroup" });
    this.head = html("div", { class: "row head", role: "row" });
    host.append(this.head, this.body);
    host.setAttribute("role", "treegrid");
    host.addEventListener("scroll", () => this.draw(), { passive: true });
    host.addEventListener("click", (event) => this.clicked(event));
    host.addEventListener("keydown", (event) => this.key(event));
    app.follow((what) => (what === "open" ? this.list() : what === "chosen" ? this.follow() : this.draw()));
    new ResizeObserver(() => this.draw()).observe(host);
  }

  list() {
    const { model } = this.app;
    this.rows = [];
    const stack = [0];
    while (stack.length) {
      const item = stack.pop();
      if (model.isModule(item)) this.rows.push(item);
      if (this.app.isOpen(item)) stack.push(...[...model.children[item]].reverse());
    }
    this.places = new Map(this.rows.map((item, place) => [item, place]));
    this.host.setAttribute("aria-rowcount", this.rows.length + 1);
    this.body.style.height = `${this.rows.length * ROW}px`;
    this.draw();
  }

  draw() {
    const names = ["Module", "Output", "Parameters", this.app.way === "memory" ? "Memory" : "FLOPs"];
    this.head.replaceChildren(...names.map((name) => html("span", { role: "columnheader" }, name)));
    const first = Math.max(0, Math.floor(this.host.scrollTop / ROW) - 5);
    const last = Math.min(this.rows.length, first + Math.ceil((this.host.clientHeight || 400) / ROW) + 10);
    const focused = this.host.contains(document.activeElement) && document.activeElement.dataset.row;
    this.body.replaceChildren(...this.rows.slice(first, last).map((item, place) => this.row(item, first + place)));
    if (focused !== undefined && focused !== false) this.body.querySelector(`[data-row='${focused}']`)?.focus({ preventScroll: true });
  }

  row(item, place) {
    const { model } = this.app, opens = model.opens(item), open = this.app.isOpen(item);
    const level = item === 0 ? 0 : model.way(item).length;
    const several = model.kind(item) === "group" || model.kind(item) === "range";
    const name = several ? model.title(item) : model.text("name", item);
    const kind = several ? model.text("name", item) : model.text("class", item);
    const toggle = html("i", { class: opens && item !== 0 ? "toggle" : "", "aria-hidden": "true" }, opens && item !== 0 ? (open ? "▾" : "▸") : "");
    const title = html("span", { role: "rowheader", class: "title", title: model.title(item) }, toggle, html("b", {}, shortened(name, 60)), kind === name ? "" : ` ${shortened(kind, 60)}`);
    title.style.paddingLeft = `${Math.min(level, 12) * 14 + 4}px`;
    const { name: colour, share } = this.app.colouring(item);
    const marked = (text, way) => html("span", { role: "gridcell", "data-colour": share && this.app.way === way ? colour : undefined }, text);
    const row = html("div", {
      class: item === this.app.chosen ? "row chosen" : "row", role: "row", "data-row": item, "aria-level": level + 1, "aria-rowindex": place + 2,
      "aria-expanded": opens ? String(open) : undefined, "aria-selected": String(item === this.app.chosen),
      tabindex: item === this.app.chosen || (place === 0 && !this.places.has(this.app.chosen)) ? 0 : -1,
    }, title, html("span", { role: "gridcell", class: "shape" }, shortened(model.text("outputs", item), 40)), marked(model.params(item), "params"), marked(this.cost(item), this.app.way === "memory" ? "memory" : "flops"));
    row.style.top = `${place * ROW}px`;
    return row;
  }

  cost(item) {
    const { model } = this.app;
    if (this.app.way === "memory") return `${rounded(model.number("memory", item))}B`;
    if (!model.flops(item)) return "";
    return `${model.has(item, FLOPS_AT_LEAST) ? "≥ " : ""}${rounded(model.number("flops", item))}`;
  }

  follow() {
    const place = this.places?.get(this.app.chosen);
    if (place !== undefined) {
      const top = place * ROW, seen = this.host.clientHeight - ROW * 2;
      if (top < this.host.scrollTop || top > this.host.scrollTop + seen) this.host.scrollTop = Math.max(0, top - seen / 2);
    }
    this.draw();
  }

  clicked(event) {
    const row = event.target.closest("[data-row]");
    if (!row) return;
    const item = Number(row.dataset.row);
    if (event.target.classList.contains("toggle")) this.app.toggle(item);
    else this.app.choose(item, { reveal: item > 0 });
    this.body.querySelector(`[data-row='${item}']`)?.focus({ preventScroll: true });
  }

  key(event) {
    const row = event.target.closest("[data-row]");
    if (!row) return;
    const item = Number(row.dataset.row), place = this.places.get(item), { model } = this.app;
    const go = (next) => {
      if (next === undefined) return;
      this.app.choose(next, { reveal: next > 0 });
      this.follow();
      this.body.querySelector(`[data-row='${next}']`)?.focus({ preventScroll: true });
    };
    const acts = {
      ArrowDown: () => go(this.rows[place + 1]),
      ArrowUp: () => go(this.rows[place - 1]),
      Home: () => go(this.rows[0]),
      End: () => go(this.rows[this.rows.length - 1]),
      ArrowRight: () => (model.opens(item) && !this.app.isOpen(item) ? this.app.toggle(item) : go(this.rows[place + 1])),
      ArrowLeft: () => (this.app.open.has(item) ? this.app.toggle(item) : go(model.parents[item] >= 0 ? model.parents[item] : undefined)),
      Enter: () => this.app.toggle(item),
      " ": () => this.app.toggle(item),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    acts[event.key]();
    this.body.querySelector(`[data-row='${this.app.chosen}']`)?.focus({ preventScroll: true });
  }
}
