// What the colours of the boxes say: the kind of layer, or the share of the whole. The colours are in picture.css.

const COLOURINGS = {
  kind: { label: "kind" },
  params: { label: "parameters", of: "parameters" },
  flops: { label: "FLOPs", of: "FLOPs" },
  memory: { label: "memory", of: "bytes of weights and outputs" },
  none: { label: "nothing" },
};
// The least share of each step of a heat map; what is below the first has no colour.
const STEPS = [0.0005, 0.01, 0.03, 0.1, 0.3];

// A function that gives { name, share } of an item.
function colouringBy(model, way) {
  if (way === "none") return () => ({ name: "" });
  if (way === "kind") return (item) => ({ name: model.layer(item) });
  return (item) => {
    if (!model.isModule(item)) return { name: "" };
    const share = model.share(way, item);
    const step = STEPS.filter((least) => share >= least).length;
    return { name: `heat${step}`, share: percent(share) };
  };
}

function drawLegend(model, way, into) {
  const entry = (name, text) => html("li", {}, html("i", { "data-colour": name, "aria-hidden": "true" }), text);
  let entries = [];
  if (way === "kind") {
    const there = new Set(model.columns.layer);
    entries = model.data.tree.layers.map((layer, number) => [layer, number]).filter(([layer, number]) => there.has(number) && layer !== "other" && layer !== "end")
      .map(([layer]) => entry(layer, layer));
  } else if (way !== "none") {
    entries = STEPS.map((least, place) => entry(`heat${place + 1}`, place === 0 ? "< 1 %" : `${STEPS[place] * 100} %+`));
    entries.unshift(html("li", {}, `share of ${COLOURINGS[way].of}:`));
  }
  into.replaceChildren(...entries);
  into.hidden = entries.length === 0;
}
