// Clicks and keys. The picture is a tree: arrows go up and down in order of execution, in and out by left and right.

function startClicks(app) {
  app.picture.root.addEventListener("click", (event) => {
    if (app.view.dragged && event.isTrusted) return;
    const element = event.target.closest("[data-key]");
    if (!element) return;
    const item = Number(element.dataset.key);
    // Inside an open module the empty paper only chooses it: a click that misses a box must not close all of them.
    const onPaper = event.target.classList.contains("face") && app.open.has(item);
    app.choose(item);
    if (!onPaper) app.toggle(item);
    app.picture.elements.get(item)?.focus({ preventScroll: true });
  });
}

// Keys for one picture, or for several: those of the one that has the focus, else of the first.
function startKeys(apps, search) {
  const acts = new Map(apps.map((app) => [app, keysOf(app, search)]));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (typing && event.key !== "Escape") return;
    const element = event.target.closest?.("[data-key]");
    const app = apps.find((one) => one.picture.root.contains(element)) ?? apps[0];
    const { onItem, anywhere } = acts.get(app);
    const act = element && !event.shiftKey && onItem[event.key] ? onItem[event.key] : anywhere[event.key];
    const onButton = /^(BUTTON|A)$/.test(event.target.tagName) && (event.key === "Enter" || event.key === " ");
    if (!act || onButton) return;
    event.preventDefault();
    act(element ? Number(element.dataset.key) : -1);
  });
  for (const app of apps) {
    // Not on the picture itself: Chromium lets the keyboard stop at an SVG element that listens for focus.
    app.view.stage.parentNode.addEventListener("focusin", (event) => {
      const element = event.target.closest("[data-key]");
      if (element && Number(element.dataset.key) !== app.picture.reached) app.focus(Number(element.dataset.key));
    });
  }
}

function keysOf(app, search) {
  const onItem = {
    ArrowDown: (item) => step(app, item, 1),
    ArrowUp: (item) => step(app, item, -1),
    ArrowRight: (item) => {
      if (app.open.has(item)) app.focus(app.model.children[item][0]);
      else app.toggle(item);
    },
    ArrowLeft: (item) => {
      if (app.open.has(item)) app.toggle(item);
      else if (app.model.parents[item] > 0) app.focus(app.model.parents[item]);
    },
    Enter: (item) => { app.choose(item); app.toggle(item); },
    " ": (item) => app.choose(item),
    Home: () => app.focus(app.model.children[0][0]),
  };
  const anywhere = {
    "/": () => search.input.select(),
    "+": () => app.view.zoom(1.25),
    "=": () => app.view.zoom(1.25),
    "-": () => app.view.zoom(0.8),
    0: () => app.view.fit(),
    ArrowLeft: () => app.view.pan(60, 0),
    ArrowRight: () => app.view.pan(-60, 0),
    ArrowUp: () => app.view.pan(0, 60),
    ArrowDown: () => app.view.pan(0, -60),
    Escape: () => { search.clear(); app.choose(-1); },
  };
  return { onItem, anywhere };
}

// The item above or below in the picture's order, as a reader of the tree meets them.
function step(app, item, way) {
  const order = [];
  const stack = [...app.model.children[0]].reverse();
  while (stack.length) {
    const one = stack.pop();
    order.push(one);
    if (app.open.has(one)) stack.push(...[...app.model.children[one]].reverse());
  }
  const next = order[order.indexOf(item) + way];
  if (next !== undefined) app.focus(next);
}
