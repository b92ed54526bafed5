// A small map of the whole, from 200 boxes on: where one looks, and a way to go elsewhere.

const MAP_FROM = 200, MAP_SIZE = { width: 190, height: 230 };

class OverviewMap {
  constructor(app, canvas) {
    Object.assign(this, { app, canvas, pixels: document.createElement("canvas") });
    app.follow((what) => what !== "chosen" && this.list());
    app.view.listeners.push(() => this.draw());
    new MutationObserver(() => this.list()).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    const go = (event) => {
      const box = canvas.getBoundingClientRect();
      const x = (event.clientX - box.left) / this.scale, y = (event.clientY - box.top) / this.scale;
      app.view.x = app.view.width / 2 - x * app.view.scale;
      app.view.y = app.view.height / 2 - y * app.view.scale;
      app.view.apply();
    };
    canvas.addEventListener("pointerdown", (event) => { event.stopPropagation(); this.held = true; go(event); });
    canvas.addEventListener("pointermove", (event) => this.held && go(event));
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) canvas.addEventListener(end, () => { this.held = false; });
  }

  list() {
    let count = 0;
    this.app.boxes.each(() => { count += 1; });
    this.canvas.hidden = count <= MAP_FROM;
    if (this.canvas.hidden) return;
    const { width, height } = this.app.boxes.size(0);
    this.scale = Math.min(MAP_SIZE.width / width, MAP_SIZE.height / height);
    for (const one of [this.canvas, this.pixels]) {
      one.width = Math.max(24, Math.ceil(width * this.scale));
      one.height = Math.max(24, Math.ceil(height * this.scale));
    }
    const pen = this.pixels.getContext("2d"), style = getComputedStyle(this.canvas);
    this.app.boxes.each((item, x, y, size) => {
      const open = this.app.open.has(item);
      pen.fillStyle = open ? style.getPropertyValue("background-color") : style.color;
      pen.globalAlpha = open ? 0.3 : 0.75;
      pen.fillRect(x * this.scale, y * this.scale, Math.max(size.width * this.scale, 1), Math.max(size.height * this.scale - (open ? 0 : 0.5), 0.7));
    });
    this.draw();
  }

  draw() {
    if (this.canvas.hidden || !this.scale) return;
    const pen = this.canvas.getContext("2d"), { view } = this.app;
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    pen.drawImage(this.pixels, 0, 0);
    pen.lineWidth = 2;
    pen.strokeStyle = getComputedStyle(this.canvas).getPropertyValue("outline-color");
    const scale = this.scale / view.scale;
    pen.strokeRect(-view.x * scale + 1, -view.y * scale + 1, Math.max(view.width * scale - 2, 3), Math.max(view.height * scale - 2, 3));
  }
}
