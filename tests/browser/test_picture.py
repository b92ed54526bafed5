"""A picture in a notebook's cell, as a browser shows it."""

from __future__ import annotations

import pytest
from torch import nn

import torchkutils
from tests.models.pictured import ResidualNet

pytestmark = pytest.mark.browser

THEMES = {"light": ("rgb(17, 17, 17)", "rgb(255, 255, 255)"), "dark": ("rgb(221, 221, 221)", "rgb(30, 30, 30)")}


def shown(chromium, tmp_path, model, width=700, theme="light", **options):
    """Open a page that holds a cell's picture; gives what a script in the page finds."""
    bundle = torchkutils.plot_model(model, None, **options)._repr_mimebundle_()
    text, background = THEMES[theme]
    page = tmp_path / "cell.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><body style="color:{text};background:{background};margin:0">'
        f'<div id="cell" style="width:{width}px">{bundle["text/html"]}</div>',
        encoding="utf-8",
    )
    chromium.get(page.as_uri())
    return chromium.execute_script


@pytest.mark.parametrize("theme", THEMES)
def test_lines_and_texts_have_the_colour_of_the_page(chromium, tmp_path, theme):
    run = shown(chromium, tmp_path, ResidualNet(1), theme=theme, input_size=(1, 3, 9, 9), expand_nested=True)
    fills = run("return [...document.querySelectorAll('#cell text')].map(e => getComputedStyle(e).fill)")
    strokes = run("return [...document.querySelectorAll('#cell polygon')].map(e => getComputedStyle(e).stroke)")
    assert set(fills) == set(strokes) == {THEMES[theme][0]}
    assert run("return getComputedStyle(document.querySelector('#cell svg')).backgroundColor") == "rgba(0, 0, 0, 0)"


@pytest.mark.parametrize("theme", THEMES)
def test_text_on_a_coloured_box_is_the_same_in_each_theme(chromium, tmp_path, theme):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(196, 2))
    run = shown(chromium, tmp_path, model, theme=theme, style="color", input_size=(1, 3, 9, 9))
    fills = dict(
        run("return [...document.querySelectorAll('#cell text')].map(e => [e.textContent, getComputedStyle(e).fill])")
    )
    assert fills["0: Conv2d"] == "rgb(0, 0, 0)"
    assert fills["2: Linear"] == "rgb(255, 255, 255)"
    assert fills["1: Flatten"] == THEMES[theme][0]


@pytest.mark.parametrize(
    ("model", "width", "expected"),
    [
        # A chain of four small boxes needs no more than its own width, a row of them no more than the cell.
        (nn.Sequential(*[nn.ReLU() for _ in range(4)]), 700, (30, 150)),
        (nn.Sequential(*[nn.ReLU() for _ in range(4)]), 60, (58, 61)),
        (nn.Sequential(*[nn.ReLU() for _ in range(400)]), 700, (30, 700)),
    ],
)
def test_it_is_as_wide_as_the_cell_at_most_and_not_too_high(chromium, tmp_path, model, width, expected):
    run = shown(chromium, tmp_path, model, width=width, input_size=(1, 2))
    box = run("const b = document.querySelector('#cell svg').getBoundingClientRect(); return [b.width, b.height]")
    assert expected[0] <= box[0] <= expected[1]
    assert box[1] <= 1_030


def test_a_whole_name_is_its_title(chromium, tmp_path):
    run = shown(chromium, tmp_path, ResidualNet(1), input_size=(1, 3, 9, 9), expand_nested=True)
    titles = run("return [...document.querySelectorAll('#cell title')].map(e => e.textContent)")
    assert "layers.0.conv1: Conv2d" in titles


PAGES = [
    '<html><body data-jp-theme-light="THEME">',
    '<html><body class="vscode-THEME">',
    '<html theme="THEME"><body>',
    '<html data-theme="THEME"><body>',
    '<html><body data-theme="THEME">',
    '<html data-bs-theme="THEME"><body>',
]


@pytest.mark.parametrize("page", PAGES)
def test_a_table_has_the_theme_that_the_page_around_it_says(chromium, tmp_path, page):
    table = torchkutils.summarize(nn.Linear(2, 3))._repr_html_()
    found = {}
    for theme in ("light", "dark"):
        said = str(theme == "light").lower() if "jp-theme" in page else theme
        path = tmp_path / f"{theme}.html"
        path.write_text(f"<!doctype html>{page.replace('THEME', said)}{table}", encoding="utf-8")
        chromium.get(path.as_uri())
        script = "return getComputedStyle(document.querySelector('.tk-summary')).backgroundColor"
        for system in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": system}
            chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            found[theme, system] = chromium.execute_script(script)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    light, dark = "rgb(255, 255, 255)", "rgb(17, 17, 17)"
    assert found == {
        ("light", "light"): light,
        ("light", "dark"): light,
        ("dark", "light"): dark,
        ("dark", "dark"): dark,
    }
