// Where one looks: scale and place of the picture on the stage; wheel, drag, two fingers.

const LEAST = 0.02, MOST = 6, READABLE = 0.55;

class View {
  constructor(stage, view, size) {
    Object.assign(this, { stage, view, size, scale: 1, x: 0, y: 0, listeners: [] });
    this.pointers = new Map();
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.pressed(event));
    stage.addEventListener("pointermove", (event) => this.moved(event));
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => this.released(event));
  }

  get width() { return this.stage.clientWidth; }
  get height() { return this.stage.clientHeight; }

  apply() {
    this.view.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.view.classList.toggle("far", this.scale < 0.22);
    for (const listener of this.listeners) listener();
  }

  // All of it; from the start no smaller than can be read, then from its beginning.
  fit(readable = false) {
    const { width, height } = this.size();
    if (!this.width || !this.height || !width || !height) return;
    const margin = 24;
    const whole = Math.min((this.width - 2 * margin) / width, (this.height - 2 * margin) / height, 1);
    this.scale = Math.min(Math.max(whole, readable ? READABLE : LEAST), MOST);
    this.x = Math.max((this.width - width * this.scale) / 2, readable && width * this.scale > this.width ? (this.width - width * this.scale) / 2 : margin);
    this.y = Math.max((this.height - height * this.scale) / 2, margin);
    this.apply();
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const scale = Math.min(Math.max(this.scale * factor, LEAST), MOST);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.apply();
  }

  pan(x, y) {
    this.x += x;
    this.y += y;
    this.apply();
  }

  // Bring a rectangle of the picture into sight; where it is in sight already, nothing moves.
  reveal({ x, y, width, height }, always = false) {
    const left = this.x + x * this.scale, top = this.y + y * this.scale;
    const right = left + width * this.scale, bottom = top + height * this.scale;
    const seen = left >= 0 && top >= 0 && right <= this.width && bottom <= this.height;
    if (seen && !always) return;
    if (this.scale < READABLE / 2 && always) this.scale = READABLE;
    const fits = width * this.scale < this.width && height * this.scale < this.height;
    this.x = fits || width * this.scale < this.width ? this.width / 2 - (x + width / 2) * this.scale : 16 - x * this.scale;
    this.y = height * this.scale < this.height ? this.height / 2 - (y + height / 2) * this.scale : 40 - y * this.scale;
    this.apply();
  }

  // Move as little as shows most of a rectangle that grew; its upper left corner stays in sight.
  show({ x, y, width, height }) {
    const move = (start, length, room) => {
      const margin = 16, over = start + length - (room - margin);
      if (start < margin) return margin - start;
      return over > 0 ? -Math.min(over, start - margin) : 0;
    };
    this.pan(move(this.x + x * this.scale, width * this.scale, this.width), move(this.y + y * this.scale, height * this.scale, this.height));
  }

  at(event) {
    const box = this.stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  wheel(event) {
    event.preventDefault();
    const { x, y } = this.at(event);
    if (event.shiftKey) this.pan(-event.deltaY, 0);
    else this.zoom(Math.exp(-Math.max(-240, Math.min(240, event.deltaY)) / 500), x, y);
  }

  pressed(event) {
    this.pointers.set(event.pointerId, this.at(event));
    this.travelled = this.pointers.size > 1 ? Infinity : 0;
  }

  moved(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.at(event);
    const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    this.pointers.set(event.pointerId, now);
    if (other) {
      const apart = (one) => Math.hypot(one.x - other.x, one.y - other.y) || 1;
      this.zoom(apart(now) / apart(before), other.x, other.y);
      return;
    }
    this.travelled += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
    if (this.travelled < 4) return;
    if (!this.stage.hasPointerCapture?.(event.pointerId)) {
      // A pointer that a script made cannot be caught.
      try { this.stage.setPointerCapture(event.pointerId); } catch { /* moved without */ }
    }
    this.stage.classList.add("dragged");
    this.pan(now.x - before.x, now.y - before.y);
  }

  released(event) {
    this.pointers.delete(event.pointerId);
    this.stage.classList.remove("dragged");
  }

  // Whether the click that comes now ends a drag.
  get dragged() { return this.travelled >= 4; }
}
