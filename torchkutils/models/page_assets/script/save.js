// The picture as it is, as an SVG file (colours written out, no script) or a PNG.

const MOST_SIDE = 16000, MOST_PIXELS = 120e6, SAVED_MARGIN = 16;

function svgText(app) {
  const { width, height } = app.boxes.size(0);
  const copy = app.picture.root.cloneNode(true);
  copy.removeAttribute("style");
  copy.setAttribute("class", "picture");
  for (const element of [copy, ...copy.querySelectorAll("*")]) {
    for (const name of [...element.getAttributeNames()]) if (name.startsWith("aria-") || ["role", "tabindex", "data-key", "data-inside"].includes(name)) element.removeAttribute(name);
    element.classList.remove("chosen", "match", "far");
  }
  for (const unused of copy.querySelectorAll(".chosen-arrows")) unused.remove();
  copy.setAttribute("transform", `translate(${SAVED_MARGIN} ${SAVED_MARGIN})`);
  const size = [width + 2 * SAVED_MARGIN, height + 2 * SAVED_MARGIN].map(Math.ceil);
  const root = svg("svg", { xmlns: SVG, width: size[0], height: size[1], viewBox: `0 0 ${size[0]} ${size[1]}` },
    svg("title", {}, app.model.data.name), svg("style", {}, plainStyle()),
    svg("rect", { width: size[0], height: size[1], fill: resolved("--paper") }), copy);
  return { text: printable(new XMLSerializer().serializeToString(root)), width: size[0], height: size[1] };
}

// XML has no place for control characters, not even written out.
const printable = (text) => wellFormed(text).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd");

// A variable's colour in the theme that is shown.
function resolved(variable) {
  const probe = html("i");
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

// The rules of the picture with the colours in place of variables, which few other programs know.
function plainStyle() {
  const known = new Map();
  return $("picture-style").textContent.replace(/var\((--[\w-]+)\)/g, (_, name) => {
    if (!known.has(name)) known.set(name, resolved(name));
    return known.get(name);
  });
}

function saveAs(name, blob) {
  const link = html("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const fileName = (app, ending) => `${app.model.data.name.replace(/[^\p{L}\p{N}._-]/gu, "_").slice(0, 80) || "model"}.${ending}`;

function saveSvg(app) {
  saveAs(fileName(app, "svg"), new Blob([svgText(app).text], { type: "image/svg+xml" }));
}

async function savePng(app, say) {
  const { text, width, height } = svgText(app);
  const scale = Math.min(2, MOST_SIDE / width, MOST_SIDE / height, Math.sqrt(MOST_PIXELS / (width * height)));
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = html("canvas", { width: Math.ceil(width * scale), height: Math.ceil(height * scale) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  if (scale < 1) say(`saved at ${percent(scale)} of its size: a bitmap can hold no more; SVG has all of it`);
  saveAs(fileName(app, "png"), blob);
}
