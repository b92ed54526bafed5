// The state in the address: "#encoder.layer.3" chooses an item, "&open=…" says what else is open, "&colour=flops".

class Link {
  constructor(app) {
    this.app = app;
    this.items = null;
    app.follow(() => this.write());
    addEventListener("hashchange", () => location.hash !== this.written && this.read());
  }

  // Items by what names them in a link; the first of several with one name.
  find(id) {
    if (!this.items) {
      this.items = new Map();
      for (let item = this.app.model.size - 1; item >= 0; item -= 1) this.items.set(wellFormed(this.app.model.id(item)), item);
    }
    return this.items.get(id);
  }

  // Chooses and opens what the address says; whether it said anything.
  read() {
    if (location.hash.length < 2) return false;
    const [path, ...others] = location.hash.slice(1).split("&");
    const values = Object.fromEntries(others.map((part) => part.split("=")));
    const plain = (text) => { try { return decodeURIComponent(text); } catch { return ""; } };
    if (values.open !== undefined) {
      const wanted = values.open.split(",").map((part) => this.find(plain(part))).filter((item) => item > 0);
      for (const item of [...this.app.open]) if (this.app.open.has(item)) this.app.close(item);
      for (const item of wanted) this.app.openOne(item);
      this.app.redraw();
    }
    if (values.colour in COLOURINGS) this.app.colourBy(values.colour);
    const item = path ? this.find(plain(path)) : undefined;
    if (item > 0) this.app.choose(item, { reveal: true });
    return true;
  }

  write() {
    if (this.silent) return;
    const { app } = this, { model } = app;
    const written = (item) => encodeURIComponent(wellFormed(model.id(item)));
    // What lies inside a closed module is closed, so the way to each open one is open too.
    const open = [...app.open].sort((a, b) => a - b).map(written);
    const parts = [app.chosen > 0 ? written(app.chosen) : ""];
    if (open.length <= 40) parts.push(`open=${open.join(",")}`);
    if (app.way !== "kind") parts.push(`colour=${app.way}`);
    this.written = `#${parts.join("&")}`;
    // A sandboxed frame may not touch its address.
    try { history.replaceState(null, "", this.written); } catch { /* no address to write to */ }
  }
}
