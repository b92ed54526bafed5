// The model that the file holds: flat columns of numbers, and the questions that the page asks of them.
// Items stand in preorder: what lies in an item follows it. Item 0 is the model itself.

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (mark) => mark.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const FAILED = 1, UNTRACED = 2, FLOPS_AT_LEAST = 4, LAZY = 8;
const MODULE_KINDS = new Set(["module", "group", "range"]);

class Model {
  constructor(data) {
    const { tree } = data;
    this.data = data;
    this.size = tree.size;
    this.strings = tree.strings;
    const column = (name) => tree.items[name] ?? new Uint8Array(tree.size);
    this.parents = column("parent");
    this.columns = {};
    for (const name of ["kind", "layer", "name", "class", "arguments", "inputs", "outputs", "dtype"]) this.columns[name] = column(name);
    for (const name of ["params", "trainable", "flops", "memory", "calls", "count", "flags"]) this.columns[name] = column(name);
    this.children = Array.from({ length: this.size }, () => []);
    this.ends = new Int32Array(this.size);
    for (let item = this.size - 1; item >= 0; item -= 1) {
      this.ends[item] = Math.max(this.ends[item], item + 1);
      const parent = this.parents[item];
      if (parent >= 0) {
        this.ends[parent] = Math.max(this.ends[parent], this.ends[item]);
        this.children[parent].push(item);
      }
    }
    for (const inside of this.children) inside.reverse();
  }

  number(name, item) { return this.columns[name][item]; }
  text(name, item) { return this.strings[this.columns[name][item]]; }
  kind(item) { return this.data.tree.kinds[this.columns.kind[item]]; }
  layer(item) { return this.data.tree.layers[this.columns.layer[item]]; }
  has(item, flag) { return (this.columns.flags[item] & flag) !== 0; }
  opens(item) { return this.children[item].length > 0; }
  isModule(item) { return MODULE_KINDS.has(this.kind(item)); }
  contains(outer, item) { return outer <= item && item < this.ends[outer]; }

  // From the model down to the item that holds this one.
  way(item) {
    const found = [];
    for (let at = this.parents[item]; at >= 0; at = this.parents[at]) found.push(at);
    return found.reverse();
  }

  // Levels of modules above it; groups and parts of lists are none.
  depth(item) {
    return this.way(item).filter((outer) => this.kind(outer) === "module").length;
  }

  // "encoder.layer.0"; of what is no module the path of the module around it.
  path(item) {
    const known = this.data.tree.paths[item];
    if (known !== undefined) return known;
    if (item === 0) return "";
    const around = this.path(this.parents[item]);
    return this.kind(item) === "module" ? joined(around, this.text("name", item)) : around;
  }

  // What names an item in a link and in a list: unlike a path, each kind of item has one.
  id(item) {
    if (this.kind(item) === "module") return this.path(item);
    const around = this.path(item), name = this.text("name", item);
    return around ? `${around}/${name}` : name;
  }

  // "encoder.layer.0: BertLayer", "12 × BertLayer", "add".
  title(item) {
    const name = this.kind(item) === "module" ? this.path(item) || this.text("name", item) : this.text("name", item);
    const kind = this.text("class", item);
    if (this.kind(item) === "group" || this.kind(item) === "range") return `${this.number("count", item)} × ${kind}`;
    return kind && kind !== name ? `${name}: ${kind}` : item === 0 ? name : kind ? `${name}: ${kind}` : name;
  }

  flops(item) {
    if (!this.data.ran || !this.isModule(item)) return "";
    return (this.has(item, FLOPS_AT_LEAST) ? "≥ " : "") + grouped(this.number("flops", item));
  }

  params(item) {
    if (!this.isModule(item)) return "";
    return this.has(item, LAZY) ? "?" : grouped(this.number("params", item));
  }

  // A part of the whole model's: 0 to 1.
  share(name, item) {
    const whole = this.number(name, 0);
    return whole > 0 ? this.number(name, item) / whole : 0;
  }
}

const grouped = (number) => number.toLocaleString("en-US");
function percent(share) {
  if (share === 0) return "0 %";
  if (share < 0.0005) return "< 0.1 %";
  return `${share >= 0.0995 ? Math.round(share * 100) : (share * 100).toFixed(1)} %`;
}

const joined = (around, name) => (!around ? name : name.startsWith("[") ? around + name : `${around}.${name}`);

// "1.3 M", for columns that have no place for all digits.
function rounded(number) {
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (number >= size) return `${Number((number / size).toPrecision(3))} ${unit}`;
  }
  return String(number);
}
