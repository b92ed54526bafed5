// How large an item's box is, and what stands in it.

const LINE = 17, PADDING = { x: 12, y: 7 }, TITLE_HEIGHT = 30, INSET = 16, PORT_ROOM = 14, LONGEST = 46;
const FONTS = { name: "600 13px system-ui, sans-serif", more: "12px system-ui, sans-serif" };
const pen = document.createElement("canvas").getContext("2d");
const widths = new Map();

function textWidth(text, font) {
  const key = `${font} ${text}`;
  if (!widths.has(key)) {
    pen.font = FONTS[font];
    widths.set(key, pen.measureText(text).width);
  }
  return widths.get(key);
}

const shortened = (text, most = LONGEST) => {
  const plain = wellFormed(text).replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
  return plain.length <= most ? plain : `${plain.slice(0, most - 16)}…${plain.slice(-15)}`;
};

// The lines of a closed box: [{ text, font }].
function linesOf(model, item) {
  const name = model.text("name", item), kind = model.text("class", item);
  const several = model.kind(item) === "group" || model.kind(item) === "range";
  const first = several ? model.title(item) : model.data.names || !kind || !model.isModule(item) ? name : kind;
  const lines = [{ text: shortened(model.number("calls", item) > 1 ? `${first} (${model.number("calls", item)} calls)` : first), font: "name" }];
  if (model.kind(item) === "function") return lines;
  const second = several ? name : first !== kind && model.kind(item) !== "input" && model.kind(item) !== "output" ? kind : "";
  lines.push({ text: shortened([second, shapesOf(model, item)].filter(Boolean).join(" · ")), font: "more" });
  const extra = extraOf(model, item);
  if (extra) lines.push({ text: shortened(extra), font: "more" });
  if (model.has(item, FAILED)) lines.push({ text: shortened(`FAILED: ${model.data.failure}`, 80), font: "name" });
  return lines;
}

function shapesOf(model, item) {
  const inputs = model.text("inputs", item), outputs = model.text("outputs", item);
  const known = outputs && outputs !== "?" ? shortened(outputs, 34) : "";
  if (model.has(item, FAILED)) return `input ${shortened(inputs, 34)}`;
  return model.data.shapes && model.isModule(item) && inputs && inputs !== "?" && known ? `${shortened(inputs, 34)} → ${known}` : known;
}

function extraOf(model, item) {
  const facts = [];
  if (model.data.dtype && model.text("dtype", item)) facts.push(model.text("dtype", item));
  if (!model.isModule(item)) return facts.join(" · ");
  if (model.data.params) facts.push(`params: ${model.params(item)}`);
  const trainable = model.number("trainable", item), params = model.number("params", item);
  if (model.data.trainable && params) facts.push(trainable === params ? "trainable" : trainable ? "partly trainable" : "frozen");
  return facts.join(" · ");
}

function boxSize(model, item) {
  const several = model.kind(item) === "group" || model.kind(item) === "range", name = model.text("name", item);
  const lines = linesOf(model, item);
  const mark = model.opens(item) ? 22 : 0;
  // What the colour says of a box ("12.3 %", "changes inside") always has its place.
  const wide = lines.map((line, place) => textWidth(line.text, line.font) + (place ? 0 : mark));
  const room = model.isModule(item) ? textWidth(`${shortened(several ? name : model.text("class", item))} · ${model.longestShare ?? "99.9 %"}`, "more") : 0;
  return { width: Math.ceil(Math.max(...wide, room, 28) + 2 * PADDING.x), height: lines.length * LINE + 2 * PADDING.y };
}

const frameTitle = (model, item) => {
  const name = model.text("name", item), kind = model.text("class", item);
  if (model.kind(item) === "group" || model.kind(item) === "range") return { name: model.title(item), kind: shortened(name) };
  return { name: shortened(name), kind: name === kind ? "" : shortened(kind) };
};

function titleWidth(model, item) {
  const { name, kind } = frameTitle(model, item);
  return Math.ceil(textWidth(name, "name") + 8 + textWidth(kind, "more")) + 2 * PADDING.x + 26;
}
