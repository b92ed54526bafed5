"""What the page about the command line shows is what the commands print."""

from __future__ import annotations

import contextlib
import pathlib
import re
import shlex
import sys

import pytest

from torchkutils.cli import main

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "command-line.md"
BLOCK = re.compile(r"^```text\n\$ torchkutils (?P<words>[^\n]*)\n(?P<shown>.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the documentation lies beside the sources, not in the wheel")


def printed(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with contextlib.suppress(SystemExit):
        main(shlex.split(words))
    out, err = capsys.readouterr()
    return "".join(f"{line.rstrip()}\n" for line in (out + err).splitlines())


def test_the_page_shows_what_is_printed(
    request: pytest.FixtureRequest,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    text = PAGE.read_text(encoding="utf-8")
    source = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert source is not None
    pathlib.Path("net.py").write_text(source[1], encoding="utf-8")
    try:
        now = {block["words"]: printed(block["words"], capsys) for block in BLOCK.finditer(text)}
    finally:
        sys.modules.pop("net", None)
    if request.config.getoption("--regold"):
        fresh = BLOCK.sub(lambda block: f"```text\n$ torchkutils {block['words']}\n{now[block['words']]}```", text)
        PAGE.write_text(fresh, encoding="utf-8")
        text = fresh
    shown = {block["words"]: block["shown"] for block in BLOCK.finditer(text)}
    assert len(shown) >= 8
    assert shown == now


def test_an_output_that_changed_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    block = BLOCK.search("```text\n$ torchkutils --version\ntorchkutils 99\n```\n")
    assert block is not None
    assert block["shown"] != printed(block["words"], capsys)
