"""The page does what a reader expects, by clicks, keys and what is then on the screen."""

from __future__ import annotations

import json

import pytest
from torch import nn

import torchkutils
from tests.models.pictured import ResidualNet

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=window.broken=1>"


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Pages of several models, each written once."""
    folder = tmp_path_factory.mktemp("pages")
    torchkutils.plot_model(ResidualNet(), folder / "net.html", True, input_size=(2, 3, 9, 9))

    hostile = nn.Sequential()
    hostile._modules[HOSTILE.replace(".", "_")] = type(HOSTILE, (nn.Linear,), {"extra_repr": lambda self: HOSTILE})(
        2, 2
    )
    torchkutils.plot_model(type(HOSTILE, (nn.Sequential,), {})(hostile), folder / "hostile.html", input_size=(1, 2))

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torchkutils.plot_model(
            nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5)), nn.ReLU()),
            folder / "failed.html",
            input_size=(1, 2),
        )

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(1_000))

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    torchkutils.plot_model(Flat(), folder / "large.html", input_size=(1, 2))
    return folder


class Page:
    """What a reader does and sees."""

    def __init__(self, driver, path) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver = driver
        driver.get_log("browser")
        driver.get(path.as_uri())
        WebDriverWait(driver, 30).until(lambda d: self.js("return document.documentElement.dataset.ready"))

    def js(self, code, *args):
        return self.driver.execute_script(code, *args)

    def element(self, key):
        return self.driver.find_element("css selector", f"#view [data-key='{key}']")

    def shown(self):
        return set(self.js("return [...document.querySelectorAll('#view [data-key]')].map(e => e.dataset.key)"))

    def by_name(self, start):
        names = self.names()
        (key,) = [key for key, name in names.items() if name.startswith(start)]
        return key

    def names(self):
        return dict(
            self.js(
                "return [...document.querySelectorAll('#view [data-key]')]"
                ".map(e => [e.dataset.key, e.getAttribute('aria-label')])"
            )
        )

    def click(self, key):
        self.js("const e = arguments[0]; e.dispatchEvent(new MouseEvent('click', {bubbles: true}))", self.element(key))

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def depth(self, value):
        self.js(
            "const s = document.getElementById('depth'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))",
            value,
        )

    def text(self, name):
        return self.driver.find_element("id", name).text

    def transform(self):
        return self.js(
            "const style = getComputedStyle(document.getElementById('view'));"
            "const m = new DOMMatrix(style.transform); return [m.a, m.e, m.f]"
        )

    def box(self, key):
        return self.js(
            "const b = arguments[0].getBoundingClientRect(); return [b.x, b.y, b.right, b.bottom]", self.element(key)
        )

    def is_on_screen(self, key):
        left, top, right, bottom = self.box(key)
        wide, high = self.js("return [innerWidth, innerHeight]")
        return left < wide and right > 0 and top < high and bottom > 0


@pytest.fixture
def page(chromium, files):
    return Page(chromium, files / "net.html")


def test_it_opens_from_a_file_without_the_network_and_without_errors(page):
    assert page.driver.get_log("browser") == []
    assert page.js("return performance.getEntriesByType('resource').length") == 0
    assert page.text("totals").startswith(f"{sum(p.numel() for p in ResidualNet().parameters()):,} parameters")
    assert "stem: Conv2d, output (2, 8, 7, 7)" in page.names().values()


def test_the_slider_goes_from_one_box_to_the_leaves(page):
    counts = []
    for depth in range(4):
        page.depth(depth)
        counts.append(len([key for key in page.shown() if key[0] != "c"]))
    assert counts == [2, 5, 7, 16]
    assert page.text("depth-shown") == "3 of 3"


def test_a_click_on_a_box_goes_in_and_on_its_cluster_out_again(page):
    key = page.by_name("layers: Sequential")
    page.click(key)
    assert f"c{key[1:]}" in page.shown()
    assert page.text("depth-shown") == "2 of 3"
    assert page.is_on_screen(f"c{key[1:]}")
    page.click(f"c{key[1:]}")
    assert key in page.shown()
    assert page.text("depth-shown") == "1 of 3"


def test_the_module_looked_at_stays_in_view(page):
    page.depth(3)
    key = page.by_name("layers.2.norm")
    page.click(key)
    for _ in range(8):
        page.press("+")
    for depth in (2, 1, 2, 3):
        page.depth(depth)
        shown = page.js("return document.querySelector('#view .chosen').dataset.key")
        assert page.is_on_screen(shown)


def test_a_leaf_shows_its_facts_and_links_lead_on(page):
    page.click(page.by_name("stem"))
    details = page.text("details")
    for fact in ("stem: Conv2d", "3, 8, kernel_size=(3, 3)", "(2, 3, 9, 9)", "(2, 8, 7, 7)", "float32", "224", "FLOPs"):
        assert fact in details
    links = page.driver.find_elements("css selector", "#details a")
    assert [link.text for link in links] == ["x: Input", "layers: Sequential"]
    links[0].click()
    assert page.text("details").startswith("x: Input")


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
    from selenium.webdriver.common.keys import Keys

    before = page.transform()
    page.press(getattr(Keys, key, key))
    assert check(before, page.transform())
    page.press("0")
    assert page.transform() == pytest.approx(before, abs=1e-3)


def test_wheel_and_drag_move_the_picture(page):
    from selenium.webdriver.common.action_chains import ActionChains

    stage = page.driver.find_element("id", "stage")
    before = page.transform()
    page.js(
        """
        const wheel = {deltaY: -200, clientX: 300, clientY: 300, cancelable: true};
        arguments[0].dispatchEvent(new WheelEvent('wheel', wheel));
        """,
        stage,
    )
    zoomed = page.transform()
    assert zoomed[0] > before[0]
    ActionChains(page.driver).move_to_element_with_offset(stage, -500, 200).click_and_hold().move_by_offset(
        70, -30
    ).release().perform()
    moved = page.transform()
    assert moved[1:] == pytest.approx([zoomed[1] + 70, zoomed[2] - 30], abs=1)


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


def test_search_counts_highlights_centres_and_finds_what_is_deeper(page):
    from selenium.webdriver.common.keys import Keys

    page.press("/")
    page.press("norm")
    assert page.text("found") == "3 found, 3 of them deeper"
    page.press(Keys.ENTER)
    assert page.text("found") == "1 of 3"
    assert page.text("details").startswith("layers.0.norm: BatchNorm2d")
    assert len(page.driver.find_elements("css selector", "#view .match")) == 3
    page.press(Keys.ESCAPE)
    assert page.driver.find_elements("css selector", "#view .match") == []
    assert not page.driver.find_element("id", "panel").is_displayed()


def test_every_node_is_reached_by_the_keyboard_and_has_a_name(page):
    from selenium.webdriver.common.keys import Keys

    page.depth(3)
    wanted = page.shown()
    page.js("document.activeElement.blur(); document.body.focus()")
    reached = set()
    for _ in range(len(wanted) + 12):
        page.press(Keys.TAB)
        key = page.js("return document.activeElement.dataset.key || null")
        if key:
            reached.add(key)
            assert page.is_on_screen(key)
    assert reached == wanted
    assert all(page.names().values())


def test_enter_opens_what_has_the_focus(page):
    from selenium.webdriver.common.keys import Keys

    key = page.by_name("layers: Sequential")
    page.js("arguments[0].focus()", page.element(key))
    page.press(Keys.ENTER)
    assert f"c{key[1:]}" in page.shown()
    assert page.js("return document.activeElement.dataset.key") == f"c{key[1:]}"


def test_a_stranger_s_names_are_text(chromium, files):
    hostile = Page(chromium, files / "hostile.html")
    hostile.depth(9)
    for key in hostile.shown():
        hostile.depth(9)
        hostile.click(key)
    assert hostile.js("return window.broken") is None
    assert hostile.driver.find_elements("css selector", "img") == []
    hostile.depth(9)
    assert [name for name in hostile.names().values() if HOSTILE in name], hostile.names()
    hostile.click(next(k for k in hostile.shown() if k[0] == "m"))
    assert HOSTILE in hostile.text("details")
    assert hostile.driver.get_log("browser") == []


def test_where_forward_failed_is_said_and_red(chromium, files):
    failed = Page(chromium, files / "failed.html")
    assert failed.text("failure").startswith("FAILED in 0.1: RuntimeError: mat1 and mat2")
    failed.depth(9)
    (element,) = failed.driver.find_elements("css selector", "#view .node.failed")
    assert "failed" in element.get_attribute("aria-label")
    assert "FAILED" in element.text


def luminance(colour):
    parts = [int(part) / 255 for part in colour[4:-1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_in_light_and_dark(page, scheme):
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
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
        const names = ['paper', 'text', 'quiet', 'line', 'frame', 'box', 'chosen', 'chosen-box', 'match-box', 'bad'];
        return Object.fromEntries(names.map((name) => [name, of(name)]));
        """
    )
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    pairs = {("text", g): 4.5 for g in ("paper", "box", "chosen-box", "match-box")}
    pairs |= {("quiet", "paper"): 4.5, ("bad", "paper"): 4.5, ("bad", "box"): 4.5, ("chosen", "paper"): 4.5}
    pairs |= {("line", "paper"): 3.0, ("frame", "paper"): 3.0}
    for (front, back), least in pairs.items():
        high, low = sorted([luminance(colours[front]), luminance(colours[back])], reverse=True)
        assert (high + 0.05) / (low + 0.05) >= least, (front, back)
    assert (luminance(colours["paper"]) < 0.2) == (scheme == "dark")


