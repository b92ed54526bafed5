// Everything is put together, and what the file or its address asks for is shown.

const model = new Model(await unpacked($("data").textContent));
const app = new App(model);
const search = new Search(app, $("search"), $("found"));

app.colourBy = (way) => {
  app.way = way;
  app.colouring = colouringBy(model, way);
  app.picture.recolour(app.colouring);
  $("colour").value = way;
  drawLegend(model, way, $("legend"));
  app.tell("colour");
};
for (const [way, { label }] of Object.entries(COLOURINGS)) {
  const empty = COLOURINGS[way].of && !model.number(way, 0);
  if (!empty) $("colour").append(html("option", { value: way }, label));
}
app.way = "kind";
app.colouring = app.picture.colouring = colouringBy(model, "kind");

const table = new Table(app, $("table"));
new Facts(app, $("panel"), $("details"), $("crumbs"));
new OverviewMap(app, $("map"));
const link = new Link(app);

startTheme($("theme"));
startClicks(app);
startKeys([app], search);

$("totals").textContent = model.data.totals;
if (model.data.failure) {
  $("failure").textContent = `FAILED in ${model.data.failed_path}: ${model.data.failure}`;
  $("failure").hidden = false;
}
$("depth").max = app.stops;
const openTo = (depth) => {
  const all = app.openTo(depth);
  $("depth").value = depth;
  $("depth-shown").textContent = depth > app.deepest ? "unfolded" : `${depth} of ${app.deepest}`;
  search.say(all ? "" : `more than ${grouped(MOST_SHOWN)} boxes: open the others one by one`);
};
$("depth").addEventListener("input", () => openTo(Number($("depth").value)));
$("colour").addEventListener("change", () => app.colourBy($("colour").value));
$("zoom-in").addEventListener("click", () => app.view.zoom(1.25));
$("zoom-out").addEventListener("click", () => app.view.zoom(0.8));
$("fit").addEventListener("click", () => app.view.fit());
$("print").addEventListener("click", () => print());
$("save-svg").addEventListener("click", () => saveSvg(app));
$("save-png").addEventListener("click", () => savePng(app, (text) => search.say(text)));
$("tools").addEventListener("submit", (event) => event.preventDefault());
$("show-table").addEventListener("click", () => {
  const shown = document.body.classList.toggle("with-table");
  $("show-table").setAttribute("aria-pressed", String(shown));
  table.draw();
});
if (innerWidth >= 900) $("show-table").click();

link.silent = true;
openTo(Math.min(model.data.depth, app.deepest));
app.colourBy("kind");
app.choose(-1);
app.view.fit(true);
link.read();
link.silent = false;

// A notebook may give the frame its size later.
let sized = $("stage").clientWidth > 0 && $("stage").clientHeight > 0;
new ResizeObserver(() => {
  const now = $("stage").clientWidth > 0 && $("stage").clientHeight > 0;
  if (now && !sized) app.view.fit(true);
  else if (now) app.view.apply();
  sized = now;
}).observe($("stage"));
// The margins of a printed page differ: the whole is fitted to it.
addEventListener("beforeprint", () => app.view.fit());

// For the tests of the page, and for whoever looks at it with the browser's tools.
// The first layout is slow until the browser has compiled the library: that is done before somebody opens a module.
setTimeout(warmUp, 50);

document.documentElement.dataset.ready = String(performance.now());
