"""The page of two models: what is chosen or opened in the one is so in the other, and what differs is marked."""

from __future__ import annotations

import pytest
from torch import nn

import torchkutils
from tests.browser.test_page import HOSTILE, hostile_model
from tests.models.pictured import ResidualNet

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparisons")
    after = ResidualNet(4)
    after.layers[1].norm = nn.GroupNorm(2, 8)
    torchkutils.compare_models(ResidualNet(), after, folder / "diff.html", input_size=(2, 3, 9, 9))
    torchkutils.compare_models(
        hostile_model(), nn.Sequential(nn.Linear(2, 2)), folder / "hostile.html", input_size=(1, 2)
    )
    torchkutils.compare_models(ResidualNet(), ResidualNet(), folder / "equal.html", input_size=(2, 3, 9, 9))
    return folder


class Comparison:
    def __init__(self, driver, path) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver = driver
        driver.get_log("browser")
        driver.get(path.as_uri())
        WebDriverWait(driver, 30).until(lambda d: self.js("return document.documentElement.dataset.ready || null"))

    def js(self, code, *args):
        return self.driver.execute_script(code, *args)

    def names(self, side, selector="[data-key]"):
        labels = self.js(
            "return [...document.querySelectorAll('.place')[arguments[0]].querySelectorAll(arguments[1])]"
            ".map(e => e.getAttribute('aria-label'))",
            side,
            selector,
        )
        return [label.split(",")[0] for label in labels]

    def click(self, side, name):
        self.js(
            "const e = [...document.querySelectorAll('.place')[arguments[0]].querySelectorAll('[data-key]')]"
            ".find(e => e.getAttribute('aria-label').split(',')[0] === arguments[1]);"
            "e.dispatchEvent(new MouseEvent('click', {bubbles: true}))",
            side,
            name,
        )

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def chosen(self):
        return [self.names(side, ".chosen[data-key]") for side in (0, 1)]

    def colour(self, side, name):
        return self.js(
            "return [...document.querySelectorAll('.place')[arguments[0]].querySelectorAll('[data-key]')]"
            ".find(e => e.getAttribute('aria-label').split(',')[0] === arguments[1]).dataset.colour",
            side,
            name,
        )


@pytest.fixture
def page(chromium, files):
    comparison = Comparison(chromium, files / "diff.html")
    yield comparison
    assert chromium.get_log("browser") == []


def test_what_differs_is_listed_and_marked(page):
    listed = [entry.text.splitlines()[0] for entry in page.driver.find_elements("css selector", "#differences > li")]
    assert listed == ["~ layers.1.norm BatchNorm2d", "+ layers.3 Residual and 3 in it"]
    assert "class: BatchNorm2d → GroupNorm" in page.driver.find_element("id", "differences").text
    assert page.driver.find_element("id", "totals").text.startswith(
        "16 modules equal · 1 changed · 0 removed · 1 added"
    )
    assert page.colour(0, "layers: Sequential") == "inside"
    assert page.colour(0, "stem: Conv2d") == "equal"


def test_the_next_difference_is_shown_in_both(page):
    page.press("n")
    assert page.chosen() == [["layers.1.norm: BatchNorm2d"], ["layers.1.norm: GroupNorm"]]
    assert page.colour(1, "layers.1.norm: GroupNorm") == "changed"
    page.press("n")
    # The first model has no such block: the module around it is chosen there.
    assert page.chosen() == [["layers: Sequential"], ["layers.3: Residual"]]
    assert page.colour(1, "layers.3: Residual") == "alone"
    page.press("n")
    assert page.chosen()[0] == ["layers.1.norm: BatchNorm2d"]
    page.press("p")
    assert page.chosen()[1] == ["layers.3: Residual"]


def test_what_opens_in_one_opens_in_the_other(page):
    page.click(0, "layers: Sequential")
    assert "layers.2: Residual" in page.names(0)
    assert "layers.3: Residual" in page.names(1)
    page.click(1, "layers.2: Residual")
    assert "layers.2.conv1: Conv2d" in page.names(0)
    assert page.chosen() == [["layers.2: Residual"]] * 2
    page.click(1, "layers.2: Residual")
    page.click(0, "layers: Sequential")
    assert page.names(0) == page.names(1)


def test_the_slider_and_the_search_are_those_of_both(page):
    page.js("const s = document.getElementById('depth'); s.value = 3; s.dispatchEvent(new Event('input'))")
    assert len(page.names(1)) == len(page.names(0)) + 5
    page.press("/")
    page.press("norm")
    assert page.driver.find_element("id", "found").text == "first model: 3 found; second model: 4 found"
    assert [len(page.names(side, ".match[data-key]")) for side in (0, 1)] == [3, 4]


def test_equal_models_say_so(chromium, files):
    page = Comparison(chromium, files / "equal.html")
    assert page.driver.find_element("id", "differences").text == "No module differs."
    page.press("n")
    assert page.chosen() == [[], []]


def test_a_stranger_s_names_are_text(chromium, files):
    page = Comparison(chromium, files / "hostile.html")
    page.press("n", "n", "n")
    assert HOSTILE in page.driver.find_element("id", "differences").text
    assert page.js("return window.broken") is None
    assert chromium.find_elements("css selector", "img") == []
    assert chromium.get_log("browser") == []


def test_a_narrow_screen_needs_no_scrolling_sideways(chromium, files):
    chromium.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page = Comparison(chromium, files / "diff.html")
        assert page.js("return document.documentElement.scrollWidth") == 390
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
