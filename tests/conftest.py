"""Fixtures that all tests share: golden files, one thread for torch, no home folder touched."""

from __future__ import annotations

import pathlib

import pytest
import torch

GOLDEN = pathlib.Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regold", action="store_true", help="write the golden files anew; read the diff afterwards")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two test workers share two cores: threads inside torch would only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def home_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the cache of whoever runs it."""
    monkeypatch.setenv("TORCHKUTILS_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("KERAS_HOME", raising=False)


@pytest.fixture
def golden(request: pytest.FixtureRequest):
    """A function that compares text with tests/golden/NAME; with --regold it writes the file instead."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--regold"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run pytest --regold and read what it wrote"
        assert text == path.read_text(encoding="utf-8")

    return compare
