"""SVGs as they are looked at: in a notebook's cell, and with titles that no arrow crosses."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from torch import nn

import torchkutils
from tests.models.pictured import Classifier, Residual, ResidualNet

SVG = "{http://www.w3.org/2000/svg}"
IMAGE = {"input_size": (1, 3, 9, 9)}


def cell(model, **options):
    """What a notebook stores of a plot: HTML, and the same SVG, parsed."""
    bundle = torchkutils.plot_model(model, None, **options)._repr_mimebundle_()
    return bundle["text/html"], ElementTree.fromstring(bundle["image/svg+xml"])


def chain(length):
    return nn.Sequential(*[nn.ReLU() for _ in range(length)])


def test_a_small_picture_has_its_size_and_never_more_than_the_cell():
    page, svg = cell(chain(3), input_size=(1, 2))
    # A point of the layout is a pixel: four boxes of 36 with gaps of 36, and the margins.
    assert float(svg.get("height")) == pytest.approx(4 * 36 + 3 * 36 + 8, abs=8)
    assert "max-width:100%" in svg.get("style")
    assert "height:auto" in svg.get("style")
    assert "page()" not in page


@pytest.mark.parametrize(("length", "note"), [(30, "of its size"), (200, "of the picture")])
def test_a_high_picture_ends_at_a_thousand_pixels_and_names_the_page(length, note):
    page, svg = cell(chain(length), input_size=(1, 2))
    assert float(svg.get("height")) <= 1_030
    assert note in page
    assert "plot_model(…).page()" in page


def test_of_a_very_high_picture_the_beginning_is_stored():
    page, _ = cell(chain(1_000), input_size=(1, 2))
    assert ">1: ReLU<" in page
    assert ">900: ReLU<" not in page
    assert len(page) < 20_000


def test_all_of_a_picture_that_is_only_shrunk_is_stored():
    page, svg = cell(chain(40), input_size=(1, 2))
    assert all(f">{number}: ReLU<" in page for number in range(40))
    assert sum(element.tag == f"{SVG}title" for element in svg.iter()) == 1 + 41


def test_it_has_no_background_and_the_colours_of_the_text_around_it():
    page, svg = cell(ResidualNet(), expand_nested=True, **IMAGE)
    assert svg.get("fill") == "currentColor"
    drawn = [element for element in svg.iter() if element.tag in {f"{SVG}{name}" for name in ("path", "polygon")}]
    assert {element.get("stroke") for element in drawn} == {"currentColor", "gray"}
    assert {element.get("fill") for element in drawn} == {"none", "currentColor"}
    # A background of its own is for an image alone: `:root` of a page is the page.
    assert re.findall(r"[^{}<>]*\{[^{}]*background", page) == [
        "svg:root{color:#000;background",
        "svg:root{color:#ddd;background",
    ]


def test_text_on_colours_keeps_its_own():
    _, svg = cell(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(196, 2)), style="color", **IMAGE)
    groups = [group for group in svg.iter(f"{SVG}g") if group.find(f"{SVG}text") is not None]
    text = {group.find(f"{SVG}text").text: group for group in groups}
    assert text["0: Conv2d"].get("fill") == "#000000"
    assert text["2: Linear"].find(f"{SVG}text").get("fill").lower() in ("white", "#ffffff")
    assert text["1: Flatten"].get("fill") is None


def test_nothing_in_it_has_a_name_that_another_picture_of_the_page_has_too():
    page, svg = cell(ResidualNet(), expand_nested=True, style="color", **IMAGE)
    assert not [element for element in svg.iter() if element.get("id") or element.get("class")][1:]
    assert "xlink" not in page


def test_a_whole_name_is_shown_beside_the_pointer():
    _, svg = cell(ResidualNet(), expand_nested=True, **IMAGE)
    assert "layers.1.conv2: Conv2d" in {title.text for title in svg.iter(f"{SVG}title")}


def test_odd_names_stay_text_in_a_page():
    name = '<img src=x onerror="alert(1)">&'
    page, svg = cell(type(name, (nn.Sequential,), {})(type(name, (nn.Linear,), {})(2, 2)), input_size=(1, 2))
    assert "<img" not in page
    assert any(name in (element.text or "") for element in svg.iter(f"{SVG}title"))
    assert name in svg.get("aria-label")


def test_torchview_s_graph_fits_too():
    page, _ = cell(Residual(4), input_size=(1, 4, 5, 5), drawer="torchview")
    assert page.startswith("<svg ")
    assert '<g fill="#000000">' in page


def test_model_to_dot_shows_the_same():
    plot = torchkutils.plot_model(ResidualNet(), None, **IMAGE)
    assert (
        torchkutils.model_to_dot(ResidualNet(), **IMAGE)._repr_mimebundle_()["text/html"]
        == plot._repr_mimebundle_()["text/html"]
    )


# -- titles ------------------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """A frame that several arrows enter."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Sequential(nn.Linear(4, 4)) for _ in range(3))

    def forward(self, x):
        return self.a(x) * self.b(x) + self.c(x)


