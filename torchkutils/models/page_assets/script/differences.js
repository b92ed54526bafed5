// The list of what differs: a click, or n and p, choose the module in both pictures.

const SIGNS = { changed: "~", removed: "−", added: "+" };
const WORDS = { class_name: "class", weights: "weights", params: "parameters", trainable_params: "trainable", input_shapes: "inputs",
  output_shapes: "outputs", total_params: "parameters", param_bytes: "bytes", flops: "FLOPs" };

const worded = (value) => (value === null || value === "" ? "–" : typeof value === "number" ? grouped(value) : String(value));

class Differences {
  constructor(comparison, host, choose) {
    Object.assign(this, { found: comparison.differences, host, choose, at: -1 });
    host.replaceChildren(...this.found.map((one, place) => this.entry(one, place)));
    if (this.found.length === 0) host.append(html("li", {}, "No module differs."));
  }

  entry(one, place) {
    const path = one.path ?? one.other_path;
    const inside = one.modules > 1 ? ` and ${one.modules - 1} in it` : "";
    const button = html("button", { type: "button", class: one.status, "aria-label": `${one.status}: ${path || "the model"}, ${one.class_name}${inside}` },
      html("b", { "aria-hidden": "true" }, SIGNS[one.status]), ` ${path || "the model"}`, html("span", {}, ` ${one.class_name}${inside}`));
    button.addEventListener("click", () => this.go(place));
    const facts = one.changes.map((change) => html("li", {}, html("span", {}, `${WORDS[change.fact] ?? change.fact}: `),
      html("del", {}, worded(change.before)), " → ", html("ins", {}, worded(change.after))));
    return html("li", {}, button, ...(facts.length ? [html("ul", {}, ...facts)] : []));
  }

  go(place) {
    if (this.found.length === 0) return;
    this.at = (place + this.found.length) % this.found.length;
    [...this.host.children].forEach((entry, index) => {
      entry.classList.toggle("chosen", index === this.at);
      if (index === this.at) entry.scrollIntoView({ block: "nearest" });
    });
    this.choose(this.found[this.at]);
  }
}
