// Two pictures side by side: what is opened or chosen in the one is opened or chosen in the other.

const STATUSES = { changed: "changed", alone: "only here", inside: "changes inside", equal: "equal" };
const content = await unpacked($("data").textContent);

// A module's path without the number of its call.
const ownPath = (model, item) => model.path(item).replace(/ \(\d+\)$/, "");

class Side {
  constructor(data, place) {
    this.data = data;
    this.model = new Model(data);
    this.model.longestShare = STATUSES.inside;
    this.app = new App(this.model, place.querySelector(".stage"), place.querySelector(".picture"));
    place.querySelector("h2").textContent = data.name;
    place.querySelector("h2").append(html("span", {}, data.totals));
    this.items = new Map();
    this.statuses = new Array(this.model.size).fill("equal");
    for (let item = this.model.size - 1; item >= 0; item -= 1) this.note(item);
    this.app.picture.colouring = (item) => {
      const status = this.model.isModule(item) ? this.statuses[item] : "";
      return { name: status, share: status && status !== "equal" ? STATUSES[status] : "" };
    };
  }

  // An item's own status; else whether something in it differs. What lies in it was noted before it.
  note(item) {
    const { model } = this, path = ownPath(model, item);
    let own;
    if (model.kind(item) === "module") {
      if (Object.hasOwn(this.data.statuses, path)) own = this.data.statuses[path];
      this.items.set(path, item);
    }
    const inside = model.children[item].map((child) => this.statuses[child]);
    const alone = inside.length > 0 && !own && model.kind(item) !== "module" && model.children[item].every((child) => !model.isModule(child) || this.statuses[child] === "alone");
    if (own) this.statuses[item] = own;
    else if (alone) this.statuses[item] = "alone";
    else if (inside.some((status) => status !== "equal")) this.statuses[item] = "inside";
  }

  // The item of the other side that an item is the same as.
  like(item, other) {
    if (this.model.kind(item) !== "module") return undefined;
    const path = ownPath(this.model, item);
    return Object.hasOwn(this.data.pairs, path) ? other.items.get(this.data.pairs[path]) : undefined;
  }
}

const places = [...document.querySelectorAll(".place")];
const sides = content.sides.map((data, number) => new Side(data, places[number]));
const apps = sides.map((side) => side.app);

let following = false;
// Do what is given with the other side, unless it was that side which began.
function together(act) {
  if (following) return;
  following = true;
  act();
  following = false;
}
sides.forEach((side, number) => {
  const other = sides[1 - number], { app } = side, toggle = app.toggle.bind(app);
  app.follow((what) => what === "chosen" && together(() => {
    const like = app.chosen > 0 ? side.like(app.chosen, other) : undefined;
    other.app.choose(like ?? -1, { reveal: like !== undefined });
  }));
  app.toggle = (item) => {
    toggle(item);
    const like = side.like(item, other);
    if (like === undefined || !other.app.shown(like)) return;
    if (app.open.has(item) !== other.app.open.has(like)) together(() => App.prototype.toggle.call(other.app, like));
  };
  startClicks(app);
});

// Where a difference is seen in both pictures: a module that one side lacks, at what is around it there. What ran nowhere
// is in no picture.
function itemsOf(one) {
  const found = [sides[0].items.get(one.path), sides[1].items.get(one.other_path)];
  sides.forEach((side, number) => {
    const other = sides[1 - number];
    for (const outer of found[number] === undefined ? [] : side.model.way(found[number]).reverse()) found[1 - number] ??= side.like(outer, other);
  });
  return found;
}

const differences = new Differences(content.comparison, $("differences"), (one) => {
  const [before, after] = itemsOf(one);
  together(() => {
    apps[0].choose(before ?? -1, { reveal: before > 0 });
    apps[1].choose(after ?? -1, { reveal: after > 0 });
  });
});

// One search for both: what is found is marked in both, and gone to on the first side that has it.
const searches = apps.map((app) => new Search(app, $("search"), $("found")));
searches[0].say = (text) => { $("found").textContent = text && `first model: ${text}`; };
searches[1].say = (text) => { $("found").textContent += text && `; second model: ${text}`; };
const both = {
  input: $("search"),
  clear: () => searches.forEach((search) => search.clear()),
};

startTheme($("theme"));
startKeys(apps, both);
document.addEventListener("keydown", (event) => {
  if (/^(INPUT|SELECT)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "n") differences.go(differences.at + 1);
  if (event.key === "p") differences.go(differences.at < 0 ? -1 : differences.at - 1);
});
$("next").addEventListener("click", () => differences.go(differences.at + 1));
$("previous").addEventListener("click", () => differences.go(differences.at < 0 ? -1 : differences.at - 1));
$("fit").addEventListener("click", () => apps.forEach((app) => app.view.fit()));
$("tools").addEventListener("submit", (event) => event.preventDefault());

const deepest = Math.max(...apps.map((app) => app.deepest));
$("depth").max = Math.max(deepest, ...apps.map((app) => app.stops));
const openTo = (depth) => {
  for (const app of apps) app.openTo(depth > deepest ? app.stops : Math.min(depth, app.deepest));
  $("depth").value = depth;
  $("depth-shown").textContent = depth > deepest ? "unfolded" : `${depth} of ${deepest}`;
};
$("depth").addEventListener("input", () => openTo(Number($("depth").value)));

const { comparison } = content;
const many = (status) => comparison.differences.filter((one) => one.status === status).length;
$("totals").textContent = [
  `${grouped(comparison.modules_equal)} modules equal`, ...["changed", "removed", "added"].map((status) => `${many(status)} ${status}`),
  ...comparison.totals.map((change) => `${WORDS[change.fact] ?? change.fact} ${worded(change.before)} → ${worded(change.after)}`),
].join(" · ");
$("legend").replaceChildren(...Object.entries(STATUSES).map(([status, text]) => html("li", {}, html("i", { "data-colour": status, "aria-hidden": "true" }), text)));

openTo(Math.min(1, deepest));
for (const app of apps) { app.choose(-1); app.view.fit(true); }
let sized = places.every((place) => place.clientWidth > 0 && place.clientHeight > 0);
new ResizeObserver(() => {
  const now = places.every((place) => place.clientWidth > 0 && place.clientHeight > 0);
  if (now && !sized) for (const app of apps) app.view.fit(true);
  sized = now;
}).observe(places[0]);
setTimeout(warmUp, 50);
document.documentElement.dataset.ready = String(performance.now());
