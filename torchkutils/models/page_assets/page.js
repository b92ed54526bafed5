"use strict";
// The page of one model: levels drawn by Graphviz, one a nesting depth; this moves between and within them.
(async () => {
  const $ = (id) => document.getElementById(id);
  const stage = $("stage"), view = $("view");
  const model = await unpacked($("data").textContent);
  const view_of = { scale: 1, x: 0, y: 0 };
  let level = null; // { depth, size, elements: Map of key to element, arrows }
  let chosen = null, matches = [], at = -1;

  // ---- the data -------------------------------------------------------------------------------------------------

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text.trim()), (mark) => mark.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // Keys of boxes and of frames (with a "c" in front), and "m" or "c" with a module's number.
  const moduleOf = (key) => {
    if (model.boxes[key]) return model.boxes[key].module ?? null;
    if (key[0] === "c" && key.slice(1) in model.frames) return model.frames[key.slice(1)];
    return /^[mc]\d+$/.test(key) ? Number(key.slice(1)) : null;
  };
  const boxed = new Set(Object.values(model.boxes).filter((box) => box.module !== null).map((box) => `m${box.module}`));
  const factsOf = (key) => model.boxes[key] || {};
  const titleOf = (key) => {
    const module = moduleOf(key), facts = factsOf(key);
    if (module !== null && !facts.title) return `${model.modules[module].path || model.name}: ${model.modules[module].class_name}`;
    return facts.class_name ? `${facts.title}: ${facts.class_name}` : facts.title || key;
  };

  // ---- levels ---------------------------------------------------------------------------------------------------

  function show(depth, keep) {
    depth = Math.max(0, Math.min(model.levels.length - 1, depth));
    const middle = keep ?? chosen ?? inTheMiddle();
    const parsed = new DOMParser().parseFromString(model.levels[depth].svg, "image/svg+xml").documentElement;
    const graph = document.importNode(parsed.querySelector("g.graph"), true);
    const [, , width, height] = parsed.getAttribute("viewBox").split(/\s+/).map(Number);
    level = { depth, size: { width, height }, elements: new Map(), first: new Map(), arrows: model.levels[depth].arrows };
    for (const child of [...graph.children]) if (child.tagName === "polygon" || child.tagName === "title") child.remove();
    for (const element of graph.querySelectorAll(".node, .cluster")) prepare(element);
    for (const title of graph.querySelectorAll("title")) title.remove();
    for (const anchor of graph.querySelectorAll("a")) anchor.removeAttributeNS("http://www.w3.org/1999/xlink", "title");
    view.replaceChildren(graph);
    measure(graph);
    $("depth").value = depth;
    $("depth-shown").textContent = `${depth} of ${model.levels.length - 1}`;
    if (chosen) choose(nearest(chosen), false);
    find(false);
    if (middle) centre(nearest(middle), false);
    else fit();
  }

  function prepare(element) {
    const name = element.querySelector("title").textContent;
    const key = element.classList.contains("cluster") ? `c${name.slice("cluster_".length)}` : name;
    level.elements.set(key, element);
    element.dataset.key = key;
    // The first box or frame of each module: calls may have boxes of their own.
    const first = key[0] + moduleOf(key);
    if (!level.first.has(first)) level.first.set(first, key);
    const box = factsOf(key), module = moduleOf(key);
    const failed = model.failed !== null && module === model.failed;
    if (failed || box.failed) element.classList.add("failed");
    element.setAttribute("tabindex", "0");
    element.setAttribute("role", "button");
    const label = [titleOf(key)];
    if (box.outputs) label.push(`output ${box.outputs}`);
    if (failed || box.failed) label.push("failed");
    if (key[0] === "c") label.push("open module");
    element.setAttribute("aria-label", label.join(", "));
  }

  // The element that shows a module at this depth: itself, else what holds it, else what it holds.
  function nearest(key) {
    if (key === null || key === undefined) return null;
    if (level.elements.has(key)) return key;
    let module = moduleOf(key);
    if (module === null) module = model.frames[factsOf(key).cluster] ?? null;
    for (let here = module; here !== null && here !== undefined; here = model.modules[here].parent) {
      for (const kind of ["m", "c"]) if (level.first.has(kind + here)) return level.first.get(kind + here);
    }
    return null;
  }

  function inTheMiddle() {
    if (!level) return null;
    const area = stage.getBoundingClientRect();
    let best = null, least = Infinity;
    for (const [key, element] of level.elements) {
      if (key[0] !== "m") continue;
      const box = rectOf(element);
      const far = Math.hypot(box.x + box.width / 2 - area.x - area.width / 2, box.y + box.height / 2 - area.y - area.height / 2);
      if (far < least) [best, least] = [key, far];
    }
    return best;
  }

  // ---- moving ---------------------------------------------------------------------------------------------------

  function place() {
    view.style.transform = `translate(${view_of.x}px, ${view_of.y}px) scale(${view_of.scale})`;
    // Thousands of nodes: what is outside, and text too small to be read, is not drawn.
    view.classList.toggle("far", view_of.scale < 0.15);
    const area = stage.getBoundingClientRect();
    for (const part of level.parts) {
      const x = part.x * view_of.scale + view_of.x, y = part.y * view_of.scale + view_of.y;
      const away = x > area.width || y > area.height || x + part.width * view_of.scale < 0 || y + part.height * view_of.scale < 0;
      if (away !== part.away) part.element.classList.toggle("away", (part.away = away));
    }
  }

  // Where each node and edge lies, from its outlines: asking the browser would make it lay out every text first.
  function measure(graph) {
    const { e, f } = graph.transform.baseVal.consolidate().matrix;
    level.parts = [...graph.children].map((element) => {
      const { x, y, width, height } = outline(element);
      return { element, x: x + e, y: y + f, width, height, away: false };
    });
    level.partOf = new Map(level.parts.map((part) => [part.element, part]));
  }

  function outline(element) {
    let left = Infinity, top = Infinity, right = -Infinity, bottom = -Infinity;
    for (const shape of element.querySelectorAll("polygon, path, polyline")) {
      const numbers = (shape.getAttribute("points") ?? shape.getAttribute("d")).match(/-?[\d.]+(e-?\d+)?/g).map(Number);
      for (let at = 0; at + 1 < numbers.length; at += 2) {
        left = Math.min(left, numbers[at]);
        right = Math.max(right, numbers[at]);
        top = Math.min(top, numbers[at + 1]);
        bottom = Math.max(bottom, numbers[at + 1]);
      }
    }
    return left > right ? element.getBBox() : { x: left, y: top, width: right - left, height: bottom - top };
  }

  // Like getBoundingClientRect, for what is not drawn at the moment too.
  function rectOf(element) {
    const area = stage.getBoundingClientRect(), part = level.partOf.get(element);
    return new DOMRect(area.x + view_of.x + part.x * view_of.scale, area.y + view_of.y + part.y * view_of.scale,
      part.width * view_of.scale, part.height * view_of.scale);
  }

  function zoom(factor, x, y) {
    const area = stage.getBoundingClientRect();
    x = x ?? area.width / 2;
    y = y ?? area.height / 2;
    const scale = Math.min(20, Math.max(0.005, view_of.scale * factor));
    view_of.x = x - ((x - view_of.x) * scale) / view_of.scale;
    view_of.y = y - ((y - view_of.y) * scale) / view_of.scale;
    view_of.scale = scale;
    place();
  }

  function pan(x, y) {
    view_of.x += x;
    view_of.y += y;
    place();
  }

  function fit() {
    const area = stage.getBoundingClientRect();
    const { width, height } = level.size;
    view_of.scale = Math.min(area.width / width, area.height / height, 1.5) * 0.97;
    view_of.x = (area.width - width * view_of.scale) / 2;
    view_of.y = (area.height - height * view_of.scale) / 2;
    place();
  }

  // A model too long to be read when it is all on the screen begins at its input, at a size that can be read.
  function begin() {
    fit();
    if (view_of.scale >= 0.4) return;
    const input = [...level.elements.keys()].find((key) => factsOf(key).kind === "input");
    if (!input) return;
    centre(input);
    const area = stage.getBoundingClientRect(), box = rectOf(level.elements.get(input));
    if (level.size.height > level.size.width) pan(0, area.y + 20 - box.y);
    else pan(area.x + 20 - box.x, 0);
  }

  function centre(key, readable = true) {
    const element = level.elements.get(key);
    if (!element) return fit();
    if (readable && view_of.scale < 0.4) zoom(0.8 / view_of.scale);
    const area = stage.getBoundingClientRect(), box = rectOf(element);
    const covered = $("panel").hidden ? 0 : $("panel").getBoundingClientRect().width;
    pan(area.x + (area.width - covered) / 2 - box.x - box.width / 2, area.y + area.height / 2 - box.y - box.height / 2);
  }

  // ---- choosing -------------------------------------------------------------------------------------------------

  function choose(key, move = true) {
    level.elements.get(chosen)?.classList.remove("chosen");
    chosen = key;
    $("panel").hidden = !key;
    if (!key) return;
    level.elements.get(key)?.classList.add("chosen");
    describe(key);
    if (move) centre(key);
  }

  function describe(key) {
    const facts = factsOf(key), module = moduleOf(key) === null ? null : model.modules[moduleOf(key)];
    const rows = module
      ? [["path", module.path || "(the model)"], ["class", module.class_name], ["arguments", module.extra_repr],
         ["input", module.inputs], ["output", module.outputs], ["dtype", module.dtype], ["calls", module.calls],
         ["parameters", module.params], ["trainable", module.trainable], ["FLOPs", module.flops]]
      : [["name", facts.title], ["kind", facts.class_name || facts.kind], ["input", facts.inputs],
         ["output", facts.outputs], ["dtype", facts.dtype]];
    if ((facts.failed || module?.index === model.failed) && model.failure) rows.push(["failed", model.failure]);
    const heading = document.createElement("h2"), list = document.createElement("dl");
    heading.textContent = titleOf(key);
    for (const [name, value] of rows) {
      if (value === undefined || value === null || value === "") continue;
      add(list, "dt", name);
      add(list, "dd", String(value));
    }
    for (const [name, mine, other] of [["from", 1, 0], ["to", 0, 1]]) {
      const links = level.arrows.filter((arrow) => arrow[mine] === key);
      if (!links.length) continue;
      add(list, "dt", name);
      const items = document.createElement("ul");
      for (const arrow of links) items.append(linkTo(arrow[other], arrow[2]));
      add(list, "dd", "").append(items);
    }
    $("details").replaceChildren(heading, list);
  }

  function add(parent, kind, text) {
    const element = document.createElement(kind);
    element.textContent = text;
    parent.append(element);
    return element;
  }

  function linkTo(key, count) {
    const item = document.createElement("li"), link = add(item, "a", titleOf(key) + (count > 1 ? ` (×${count})` : ""));
    link.href = "#";
    link.addEventListener("click", (event) => { event.preventDefault(); choose(key); });
    return item;
  }

  // A box opens, an open module closes; what has nothing inside is only chosen.
  function activate(key) {
    const module = moduleOf(key);
    if (key[0] === "c") {
      chosen = `m${module}`;
      return show(model.modules[module].depth, chosen);
    }
    if (module !== null && model.modules[module].opens && level.depth < model.levels.length - 1) {
      chosen = `c${module}`;
      return show(level.depth + 1, chosen);
    }
    choose(key);
  }

  // ---- searching ------------------------------------------------------------------------------------------------

  function find(move) {
    for (const key of matches) level.elements.get(key)?.classList.remove("match");
    const wanted = $("search").value.trim().toLowerCase();
    matches = [];
    at = -1;
    $("found").textContent = "";
    if (!wanted) return;
    const here = [...level.elements.keys()].filter((key) => titleOf(key).toLowerCase().includes(wanted));
    const deeper = model.modules.filter((module) => module.path.toLowerCase().includes(wanted) ||
      module.class_name.toLowerCase().includes(wanted)).map((module) => `m${module.index}`)
      .filter((key) => !level.first.has(key) && !level.first.has(`c${key.slice(1)}`) && boxed.has(key));
    matches = [...here, ...deeper];
    for (const key of here) level.elements.get(key).classList.add("match");
    $("found").textContent = `${matches.length} found` + (deeper.length ? `, ${deeper.length} of them deeper` : "");
    if (move && here.length) { at = 0; centre(here[0]); }
  }

  function next() {
    if (!matches.length) return;
    at = (at + 1) % matches.length;
    const key = matches[at], place_of = at, count = matches.length;
    if (!level.elements.has(key)) show(model.modules[moduleOf(key)].depth, key);
    choose(nearest(key));
    at = Math.min(place_of, matches.length - 1);
    $("found").textContent = `${place_of + 1} of ${count}`;
  }

  // ---- what the reader does -------------------------------------------------------------------------------------

  const fingers = new Map();
  let moved = 0;
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const area = stage.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX - area.x, event.clientY - area.y);
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    moved = fingers.size > 1 ? Infinity : 0;
  });
  stage.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const x = event.clientX - before.clientX, y = event.clientY - before.clientY;
    moved += Math.hypot(x, y);
    if (fingers.size === 2) pinch(event);
    else if (moved > 4) {
      stage.setPointerCapture(event.pointerId);
      stage.classList.add("dragged");
      pan(x, y);
    }
    fingers.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => { fingers.delete(event.pointerId); stage.classList.remove("dragged"); });
  }
  function pinch(event) {
    const area = stage.getBoundingClientRect();
    const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
    const before = fingers.get(event.pointerId);
    const span = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY) || 1;
    zoom(span(event) / span(before), (event.clientX + other.clientX) / 2 - area.x, (event.clientY + other.clientY) / 2 - area.y);
    pan((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
  }
  stage.addEventListener("click", (event) => {
    const element = event.target.closest("[data-key]");
    if (moved > 4) return;
    if (element) activate(element.dataset.key);
    else choose(null);
  });

  const keys = {
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "−": () => zoom(0.8), "0": fit,
    ArrowLeft: () => pan(60, 0), ArrowRight: () => pan(-60, 0), ArrowUp: () => pan(0, 60), ArrowDown: () => pan(0, -60),
    "/": () => $("search").focus(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      $("search").value = "";
      find(false);
      choose(null);
      return document.activeElement?.blur();
    }
    if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const focused = document.activeElement?.dataset?.key;
    if (focused && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      activate(focused);
      level.elements.get(nearest(chosen))?.focus({ preventScroll: true });
    } else if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  // A node reached by the Tab key is brought into view; the browser does not scroll inside an SVG.
  stage.addEventListener("focusin", (event) => {
    const element = event.target.closest("[data-key]");
    if (!element || !element.matches(":focus-visible")) return;
    const area = stage.getBoundingClientRect(), box = rectOf(element);
    if (box.x < area.x || box.y < area.y || box.right > area.right || box.bottom > area.bottom) centre(element.dataset.key, false);
  });
  $("tools").addEventListener("submit", (event) => { event.preventDefault(); next(); });
  $("search").addEventListener("input", () => find(true));
  $("depth").addEventListener("input", () => show(Number($("depth").value)));
  $("zoom-in").addEventListener("click", () => zoom(1.25));
  $("zoom-out").addEventListener("click", () => zoom(0.8));
  $("fit").addEventListener("click", fit);
  $("print").addEventListener("click", () => print());
  $("close").addEventListener("click", () => choose(null));
  addEventListener("beforeprint", fit);

  // ---- the beginning --------------------------------------------------------------------------------------------

  $("totals").textContent = model.totals;
  if (model.failure) {
    $("failure").hidden = false;
    $("failure").textContent = `FAILED in ${model.failed_path}: ${model.failure}`;
  }
  $("depth").max = model.levels.length - 1;
  show(model.depth);
  begin();
  // A frame below the fold, or in a hidden tab, has no size yet when this runs.
  if (!view_of.scale) {
    const sized = new ResizeObserver(() => { begin(); if (view_of.scale) sized.disconnect(); });
    sized.observe(stage);
  }
  document.documentElement.dataset.ready = performance.now().toFixed(1);
})().catch((error) => {
  const note = document.getElementById("failure");
  note.hidden = false;
  note.textContent = `The page could not be drawn: ${error}`;
});
