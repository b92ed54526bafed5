"""docs/benchmarks.md says what benchmarks/results hold, and no page claims a speed without pointing there."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
if not (ROOT / "benchmarks").exists():
    pytest.skip("the benchmarks lie in the sources only", allow_module_level=True)

matplotlib = pytest.importorskip("matplotlib")

from benchmarks import make_page  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
AGAIN = "run `python -m benchmarks.make_page` and read what it changed"
CLAIM = re.compile(
    r"\d ?(?:ms|µs)\b|\bfast(?:er)? (?:as|than)\b|\bslower\b|\btimes (?:as|faster|cheaper)\b"
    r"|\d ?× (?:as|faster|cheaper)\b|\b(?:half|twice) the time\b|\bcosts what\b",
    re.IGNORECASE,
)
"""What reads like a speed."""


def claims_without_a_source(text: str) -> list[str]:
    """The lines that claim a speed and link to no figure; code is no claim, nor is a page that names its benchmark."""
    if re.search(r"benchmarks/(?:results/\w+\.json|bench_\w+\.py)", text):
        return []
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [line for line in prose.splitlines() if CLAIM.search(line) and "benchmarks.md" not in line]


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return make_page.drawn()


def test_the_page_is_what_the_results_give(drawn: dict[str, str]) -> None:
    assert drawn[make_page.PAGE] == (ROOT / "docs" / make_page.PAGE).read_text(encoding="utf-8"), AGAIN


def test_the_readme_s_table_is_what_the_results_give() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert make_page.readme() == text, AGAIN
    labels = set(re.findall(r"\]\[(benchmarks\.md(?:#\w+)?)\]", text))
    assert {label for label in labels if f"\n[{label}]: https://" not in text} == set()


# What matplotlib names by a hash of its path, and coordinates.
NAME = re.compile(r"\b[mp][0-9a-f]{10}\b")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def test_the_plots_are_what_the_results_give(drawn: dict[str, str]) -> None:
    plots = {name for name in drawn if name.endswith(".svg")}
    stored = {f"{make_page.IMAGES}/{path.name}" for path in (ROOT / "docs" / make_page.IMAGES).glob("*.svg")}
    assert plots == stored, AGAIN
    drawn_by = re.search(r"Matplotlib v([\d.]+)", (ROOT / "docs" / sorted(plots)[0]).read_text(encoding="utf-8"))
    if drawn_by is None or drawn_by[1] != matplotlib.__version__:
        pytest.skip(f"the plots were drawn by matplotlib {drawn_by and drawn_by[1]}, here is {matplotlib.__version__}")
    for name in plots:
        stored_plot = (ROOT / "docs" / name).read_text(encoding="utf-8")
        drawn_plot, stored_plot = NAME.sub("name", drawn[name]), NAME.sub("name", stored_plot)
        assert NUMBER.sub("#", drawn_plot) == NUMBER.sub("#", stored_plot), f"{name}: {AGAIN}"
        # Versions of NumPy differ in the last digit of a coordinate.
        places, stored_places = [[float(n) for n in NUMBER.findall(svg)] for svg in (drawn_plot, stored_plot)]
        assert places == pytest.approx(stored_places, abs=0.001), f"{name}: {AGAIN}"


def test_each_benchmark_has_results_and_each_result_a_benchmark() -> None:
    programs = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    results = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    benches = {name.removeprefix("bench_") for name in programs if name.startswith("bench_")}
    assert benches <= results, "run `make bench ONLY=…` for what is missing"
    assert results <= benches | programs, "remove the results of programs that are gone"


def test_a_changed_figure_changes_the_page(monkeypatch: pytest.MonkeyPatch, drawn: dict[str, str]) -> None:
    found = make_page.subjects()
    subject = next(subject for subject in found if any(not row.floor for row in subject.comparisons))
    rows = [ratio for row in subject.document["results"] for ratio in row.get("ratios", {}).values()]
    next(ratio for ratio in rows if not ratio.get("floor"))["ratio_of_medians"] *= 1.5
    monkeypatch.setattr(make_page, "subjects", lambda: found)
    again = make_page.drawn()
    changed = {name for name in drawn if again[name] != drawn[name]}
    assert changed == {make_page.PAGE, *(f"{make_page.IMAGES}/{name}.svg" for name in ("overview", subject.name))}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_speed_that_is_claimed_links_to_its_figures(page: pathlib.Path) -> None:
    if page.name == make_page.PAGE:
        return
    found = claims_without_a_source(page.read_text(encoding="utf-8"))
    assert found == [], "link to benchmarks.md#subject, or remove it"


@pytest.mark.parametrize("line", ["It takes 3 ms.", "Ten times faster!", "as fast as NumPy", "0.3 × as long", "12 µs"])
def test_a_claim_without_a_source_is_seen(line: str) -> None:
    assert claims_without_a_source(f"# Title\n{line}\n```\n5 ms\n```\n") == [line]
    assert claims_without_a_source(f"{line} [measured](benchmarks.md#hdf5)") == []
    assert claims_without_a_source(f"Drawn from `benchmarks/results/hdf5.json`.\n{line}") == []


def test_links_into_the_page_lead_to_a_subject() -> None:
    text = (ROOT / "docs" / make_page.PAGE).read_text(encoding="utf-8")
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)}
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    links = {link for page in pages for link in re.findall(r"benchmarks\.md#([\w-]+)", page)}
    assert links
    assert links <= anchors