class UNet(nn.Module):
    """Arrows that go by several frames."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
        self.up = nn.ModuleList([nn.Sequential(nn.Linear(8, 4), nn.ReLU()) for _ in range(3)])

    def forward(self, x):
        kept = []
        for block in self.down:
            kept.append(x)
            x = block(x)
        for block in self.up:
            x = block(torch.cat([x, kept.pop()], 1))
        return x


def title_boxes(svg):
    """The frames' titles with what they cover; letters of Helvetica are about half as wide as they are high."""
    for group in svg.iter(f"{SVG}g"):
        if group.get("class") == "cluster":
            (text,) = group.iter(f"{SVG}text")
            size, x, y = (float(text.get(name)) for name in ("font-size", "x", "y"))
            assert text.get("text-anchor") == "start"
            yield text.text, (x, y - 0.7 * size, x + 0.5 * size * len(text.text), y)


def arrow_points(svg):
    for group in svg.iter(f"{SVG}g"):
        if group.get("class") == "edge":
            numbers = [float(number) for number in re.findall(r"-?[\d.]+", group.find(f"{SVG}path").get("d"))]
            points = list(zip(numbers[::2], numbers[1::2], strict=True))
            for first in range(0, len(points) - 3, 3):
                (ax, ay), (bx, by), (cx, cy), (dx, dy) = points[first : first + 4]
                for step in range(51):
                    t, s = step / 50, 1 - step / 50
                    weights = (s**3, 3 * s * s * t, 3 * s * t * t, t**3)
                    xs, ys = (ax, bx, cx, dx), (ay, by, cy, dy)
                    yield tuple(sum(w * v for w, v in zip(weights, values, strict=True)) for values in (xs, ys))


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (ResidualNet(2), torch.ones(1, 3, 9, 9)),
        (nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.ReLU())), torch.ones(1, 4)),
        (Classifier(), torch.ones(2, 7, dtype=torch.int64)),
        (Branches(), torch.ones(1, 4)),
        (UNet(), torch.ones(1, 4)),
    ],
    ids=["residual", "chain", "encoder", "branches", "unet"],
)
@pytest.mark.parametrize("shapes", [False, True])
def test_no_arrow_crosses_a_frame_s_title(model, data, shapes):
    graph = torchkutils.model_to_dot(model, shapes, expand_nested=True, input_data=data)
    svg = ElementTree.fromstring(graph.create(format="svg"))
    titles, points = list(title_boxes(svg)), list(arrow_points(svg))
    assert titles
    assert points
    crossed = {
        title
        for title, (left, top, right, bottom) in titles
        for x, y in points
        if left < x < right and top < y < bottom
    }
    assert crossed == set()


def test_titles_stay_inside_their_frames_and_keep_their_text():
    graph = torchkutils.model_to_dot(ResidualNet(1), expand_nested=True, **IMAGE)
    svg = ElementTree.fromstring(graph.create(format="svg"))
    assert [title for title, _ in title_boxes(svg)] == ["layers: Sequential", "0: Residual"]
    for group in svg.iter(f"{SVG}g"):
        if group.get("class") == "cluster":
            sides = [float(number) for number in re.findall(r"-?[\d.]+", group.find(f"{SVG}path").get("d"))[::2]]
            assert min(sides) < float(group.find(f"{SVG}text").get("x")) < max(sides)


class EntersAtTheLeft(nn.Module):
    """A frame whose one arrow comes in where a title begins: parameters with long names stand right of it."""

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            for name in ("a_scale_with_a_long_name", "an_offset_with_a_long_name"):
                self.register_parameter(name, nn.Parameter(torch.ones(4)))

        def forward(self, x):
            return self.a(x) * self.a_scale_with_a_long_name + self.an_offset_with_a_long_name

    def __init__(self):
        super().__init__()
        self.inner, self.last = EntersAtTheLeft.Inner(), nn.Linear(4, 4)

    def forward(self, x):
        return self.last(self.inner(x))


def test_titles_move_in_other_formats_too():
    graph = torchkutils.model_to_dot(EntersAtTheLeft(), expand_nested=True, input_size=(1, 4))
    svg = ElementTree.fromstring(graph.create(format="svg"))
    ((_, (left, *_)),) = title_boxes(svg)
    # PostScript has texts as they are: spaces before a title push it to where the SVG has it.
    (title,) = re.findall(r"\(( *)inner: Inner *\)", graph.create(format="ps").decode("latin-1"))
    assert len(title) == pytest.approx((left - 16) / (0.3 * 12), abs=3)
    assert len(title) > 3
