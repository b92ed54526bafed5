// Search by path or class. What is found is shown by opening only the way to it, which closes again behind the search.

const MOST_FOUND = 5000;

class Search {
  constructor(app, input, output) {
    Object.assign(this, { app, input, output, found: [], at: -1, opened: [] });
    input.addEventListener("input", () => this.find());
    input.addEventListener("keydown", (event) => this.key(event));
  }

  find() {
    const word = this.input.value.trim().toLowerCase(), { model } = this.app;
    this.at = -1;
    this.found = [];
    if (word) {
      for (let item = 1; item < model.size && this.found.length < MOST_FOUND; item += 1) {
        if (this.fits(item, word)) this.found.push(item);
      }
    }
    const hidden = this.found.filter((item) => !this.app.shown(item)).length;
    const many = this.found.length === MOST_FOUND ? `${grouped(MOST_FOUND)} or more` : grouped(this.found.length);
    this.say(word ? `${many} found${hidden ? `, ${grouped(hidden)} inside closed modules` : ""}` : "");
    this.app.picture.matches = new Set(this.found);
    this.app.picture.mark();
  }

  fits(item, word) {
    const { model } = this.app, kind = model.kind(item);
    if (kind === "range") return false;
    if (model.text("class", item).toLowerCase().includes(word)) return true;
    const name = model.text("name", item).toLowerCase();
    if (kind === "group") return false;
    if (name.includes(word)) return true;
    // A word with a point in it is a path.
    return kind === "module" && word.includes(".") && model.path(item).toLowerCase().includes(word);
  }

  go(step) {
    if (this.found.length === 0) return;
    const { app } = this;
    this.at = (this.at + step + this.found.length) % this.found.length;
    const item = this.found[this.at], way = new Set(app.model.way(item));
    // Innermost first: closing what is around closes them all.
    for (const outer of this.opened.filter((one) => !way.has(one))) if (app.open.has(outer)) app.close(outer);
    this.opened = this.opened.filter((one) => way.has(one));
    this.opened.push(...app.model.way(item).filter((outer) => !app.isOpen(outer)));
    for (const outer of app.model.way(item)) app.openOne(outer);
    app.redraw();
    app.choose(item, { reveal: true });
    this.say(`${this.at + 1} of ${this.found.length}: ${shortened(app.model.title(item), 80)}`);
  }

  key(event) {
    if (event.key === "Enter") {
      event.preventDefault();
      this.go(event.shiftKey || this.at < 0 ? (this.at < 0 ? 1 : -1) : 1);
    } else if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      this.clear();
      this.app.picture.elements.get(this.app.picture.reached)?.focus({ preventScroll: true });
    }
  }

  clear() {
    this.input.value = "";
    this.opened = [];
    this.find();
  }

  say(text) { this.output.textContent = text; }
}
