// What is known of the chosen item, with links along its arrows; and the way to it, as breadcrumbs.

const MOST_LINKS = 30;

class Facts {
  constructor(app, panel, details, crumbs) {
    Object.assign(this, { app, panel, details, crumbs });
    app.follow((what) => what !== "colour" && this.draw());
    $("close").addEventListener("click", () => app.choose(-1));
  }

  draw() {
    const { chosen } = this.app;
    this.drawWay(Math.max(chosen, 0));
    this.panel.hidden = chosen < 0;
    if (chosen >= 0) this.details.replaceChildren(...this.facts(chosen));
    else this.details.replaceChildren();
  }

  drawWay(item) {
    const { model } = this.app;
    const step = (outer) => {
      const name = outer === 0 ? model.data.name : model.kind(outer) === "module" ? model.text("name", outer) : model.kind(outer) === "function" ? model.text("name", outer) : frameTitle(model, outer).name;
      const button = html("button", { type: "button", "aria-current": outer === item ? "location" : undefined }, shortened(name, 40));
      button.addEventListener("click", () => (outer === 0 ? (this.app.choose(0), this.app.view.fit()) : this.app.choose(outer, { reveal: true })));
      return html("li", {}, button);
    };
    this.crumbs.replaceChildren(...model.way(item).map(step), step(item));
  }

  facts(item) {
    const { model } = this.app;
    const known = (text) => (text === "?" ? "" : text);
    const memory = model.number("memory", item);
    const share = (name) => (model.number(name, 0) && model.isModule(item) ? ` (${percent(model.share(name, item))})` : "");
    const rows = [
      ["class", model.text("class", item)],
      ["arguments", model.text("arguments", item)],
      ["inputs", known(model.text("inputs", item))],
      ["outputs", known(model.text("outputs", item))],
      ["dtype", model.text("dtype", item)],
      ["calls", model.number("calls", item) > 1 ? String(model.number("calls", item)) : ""],
      ["parameters", model.params(item) && model.params(item) + share("params")],
      ["trainable", model.number("params", item) ? grouped(model.number("trainable", item)) : ""],
      ["FLOPs", model.flops(item) && model.flops(item) + share("flops")],
      ["weights and outputs", memory && model.isModule(item) ? `${rounded(memory)}B${share("memory")}` : ""],
      ["failed", model.has(item, FAILED) ? model.data.failure : ""],
    ].filter(([, text]) => text);
    if (item === 0 && model.data.uncalled.length) rows.push(["never called", model.data.uncalled.join(", ")]);
    const list = html("dl", {}, ...rows.flatMap(([name, text]) => [html("dt", {}, name), html("dd", {}, text)]));
    const title = html("h2", {}, item === 0 ? model.data.name : model.title(item));
    return [title, ...this.toggle(item), list, ...this.links("takes from", item, false), ...this.links("gives to", item, true)];
  }

  toggle(item) {
    if (item === 0 || !this.app.model.opens(item)) return [];
    const open = this.app.isOpen(item);
    const button = html("button", { type: "button", class: "toggle" }, open ? "Close" : "Open");
    button.addEventListener("click", () => this.app.toggle(item));
    return [button];
  }

  links(what, item, giving) {
    if (item === 0) return [];
    const found = this.app.arrows.neighbours(item, giving);
    if (found.length === 0) return [];
    const link = (other) => {
      const button = html("a", { href: "#" }, this.app.model.title(other));
      button.addEventListener("click", (event) => {
        event.preventDefault();
        this.app.choose(other, { reveal: true });
      });
      return html("li", {}, button);
    };
    const more = found.length > MOST_LINKS ? [html("li", {}, `… and ${found.length - MOST_LINKS} more`)] : [];
    return [html("h3", {}, what), html("ul", {}, ...found.slice(0, MOST_LINKS).map(link), ...more)];
  }
}
