"""How large is a model's page, how long does writing it take, and how soon does it answer in headless Chromium?"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import torchkutils
from benchmarks._harness import clocked, figure, store, taken
from tests.models.pictured import ResidualNet
from tests.models.vision import FOLDER, vision_library

LOADS = 5
OPENINGS = 25
ZOOMS = """
const stage = document.getElementById('stage'), done = arguments[0], steps = [];
let before;
function step(now) {
  if (before !== undefined) steps.push(now - before);
  if (steps.length === 50) return done(steps);
  before = performance.now();
  const wheel = {deltaY: steps.length % 2 ? 60 : -60, clientX: 600, clientY: 400, cancelable: true};
  stage.dispatchEvent(new WheelEvent('wheel', wheel));
  requestAnimationFrame(() => setTimeout(() => step(performance.now())));
}
step();
"""
# One module after the other is opened by a click, and the frame drawn that shows it open.
OPENS = """
const done = arguments[1], times = [];
function next() {
  const closed = [...document.querySelectorAll('[data-key][aria-expanded=false]')];
  if (times.length === arguments_[0] || closed.length === 0) return done(times);
  const one = closed[Math.floor(closed.length * ((times.length * 0.37) % 1))];
  const before = performance.now();
  one.dispatchEvent(new MouseEvent('click', {bubbles: true}));
  requestAnimationFrame(() => setTimeout(() => { times.push(performance.now() - before); next(); }));
}
const arguments_ = arguments;
// The library is compiled while a reader still looks.
setTimeout(next, 500);
"""
SEARCH = """
const input = document.getElementById('search'), done = arguments[1], before = performance.now();
input.value = arguments[0];
input.dispatchEvent(new Event('input'));
input.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}));
requestAnimationFrame(() => setTimeout(() => done(performance.now() - before)));
"""


class Blocks(nn.Module):
    """A thousand blocks of two leaves, no block equal to another one: nothing is folded."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Dropout(p=n / 1_000)) for n in range(1_000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Deep(nn.Module):
    """A hundred thousand modules: 200 blocks of 500 leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(*[nn.Linear(2, 2) if number % 7 else nn.Tanh() for number in range(499)]) for _ in range(200)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def loaded(running: Any, path: pathlib.Path) -> tuple[float, float]:
    """Seconds after the start of a load until the page answers, and until one frame more is drawn."""
    running.get("about:blank")
    running.get(path.as_uri())
    while not (ready := running.execute_script("return document.documentElement.dataset.ready || null")):
        time.sleep(0.02)
    drawn = running.execute_async_script(
        "const d = arguments[0]; requestAnimationFrame(() => setTimeout(() => d(performance.now())))"
    )
    return float(ready) / 1e3, float(drawn) / 1e3


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser; None where there is none."""
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or browser is None:
        print("no chromium: the page's behaviour was not measured")
        yield None
        return
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,850"):
        options.add_argument(flag)
    running = webdriver.Chrome(options=options, service=Service(driver))
    running.set_script_timeout(120)
    try:
        yield running
    finally:
        running.quit()


def in_chromium(
    running: Any, name: str, path: pathlib.Path, *, ready: float, opened: float | None = None
) -> list[dict[str, Any]]:
    """How soon a page answers after its load, to a click and to a search."""
    times = [loaded(running, path) for _ in range(LOADS)]
    found = running.execute_async_script(SEARCH, "blocks.177.1")
    loaded(running, path)
    openings = running.execute_async_script(OPENS, OPENINGS)
    return [
        taken(f"{name}: answers after load", [one for one, _ in times], "s", target=ready),
        taken(f"{name}: first frame drawn, at most", [one for _, one in times], "s"),
        taken(f"{name}: a module opened, with its frame", openings, "ms", target=opened),
        figure(f"{name}: the slowest of {len(openings)} modules opened", max(openings), "ms"),
        figure(f"{name}: a leaf found and shown", found, "ms"),
    ]


def zoomed(running: Any, name: str) -> list[dict[str, Any]]:
    """Zooming in what the last page shows."""
    boxes = running.execute_script("return document.querySelectorAll('[data-key]').length")
    near = running.execute_async_script(ZOOMS)
    running.execute_script("document.getElementById('fit').click()")
    return [
        figure(f"{name}: boxes on the screen", boxes, "boxes"),
        taken(f"{name}: a zoom step with its frame, near", near, "ms", target=50),
        taken(
            f"{name}: a zoom step with its frame, all in sight", running.execute_async_script(ZOOMS), "ms", target=50
        ),
    ]


def main() -> None:
    torch.set_num_threads(1)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 48, enable_nested_tensor=False)
    with tempfile.TemporaryDirectory() as folder, chromium() as running:
        path = pathlib.Path(folder) / "model.html"
        torchkutils.plot_model(encoder, path, True, input_size=(1, 8, 64))
        rows = [figure("48-layer encoder, file", path.stat().st_size / 1e6, "MB", target=3.0)]
        torchkutils.plot_model(ResidualNet(16), path, True, input_size=(1, 3, 16, 16))
        rows.append(figure("16-block residual net, file", path.stat().st_size / 1e3, "kB", target=400))
        if (FOLDER / "torchvision").exists():
            densenet = vision_library("torchvision").models.densenet201(weights=None).eval()
            write = functools.partial(torchkutils.plot_model, densenet, path, input_size=(1, 3, 64, 64))
            rows.append(clocked("densenet201, written, with its forward", write, "s", target=20, repeats=3))
            rows.append(figure("densenet201, file", path.stat().st_size / 1e6, "MB"))
        write = functools.partial(torchkutils.plot_model, Blocks(), path, input_size=(1, 2))
        rows.append(clocked("2,000 leaves, written, with its forward", write, "s", target=2, repeats=5))
        rows.append(figure("2,000 leaves, file", path.stat().st_size / 1e6, "MB", target=1.5))
        if running is not None:
            rows += in_chromium(running, "2,000 leaves", path, ready=1.0, opened=100)
            rows += zoomed(running, "2,000 leaves")
        begin = time.perf_counter()
        torchkutils.plot_model(Deep(), path, input_size=(1, 2))
        rows.append(figure("100,000 modules, written, with its forward", time.perf_counter() - begin, "s"))
        rows.append(figure("100,000 modules, file", path.stat().st_size / 1e6, "MB"))
        if running is not None:
            rows += in_chromium(running, "100,000 modules", path, ready=3.0)
    store("page", rows)


if __name__ == "__main__":
    main()
