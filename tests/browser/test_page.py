"""The page does what a reader expects, by clicks, keys and what is then on the screen."""

from __future__ import annotations

import base64
import json
import pathlib
import struct
import time
import xml.etree.ElementTree

import pytest
import torch
from torch import nn

import torchkutils
from tests.models.pictured import ResidualNet

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=window.broken=1>"


class Blocks(nn.Module):
    """Equal blocks, each different from its neighbour where `alternating`."""

    def __init__(self, count, alternating=False):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(2, 2), nn.Tanh() if alternating and index % 7 in (1, 2, 4) else nn.ReLU())
            for index in range(count)
        )

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def hostile_model():
    inner = nn.Sequential()
    module = type(HOSTILE, (nn.Linear,), {"extra_repr": lambda self: HOSTILE})(2, 2)
    inner._modules[HOSTILE.replace(".", "_")] = module
    return type(HOSTILE, (nn.Sequential,), {})(inner)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Pages of several models, each written once."""
    folder = tmp_path_factory.mktemp("pages")
    torchkutils.plot_model(ResidualNet(), folder / "net.html", input_size=(2, 3, 9, 9))
    torchkutils.plot_model(hostile_model(), folder / "hostile.html", input_size=(1, 2))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torchkutils.plot_model(
            nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5)), nn.ReLU()),
            folder / "failed.html",
            input_size=(1, 2),
        )
    with pytest.raises(RuntimeError, match=r"window\.broken"):
        torchkutils.plot_model(Failing(), folder / "hostile-error.html", input_size=(1, 2))
    torchkutils.plot_model(Blocks(12), folder / "blocks.html", input_size=(1, 2))
    torchkutils.plot_model(Blocks(1_000, alternating=True), folder / "large.html", True, input_size=(1, 2))
    return folder


class Failing(nn.Module):
    def forward(self, x):
        raise RuntimeError(HOSTILE)


class Page:
    """What a reader does and sees."""

    def __init__(self, driver, path, state="") -> None:
        self.driver = driver
        driver.get_log("browser")
        driver.get("about:blank")
        driver.get(path.as_uri() + state)
        self.wait("return document.documentElement.dataset.ready")

    def wait(self, code):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 30).until(lambda driver: driver.execute_script(code))

    def js(self, code, *args):
        return self.driver.execute_script(code, *args)

    def element(self, name):
        (found,) = [
            element
            for element in self.driver.find_elements("css selector", "[data-key]")
            if (element.get_attribute("aria-label") + ",").startswith(name + ",")
        ]
        return found

    def shown(self):
        """The names of everything in the picture, in order."""
        return [
            label.split(",")[0]
            for label in self.js(
                "return [...document.querySelectorAll('[data-key]')].map(e => e.getAttribute('aria-label'))"
            )
        ]

    def click(self, name):
        self.js("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", self.element(name))

    def is_open(self, name):
        return self.element(name).get_attribute("aria-expanded") == "true"

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.driver).send_keys(*[getattr(Keys, key, key) for key in keys]).perform()

    def set(self, name, value, event="change"):
        self.js(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event(arguments[2]))",
            name,
            value,
            event,
        )

    def depth(self, value):
        self.set("depth", value, "input")

    def text(self, name):
        return self.driver.find_element("id", name).text

    def focused(self):
        label = self.js("return document.activeElement.getAttribute('aria-label')")
        return label and label.split(",")[0]

    def chosen(self):
        labels = self.js(
            "return [...document.querySelectorAll('[data-key].chosen')].map(e => e.getAttribute('aria-label'))"
        )
        return [label.split(",")[0] for label in labels]

    def rows(self):
        return [
            row.split("|")[0]
            for row in self.js("return [...document.querySelectorAll('[data-row] b')].map(e => e.textContent)")
        ]

    def transform(self):
        return self.js(
            "const style = getComputedStyle(document.getElementById('view'));"
            "const m = new DOMMatrix(style.transform); return [m.a, m.e, m.f]"
        )

    def box(self, name):
        return self.js(
            "const b = arguments[0].querySelector('.face').getBoundingClientRect();"
            "return [b.x, b.y, b.right, b.bottom]",
            self.element(name),
        )

    def is_on_stage(self, name):
        left, top, right, bottom = self.box(name)
        x, y, x2, y2 = self.js(
            "const b = document.getElementById('stage').getBoundingClientRect(); return [b.x, b.y, b.right, b.bottom]"
        )
        return left < x2 and right > x and top < y2 and bottom > y

    def errors(self):
        return self.driver.get_log("browser")


@pytest.fixture
def page(chromium, files):
    running = Page(chromium, files / "net.html")
    yield running
    assert running.errors() == []


TOP = ["x: Input", "stem: Conv2d", "layers: Sequential", "pool: AdaptiveAvgPool2d", "head: Linear"]
BLOCK_0 = ["layers.0.conv1: Conv2d", "layers.0.norm: BatchNorm2d", "layers.0.conv2: Conv2d", "add"]
BLOCKS = ["layers.0: Residual", "layers.1: Residual", "layers.2: Residual"]


def test_it_opens_from_a_file_without_the_network_and_without_errors(page):
    assert page.js("return performance.getEntriesByType('resource').length") == 0
    assert page.text("totals").startswith(f"{sum(p.numel() for p in ResidualNet().parameters()):,} parameters")
    assert page.shown() == TOP


# ---- opening and closing ------------------------------------------------------------------------------------------


def test_a_click_opens_one_module_in_place_and_closes_it_again(page):
    page.click("layers: Sequential")
    assert page.shown() == [*TOP[:3], *BLOCKS, *TOP[3:]]
    page.click("layers.0: Residual")
    assert page.shown() == [*TOP[:3], BLOCKS[0], *BLOCK_0, *BLOCKS[1:], *TOP[3:]]
    assert page.is_open("layers.0: Residual")
    assert not page.is_open("layers.1: Residual")
    page.click("layers.0: Residual")
    assert page.shown() == [*TOP[:3], *BLOCKS, *TOP[3:]]
    page.click("layers: Sequential")
    assert page.shown() == TOP


def test_the_module_that_opens_stays_where_it_was(page):
    before = page.box("layers: Sequential")
    page.click("layers: Sequential")
    after = page.box("layers: Sequential")
    assert after[1] <= before[1] + 1
    assert page.is_on_stage("layers: Sequential")


def test_what_opens_lies_inside_and_overlaps_nothing(page):
    page.click("layers: Sequential")
    page.click("layers.1: Residual")
    outer, inner = page.box("layers: Sequential"), page.box("layers.1: Residual")
    assert outer[0] < inner[0] < inner[2] < outer[2]
    assert outer[1] < inner[1] < inner[3] < outer[3]
    boxes = [page.box(name) for name in (*BLOCKS, *TOP[:2], *TOP[3:])]
    for place, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[place + 1 :]:
            assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]


def test_what_ran_first_stands_on_the_left(chromium, tmp_path):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return torch.cat([self.query(x), self.key(x), self.value(x)])

    torchkutils.plot_model(Wide(), tmp_path / "wide.html", input_size=(1, 2))
    page = Page(chromium, tmp_path / "wide.html")
    lefts = [page.box(f"{name}: Linear")[0] for name in ("query", "key", "value")]
    assert lefts == sorted(lefts)


def test_a_click_on_the_paper_of_an_open_module_only_chooses_it(page):
    page.click("layers: Sequential")
    face = page.element("layers: Sequential").find_element("css selector", ".face")
    page.js("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", face)
    assert page.is_open("layers: Sequential")
    assert page.chosen() == ["layers: Sequential"]


def test_a_real_click_opens_and_a_drag_does_not(page):
    from selenium.webdriver.common.action_chains import ActionChains

    box = page.element("layers: Sequential")
    ActionChains(page.driver).move_to_element(box).click_and_hold().move_by_offset(30, 20).release().perform()
    assert not page.is_open("layers: Sequential")
    ActionChains(page.driver).move_to_element(page.element("layers: Sequential")).click().perform()
    assert page.is_open("layers: Sequential")


def test_the_slider_goes_from_one_level_to_the_leaves(page):
    counts = []
    for depth in range(4):
        page.depth(depth)
        counts.append(len(page.shown()))
    assert counts == [5, 5, 8, 20]
    assert page.text("depth-shown") == "3 of 3"


def test_equal_blocks_are_one_box_that_opens(chromium, files):
    page = Page(chromium, files / "blocks.html")
    assert page.shown() == ["x: Input", "12 × Sequential"]
    page.click("12 × Sequential")
    assert page.shown()[2:] == [f"blocks.{number}: Sequential" for number in range(12)]
    page.click("blocks.7: Sequential")
    assert "blocks.7.0: Linear" in page.shown()
    assert "blocks.6.0: Linear" not in page.shown()
    assert page.errors() == []


def test_the_last_stop_of_the_slider_unfolds_equal_blocks(chromium, files):
    page = Page(chromium, files / "blocks.html")
    page.depth(2)
    assert page.shown() == ["x: Input", "12 × Sequential"]
    page.depth(3)
    assert page.text("depth-shown") == "unfolded"
    assert len(page.shown()) == 2 + 12 * 3
    page.depth(1)
    assert page.shown() == ["x: Input", "12 × Sequential"]


# ---- what is known of the chosen one ------------------------------------------------------------------------------


def test_a_leaf_shows_its_facts_and_links_lead_on(page):
    page.click("stem: Conv2d")
    details = page.text("details")
    for fact in ("stem: Conv2d", "3, 8, kernel_size=(3, 3)", "(2, 3, 9, 9)", "(2, 8, 7, 7)", "float32", "224 (5.8 %)"):
        assert fact in details
    links = page.driver.find_elements("css selector", "#details a")
    assert [link.text for link in links] == ["x: Input", "layers.0.conv1: Conv2d", "add"]
    links[1].click()
    assert page.text("details").startswith("layers.0.conv1: Conv2d")
    assert page.shown() == [*TOP[:3], BLOCKS[0], *BLOCK_0, *BLOCKS[1:], *TOP[3:]]


def test_breadcrumbs_are_the_way_and_lead_back(page):
    page.depth(3)
    page.click("layers.1.norm: BatchNorm2d")
    crumbs = page.driver.find_elements("css selector", "#crumbs button")
    assert [crumb.text for crumb in crumbs] == ["ResidualNet", "layers", "1", "norm"]
    crumbs[1].click()
    assert page.chosen() == ["layers: Sequential"]
    assert page.is_open("layers: Sequential")


def test_the_table_has_the_same_rows_open_and_the_same_one_chosen(page):
    assert page.rows() == ["ResidualNet", "stem", "layers", "pool", "head"]
    page.click("layers: Sequential")
    assert page.rows() == ["ResidualNet", "stem", "layers", "0", "1", "2", "pool", "head"]
    assert page.js("return document.querySelector('[data-row].chosen b').textContent") == "layers"
    row = page.driver.find_elements("css selector", "[data-row]")[4]
    row.find_element("css selector", ".toggle").click()
    assert page.is_open("layers.1: Residual")
    page.driver.find_elements("css selector", "[data-row]")[1].find_element("css selector", "b").click()
    assert page.chosen() == ["stem: Conv2d"]


def test_the_table_works_by_keys(page):
    page.js("document.querySelector('[data-row]').focus()")
    page.press("ARROW_DOWN", "ARROW_DOWN", "ARROW_RIGHT", "ARROW_DOWN")
    assert page.chosen() == ["layers.0: Residual"]
    assert page.js("return document.activeElement.querySelector('b').textContent") == "0"
    page.press("ARROW_LEFT", "ARROW_LEFT")
    assert page.shown() == TOP


# ---- keys ---------------------------------------------------------------------------------------------------------


def test_keys_go_through_the_picture(page):
    page.js("arguments[0].focus()", page.element("x: Input"))
    seen = []
    for _ in range(2):
        page.press("ARROW_DOWN")
        seen.append(page.focused())
    assert seen == ["stem: Conv2d", "layers: Sequential"]
    page.press("ARROW_RIGHT")
    assert page.is_open("layers: Sequential")
    assert page.focused() == "layers: Sequential"
    page.press("ARROW_RIGHT")
    assert page.focused() == "layers.0: Residual"
    page.press("ENTER")
    assert page.is_open("layers.0: Residual")
    page.press("ARROW_RIGHT", "ARROW_DOWN", "ARROW_UP", "ARROW_LEFT")
    assert page.focused() == "layers.0: Residual"
    page.press("ARROW_LEFT")
    assert not page.is_open("layers.0: Residual")
    page.press("ARROW_LEFT", "ARROW_LEFT")
    assert page.shown() == TOP
    assert page.focused() == "layers: Sequential"


def test_one_tab_reaches_the_picture_and_arrows_all_of_it(page):
    page.depth(3)
    page.js("document.querySelector('#crumbs button:last-child').focus()")
    page.press("TAB")
    reached = []
    for _ in page.shown():
        reached.append(page.focused())
        on_stage = """
            const one = document.activeElement.querySelector('.face').getBoundingClientRect();
            const stage = document.getElementById('stage').getBoundingClientRect();
            return one.x < stage.right && one.right > stage.x && one.y < stage.bottom && one.bottom > stage.y
        """
        assert page.js(on_stage), reached
        page.press("ARROW_DOWN")
    assert reached == page.shown()


def test_roles_and_states_are_those_of_a_tree(page):
    page.click("layers: Sequential")
    items = page.js(
        "return [...document.querySelectorAll('[role=tree] [role=treeitem]')].map(e => "
        "[e.getAttribute('aria-label').split(',')[0], e.getAttribute('aria-level'), e.getAttribute('aria-expanded')])"
    )
    assert [level for _, level, _ in items] == ["1", "1", "1", "2", "2", "2", "1", "1"]
    assert {name: open_ for name, _, open_ in items} == {
        "x: Input": None,
        "stem: Conv2d": None,
        "layers: Sequential": "true",
        **dict.fromkeys(BLOCKS, "false"),
        "pool: AdaptiveAvgPool2d": None,
        "head: Linear": None,
    }
    assert page.js("return document.getElementById('view').getAttribute('role')") == "tree"
    assert page.js("return document.querySelectorAll('#view [tabindex=\"0\"]').length") == 1


@pytest.mark.parametrize(
    ("key", "check"),
    [
        ("+", lambda a, b: b[0] == pytest.approx(a[0] * 1.25)),
        ("-", lambda a, b: b[0] == pytest.approx(a[0] * 0.8)),
        ("ARROW_LEFT", lambda a, b: b[1] == pytest.approx(a[1] + 60)),
        ("ARROW_RIGHT", lambda a, b: b[1] == pytest.approx(a[1] - 60)),
        ("ARROW_UP", lambda a, b: b[2] == pytest.approx(a[2] + 60)),
        ("ARROW_DOWN", lambda a, b: b[2] == pytest.approx(a[2] - 60)),
    ],
)
def test_keys_zoom_and_pan(page, key, check):
    page.press("0")
    before = page.transform()
    page.press(key)
    assert check(before, page.transform())
    page.press("0")
    assert page.transform() == pytest.approx(before, abs=1e-3)


def test_wheel_and_drag_move_the_picture(page):
    from selenium.webdriver.common.action_chains import ActionChains

    stage = page.driver.find_element("id", "stage")
    before = page.transform()
    page.js(
        "const wheel = {deltaY: -200, clientX: 300, clientY: 300, cancelable: true};"
        "arguments[0].dispatchEvent(new WheelEvent('wheel', wheel))",
        stage,
    )
    zoomed = page.transform()
    assert zoomed[0] > before[0]
    drag = ActionChains(page.driver).move_to_element_with_offset(stage, -300, 200)
    drag.click_and_hold().move_by_offset(70, -30).release().perform()
    assert page.transform()[1:] == pytest.approx([zoomed[1] + 70, zoomed[2] - 30], abs=1)


def test_two_fingers_zoom(page):
    before = page.transform()
    page.js(
        """
        const stage = document.getElementById('stage');
        stage.setPointerCapture = () => {};
        const at = (id, x) => ({pointerId: id, clientX: x, clientY: 300});
        const send = (kind, id, x) => stage.dispatchEvent(new PointerEvent(kind, at(id, x)));
        send('pointerdown', 1, 300); send('pointerdown', 2, 400); send('pointermove', 2, 500);
        send('pointerup', 1, 300); send('pointerup', 2, 500);
        """
    )
    assert page.transform()[0] == pytest.approx(before[0] * 2)


# ---- search -------------------------------------------------------------------------------------------------------


def test_search_opens_only_the_way_to_what_it_found(page):
    page.press("/")
    page.press("norm")
    assert page.text("found") == "3 found, 3 inside closed modules"
    page.press("ENTER")
    assert page.text("found") == "1 of 3: layers.0.norm: BatchNorm2d"
    assert page.text("details").startswith("layers.0.norm: BatchNorm2d")
    assert page.shown() == [*TOP[:3], BLOCKS[0], *BLOCK_0, *BLOCKS[1:], *TOP[3:]]
    assert page.is_on_stage("layers.0.norm: BatchNorm2d")
    page.press("ENTER")
    assert not page.is_open("layers.0: Residual")
    assert page.is_open("layers.1: Residual")
    assert page.chosen() == ["layers.1.norm: BatchNorm2d"]
    page.press("ESCAPE")
    assert page.driver.find_elements("css selector", "#view .match") == []
    assert page.js("return document.getElementById('search').value") == ""


def test_what_the_reader_opened_stays_open_behind_a_search(page):
    page.click("layers: Sequential")
    page.click("layers.2: Residual")
    page.press("/")
    page.press("layers.0.conv", "ENTER", "ENTER", "ENTER")
    assert page.is_open("layers.2: Residual")
    assert page.is_open("layers.0: Residual")


def test_search_finds_what_lies_in_a_group(chromium, files):
    page = Page(chromium, files / "blocks.html")
    page.press("/")
    page.press("blocks.9.1", "ENTER")
    assert page.chosen() == ["blocks.9.1: ReLU"]
    assert [name for name in page.shown() if ".1:" in name and "ReLU" in name] == ["blocks.9.1: ReLU"]


def test_what_search_found_is_announced(page):
    assert page.js("const e = document.getElementById('found'); return [e.getAttribute('role'), e.ariaLive]") == [
        "status",
        "polite",
    ]
    page.press("/")
    page.press("nothing like it")
    assert page.text("found") == "0 found"


# ---- links --------------------------------------------------------------------------------------------------------


def test_a_link_to_a_path_opens_the_way_to_it(chromium, files):
    page = Page(chromium, files / "net.html", "#layers.1.conv2")
    assert page.chosen() == ["layers.1.conv2: Conv2d"]
    assert not page.is_open("layers.0: Residual")
    assert page.is_on_stage("layers.1.conv2: Conv2d")


def test_the_address_says_what_is_shown_and_shows_it_again(chromium, files):
    page = Page(chromium, files / "net.html")
    page.click("layers: Sequential")
    page.click("layers.2: Residual")
    page.click("stem: Conv2d")
    page.set("colour", "params")
    shown, state = page.shown(), page.js("return location.hash")
    assert state == "#stem&open=layers,layers.2&colour=params"
    again = Page(chromium, files / "net.html", state)
    assert again.shown() == shown
    assert again.chosen() == ["stem: Conv2d"]
    assert again.js("return document.getElementById('colour').value") == "params"


@pytest.mark.parametrize("state", ["#nothing.like.it", "#%E0%A4%A", "#x&open=%,<img src=x>&colour=__proto__", "#&&=&"])
def test_a_link_that_fits_nothing_changes_nothing(chromium, files, state):
    page = Page(chromium, files / "net.html", state)
    assert page.shown() == TOP
    assert page.errors() == []


# ---- colours and themes -------------------------------------------------------------------------------------------


def colour_of(page, name):
    return page.js("return getComputedStyle(arguments[0].querySelector('.face')).fill", page.element(name))


def test_boxes_have_the_colour_of_their_kind_or_of_their_share(page):
    page.depth(3)
    assert colour_of(page, "layers.0.conv1: Conv2d") == colour_of(page, "stem: Conv2d")
    assert colour_of(page, "layers.0.norm: BatchNorm2d") != colour_of(page, "stem: Conv2d")
    assert "convolution" in page.text("legend")
    page.set("colour", "params")
    # 584 of 3,866 parameters, and 90 in the head.
    assert page.element("layers.0.conv1: Conv2d").text.endswith("15 %")
    assert colour_of(page, "layers.0.conv1: Conv2d") != colour_of(page, "head: Linear")
    assert "share of parameters" in page.text("legend")
    for way in ("flops", "memory"):
        page.set("colour", way)
        assert "%" in page.element("stem: Conv2d").text
    page.set("colour", "none")
    assert colour_of(page, "layers.0.conv1: Conv2d") == colour_of(page, "layers.0.norm: BatchNorm2d")
    assert not page.driver.find_element("id", "legend").is_displayed()


def luminance(colour):
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(front, back):
    high, low = sorted([luminance(front), luminance(back)], reverse=True)
    return (high + 0.05) / (low + 0.05)


FILLS = (
    *("box", "convolution", "linear", "attention", "normalisation", "activation", "recurrent"),
    *("embedding", "pooling", "dropout", "block", "changed", "alone", "inside", "heat0", "heat1", "heat2", "heat3"),
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("how", ["system", "chosen"])
def test_contrast_is_enough_in_light_and_dark(page, scheme, how):
    if how == "system":
        page.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
    else:
        page.set("theme", scheme)
    colours = page.js(
        """
        const of = (name) => {
          const probe = document.createElement('i');
          probe.style.color = `var(--${name})`;
          document.body.append(probe);
          const colour = getComputedStyle(probe).color;
          probe.remove();
          return colour;
        };
        return Object.fromEntries(arguments[0].map((name) => [name, of(name)]));
        """,
        [
            *FILLS,
            "paper",
            "side",
            "text",
            "quiet",
            "line",
            "frame",
            "chosen",
            "match",
            "bad",
            "heat4",
            "heat5",
            "deep-text",
        ],
    )
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    page.set("theme", "auto")
    pairs = {("text", back): 4.5 for back in ("paper", "side", *FILLS)}
    pairs |= {("deep-text", back): 4.5 for back in ("heat4", "heat5")}
    pairs |= {(front, back): 4.5 for front in ("quiet", "bad", "chosen") for back in ("paper", "side")}
    pairs |= {("bad", "box"): 4.5}
    pairs |= {(front, "paper"): 3.0 for front in ("line", "frame", "match")}
    low = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in pairs}
    assert {pair: value for pair, value in low.items() if value < pairs[pair]} == {}
    assert (luminance(colours["paper"]) < 0.2) == (scheme == "dark")


def test_the_theme_is_remembered(chromium, files):
    page = Page(chromium, files / "net.html")
    page.set("theme", "dark")
    again = Page(chromium, files / "blocks.html")
    assert again.js("return document.documentElement.dataset.theme") == "dark"
    assert again.js("return document.getElementById('theme').value") == "dark"
    again.set("theme", "auto")


def test_reduced_motion_is_respected(page):
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    )
    assert page.js("return getComputedStyle(document.getElementById('view')).transitionDuration") == "0s"
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


# ---- saving -------------------------------------------------------------------------------------------------------


def saved(page, button, folder: pathlib.Path, ending: str) -> bytes:
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    page.driver.find_element("id", button).click()
    for _ in range(200):
        found = list(folder.glob(f"*.{ending}"))
        if found and found[0].stat().st_size:
            return found[0].read_bytes()
        time.sleep(0.05)
    raise AssertionError(f"nothing was saved; {list(folder.iterdir())}, {page.errors()}")


@pytest.mark.parametrize("name", ["net", "hostile"])
def test_the_picture_is_saved_as_svg(chromium, files, tmp_path, name):
    page = Page(chromium, files / f"{name}.html")
    page.depth(9)
    text = saved(page, "save-svg", tmp_path, "svg").decode()
    root = xml.etree.ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(text and ("conv1" in text or "onerror" in text or "<" in text) for text in texts)
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    # Other programs know no variables: the colours are written out.
    assert "var(" not in text
    assert "light-dark(" not in text
    assert "rgb(" in text
    assert page.errors() == []


def test_the_picture_is_saved_as_png(page, tmp_path):
    page.depth(2)
    data = saved(page, "save-png", tmp_path, "png")
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    size = page.js("const b = document.getElementById('view').getBBox(); return [b.width, b.height]")
    assert width == pytest.approx(2 * (size[0] + 32), abs=40)
    assert height == pytest.approx(2 * (size[1] + 32), abs=40)


def test_it_prints_to_paper(page):
    printed = base64.b64decode(page.driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")
    assert len(printed) > 5_000


# ---- strangers ----------------------------------------------------------------------------------------------------


def test_a_stranger_s_names_are_text(chromium, files):
    page = Page(chromium, files / "hostile.html")
    page.depth(9)
    assert [name for name in page.shown() if "<img" in name]
    for element in page.driver.find_elements("css selector", "[data-key]"):
        page.js("arguments[0].focus()", element)
    names = page.shown()
    page.click(names[-1])
    assert HOSTILE in page.text("details")
    page.press("/")
    page.press("onerror", "ENTER", "ENTER")
    assert page.js("return document.title") == HOSTILE
    assert page.js("return window.broken") is None
    assert page.driver.find_elements("css selector", "img") == []
    assert page.errors() == []


STRANGE = [
    "a\ud800b",
    "\x00\x1b[2J\u202e\u2028",
    "𝔛" * 300,
    "__proto__",
    "constructor",
    "%E0%A4%A",
    "a&open=b",
    "'\"<&>`",
]


def test_names_of_any_characters_can_be_chosen_found_and_saved(chromium, tmp_path):
    model = nn.Sequential()
    for name in STRANGE:
        model._modules[name] = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    torchkutils.plot_model(model, tmp_path / "strange.html", input_size=(1, 2))
    page = Page(chromium, tmp_path / "strange.html")
    assert len(page.driver.find_elements("css selector", "[data-key]")) == 1 + len(STRANGE)
    for key in range(2, 2 + 3 * len(STRANGE), 3):
        one = page.driver.find_element("css selector", f"[data-key='{key}']")
        page.js("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", one)
        again = Page(chromium, tmp_path / "strange.html", page.js("return location.hash"))
        assert again.js("return document.querySelector('[data-key].chosen').dataset.key") == str(key)
    xml.etree.ElementTree.fromstring(saved(page, "save-svg", tmp_path, "svg").decode())
    assert saved(page, "save-png", tmp_path, "png").startswith(b"\x89PNG")
    assert page.errors() == []


def test_a_stranger_s_error_is_text(chromium, files):
    page = Page(chromium, files / "hostile-error.html")
    assert HOSTILE in page.text("failure")
    assert page.driver.find_elements("css selector", "img") == []
    assert page.js("return window.broken") is None


def test_where_forward_failed_is_said_and_red(chromium, files):
    page = Page(chromium, files / "failed.html")
    assert page.text("failure").startswith("FAILED in 0.1: RuntimeError: mat1 and mat2")
    page.depth(9)
    (element,) = page.driver.find_elements("css selector", "#view .box.failed")
    assert "failed" in element.get_attribute("aria-label")
    assert "FAILED" in element.text


# ---- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["net", "large", "hostile"])
def test_a_narrow_screen_needs_no_scrolling_sideways(chromium, files, name):
    chromium.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page = Page(chromium, files / f"{name}.html")
        page.driver.find_element("id", "show-table").click()
        page.js("document.querySelectorAll('[data-row]')[1].querySelector('b').click()")
        assert page.chosen()
        assert (
            page.js("return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]") == [390] * 3
        )
        stage = page.js(
            "const b = document.getElementById('stage').getBoundingClientRect(); return [b.width, b.height]"
        )
        assert stage[0] == 390
        assert stage[1] > 150
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_two_thousand_leaves_open_search_and_zoom(chromium, files):
    page = Page(chromium, files / "large.html")
    page.press("/")
    page.press("blocks.777.1", "ENTER")
    (found,) = page.chosen()
    assert found.startswith("blocks.777.1: ")
    assert page.is_on_stage(found)
    page.depth(9)
    before = page.transform()[0]
    page.js("document.activeElement.blur()")
    page.press("+")
    assert page.transform()[0] > before
    assert page.errors() == []


def test_a_map_shows_the_whole_from_two_hundred_boxes_on(chromium, files):
    page = Page(chromium, files / "large.html")
    map_ = page.driver.find_element("id", "map")
    assert not map_.is_displayed()
    while len(page.shown()) <= 200:
        closed = page.driver.find_elements(
            "css selector", "[data-key].range[aria-expanded=false], .group[aria-expanded=false]"
        )
        page.js("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", closed[0])
    assert map_.is_displayed()
    before = page.transform()
    page.js(
        "const b = arguments[0].getBoundingClientRect(); arguments[0].dispatchEvent(new PointerEvent('pointerdown', "
        "{clientX: b.x + b.width / 2, clientY: b.bottom - 2, bubbles: true}))",
        map_,
    )
    assert page.transform() != before


# ---- notebooks ----------------------------------------------------------------------------------------------------


def framed(chromium, tmp_path, style=""):
    frame = torchkutils.plot_model(ResidualNet(), None, input_size=(2, 3, 9, 9)).page()._repr_html_()
    outer = tmp_path / "notebook.html"
    outer.write_text(f"<!doctype html><meta charset=utf-8>{style}{frame}", encoding="utf-8")
    chromium.get_log("browser")
    chromium.get(outer.as_uri())
    return chromium.find_element("tag name", "iframe")


def ready(chromium):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(chromium, 30).until(
        lambda d: d.execute_script("return document.documentElement.dataset.ready || null")
    )


def test_it_works_inside_a_notebook_s_frame(chromium, tmp_path):
    chromium.switch_to.frame(framed(chromium, tmp_path))
    try:
        ready(chromium)
        boxes = chromium.find_elements("css selector", "[data-key]")
        assert len(boxes) == 5
        chromium.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", boxes[2])
        assert len(chromium.find_elements("css selector", "[data-key]")) == 8
        chromium.execute_script(
            "const t = document.getElementById('theme'); t.value = 'dark'; t.dispatchEvent(new Event('change'))"
        )
        folder = tmp_path / "saved"
        folder.mkdir()
        chromium.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        chromium.find_element("id", "save-png").click()
        for _ in range(200):
            if list(folder.glob("*.png")):
                break
            time.sleep(0.05)
        assert list(folder.glob("*.png"))
    finally:
        chromium.switch_to.default_content()
    assert chromium.get_log("browser") == []


@pytest.mark.parametrize("hidden", ["display: none", "height: 0"])
def test_a_frame_that_gets_its_size_later_shows_the_model(chromium, tmp_path, hidden):
    from selenium.webdriver.support.ui import WebDriverWait

    element = framed(chromium, tmp_path, f"<style id=hiding>iframe {{ {hidden} !important }}</style>")
    chromium.switch_to.frame(element)
    ready(chromium)
    chromium.switch_to.default_content()
    chromium.execute_script("document.getElementById('hiding').remove()")
    chromium.switch_to.frame(element)
    whole = "const a = document.getElementById('view').getBoundingClientRect(); return [a.width, a.height]"
    WebDriverWait(chromium, 10).until(lambda d: min(d.execute_script(whole)) > 100)
    node = chromium.find_element("css selector", "#view .box")
    assert node.is_displayed()
    assert node.text
    chromium.switch_to.default_content()


def test_the_page_is_one_file_of_modest_size(files):
    assert (files / "net.html").stat().st_size < 400_000
    assert (files / "large.html").stat().st_size < 1_500_000
    json.dumps((files / "net.html").read_text(encoding="utf-8"))
