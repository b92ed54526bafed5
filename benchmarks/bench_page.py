"""How large is a model's page, how long does writing it take, and how soon does it move in headless Chromium?"""

from __future__ import annotations

import functools
import pathlib
import shutil
import tempfile
import time
from typing import Any

import torch
from torch import nn

import torchkutils
from benchmarks._harness import clocked, figure, store, taken
from tests.models.pictured import ResidualNet

LOADS = 5
ZOOMS = """
const stage = document.getElementById('stage'), done = arguments[0], steps = [];
let before;
function step(now) {
  if (before !== undefined) steps.push(now - before);
  if (steps.length === 50) return done(steps);
  before = performance.now();
  stage.dispatchEvent(new WheelEvent('wheel', {deltaY: steps.length % 2 ? 60 : -60, clientX: 600, clientY: 400, cancelable: true}));
  requestAnimationFrame(() => setTimeout(() => step(performance.now())));
}
step();
"""  # noqa: E501 - JavaScript in one piece


class Blocks(nn.Module):
    """A thousand blocks of two leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(1_000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def loaded(running: Any) -> tuple[float, float]:
    """Milliseconds after the start of a load until the script is done, and until one frame more is drawn."""
    while not (ready := running.execute_script("return document.documentElement.dataset.ready || null")):
        time.sleep(0.02)
    drawn = running.execute_async_script(
        "const d = arguments[0]; requestAnimationFrame(() => setTimeout(() => d(performance.now())))"
    )
    return float(ready), float(drawn)


def in_chromium(path: pathlib.Path) -> list[dict]:
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or browser is None:
        print("no chromium: the page's behaviour was not measured")
        return []
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,850"):
        options.add_argument(flag)
    running = webdriver.Chrome(options=options, service=Service(driver))
    readies, drawns = [], []
    try:
        for _ in range(LOADS):
            running.get(path.as_uri())
            ready, drawn = loaded(running)
            readies.append(ready / 1e3)
            drawns.append(drawn / 1e3)
        nodes = running.execute_script("return document.querySelectorAll('#view .node').length")
        near = running.execute_async_script(ZOOMS)
        running.execute_script("document.getElementById('fit').click()")
        whole = running.execute_async_script(ZOOMS)
    finally:
        running.quit()
    return [
        figure("nodes on the screen", nodes, "nodes"),
        taken("script done after load", readies, "s", target=2.0),
        taken("first frame drawn, at most", drawns, "s"),
        taken("a zoom step with its frame, near", near, "ms", target=50),
        taken("a zoom step with its frame, all in sight", whole, "ms", target=50),
    ]


def main() -> None:
    torch.set_num_threads(1)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 48, enable_nested_tensor=False)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.html"
        torchkutils.plot_model(encoder, path, True, input_size=(1, 8, 64))
        rows = [figure("48-layer encoder, file", path.stat().st_size / 1e6, "MB", target=3.0)]
        torchkutils.plot_model(ResidualNet(16), path, True, input_size=(1, 3, 16, 16))
        rows.append(figure("16-block residual net, file", path.stat().st_size / 1e3, "kB", target=400))
        write = functools.partial(torchkutils.plot_model, Blocks(), path, True, expand_nested=True, input_size=(1, 2))
        rows.append(clocked("2,000 leaves, written", write, "s", target=20, repeats=3))
        rows.append(figure("2,000 leaves, file", path.stat().st_size / 1e6, "MB"))
        rows += in_chromium(path)
    store("page", rows)


if __name__ == "__main__":
    main()