def test_reduced_motion_is_respected(page):
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    )
    assert page.js("return getComputedStyle(document.getElementById('view')).transitionDuration") == "0s"
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_it_prints_to_paper(page):
    import base64

    printed = base64.b64decode(page.driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")
    assert len(printed) > 5_000


def test_two_thousand_leaves_open_and_zoom(chromium, files):
    large = Page(chromium, files / "large.html")
    large.depth(9)
    assert len([key for key in large.shown() if key[0] == "m"]) == 2_000
    before = large.transform()[0]
    large.press("+")
    assert large.transform()[0] > before


def test_it_works_inside_a_notebook_s_frame(chromium, files, tmp_path):
    plot = torchkutils.plot_model(ResidualNet(), None, input_size=(2, 3, 9, 9))
    outer = tmp_path / "notebook.html"
    outer.write_text(f"<!doctype html><meta charset=utf-8>{plot.page()._repr_html_()}", encoding="utf-8")
    chromium.get(outer.as_uri())
    chromium.switch_to.frame(chromium.find_element("tag name", "iframe"))
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(chromium, 30).until(
        lambda d: d.execute_script("return document.documentElement.dataset.ready || null")
    )
    assert len(chromium.find_elements("css selector", "#view .node")) == 5
    chromium.switch_to.default_content()


@pytest.mark.parametrize("hidden", ["display: none", "height: 0"])
def test_a_frame_that_gets_its_size_later_shows_the_model(chromium, tmp_path, hidden):
    from selenium.webdriver.support.ui import WebDriverWait

    frame = torchkutils.plot_model(ResidualNet(), None, input_size=(2, 3, 9, 9)).page()._repr_html_()
    outer = tmp_path / "notebook.html"
    hiding = f"<style id=hiding>iframe {{ {hidden} !important }}</style>"
    outer.write_text(f"<!doctype html><meta charset=utf-8>{hiding}{frame}", encoding="utf-8")
    chromium.get(outer.as_uri())
    element = chromium.find_element("tag name", "iframe")
    chromium.switch_to.frame(element)
    WebDriverWait(chromium, 30).until(
        lambda d: d.execute_script("return document.documentElement.dataset.ready || null")
    )
    chromium.switch_to.default_content()
    chromium.execute_script("document.getElementById('hiding').remove()")
    chromium.switch_to.frame(element)
    whole = "const a = document.getElementById('view').getBoundingClientRect(); return [a.width, a.height]"
    WebDriverWait(chromium, 10).until(lambda d: min(d.execute_script(whole)) > 100)
    node = chromium.find_element("css selector", "#view .node")
    assert node.is_displayed()
    assert node.text
    chromium.switch_to.default_content()


def test_the_page_is_one_file_of_modest_size(files):
    assert (files / "net.html").stat().st_size < 400_000
    json.dumps((files / "net.html").read_text(encoding="utf-8"))
    assert "http://" not in (files / "net.html").read_text(encoding="utf-8").replace("http://www.w3.org/", "")
