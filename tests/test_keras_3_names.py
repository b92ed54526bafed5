"""Every function that Keras 3 has too takes the arguments that it takes, under its names."""

from __future__ import annotations

import inspect
import io
import os
import pathlib
from typing import Any

import numpy as np
import pytest

import torchkutils
from torchkutils import CustomObjectScope, Progbar, custom_object_scope, deserialize_keras_object, get_custom_objects

os.environ.setdefault("KERAS_BACKEND", "torch")

# Given to a call that is refused only for another reason: binding alone would not see what a decorator takes.
ACCEPTED: dict[str, dict[str, Any]] = {
    "deserialize_keras_object": {"config": "relu", "safe_mode": True},
    "image_dataset_from_directory": {"format": "grain"},
    "split_dataset": {"preferred_backend": "torch"},
    "text_dataset_from_directory": {"format": "tf"},
    "timeseries_dataset_from_array": {"format": "tf"},
    "to_categorical": {"x": [0, 1]},
    "Progbar": {"unit_name": "image"},
}
NOT_HERE: dict[str, set[str]] = {
    # What older programs pass; Keras itself refuses most of it.
    "deserialize_keras_object": {"kwargs"},
    "plot_model": {"kwargs"},
    "model_to_dot": {"kwargs"},
}


@pytest.fixture(scope="module")
def keras_utils() -> Any:
    return pytest.importorskip("keras").utils


def arguments_of(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}


def test_every_argument_of_keras_3_is_taken(keras_utils: Any) -> None:
    missing = {}
    for name in sorted(set(dir(keras_utils)) & set(torchkutils.__all__)):
        ours, kerass = getattr(torchkutils, name), getattr(keras_utils, name)
        taken = arguments_of(ours) | set(ACCEPTED.get(name, {})) | NOT_HERE.get(name, set())
        pairs = [(name, arguments_of(kerass) - taken)]
        if inspect.isclass(kerass):
            pairs += methods_missing(name, kerass, ours)
        missing.update({where: sorted(lacking) for where, lacking in pairs if lacking})
    assert missing == {}


def methods_missing(name: str, kerass: type, ours: type) -> list[tuple[str, set[str]]]:
    methods = [method for method, value in vars(kerass).items() if callable(value) and not method.startswith("_")]
    return [
        (
            f"{name}.{method}",
            arguments_of(getattr(kerass, method)) - arguments_of(getattr(ours, method))
            if hasattr(ours, method)
            else {"the method itself"},
        )
        for method in methods
    ]


def test_what_decorators_take_is_taken(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "text.txt").write_text("words")
    folder = {"directory": tmp_path, "verbose": False}
    needed: dict[str, dict[str, Any]] = {
        "split_dataset": {"dataset": np.arange(4), "left_size": 2},
        "text_dataset_from_directory": folder,
        "timeseries_dataset_from_array": {"data": np.arange(5), "targets": None, "sequence_length": 2},
        "Progbar": {"target": 2},
    }
    for name, given in ACCEPTED.items():
        if name != "image_dataset_from_directory":
            getattr(torchkutils, name)(**needed.get(name, {}), **given)
    pytest.importorskip("PIL")
    with pytest.raises(ValueError, match="no file"):
        torchkutils.image_dataset_from_directory(**folder, format="grain")
    with pytest.raises(ValueError, match=r"format must be one of 'tf', 'grain' .* got 'torch'"):
        torchkutils.text_dataset_from_directory(**folder, format="torch")


def test_one_argument_under_two_names_is_refused() -> None:
    with pytest.raises(TypeError, match="y and x, which are the same; give one"):
        torchkutils.to_categorical(y=[0], x=[0])


@pytest.mark.parametrize("scope", [CustomObjectScope, custom_object_scope])
def test_a_scope_takes_its_mapping_by_keyword(scope: Any) -> None:
    with scope(custom_objects={"net": dict}):
        assert get_custom_objects()["net"] is dict
    with pytest.raises(TypeError, match=r"custom_objects must be dicts from names to objects, got .<class 'dict'>"):
        scope(custom_objects=[dict])


def test_metrics_may_be_shown_as_they_are_by_default() -> None:
    log = io.StringIO()
    bar = Progbar(2, stateless_metrics=["loss"], unit_name="image", file=log)
    bar.add(1, [("loss", 1.0), ("rate", 1.0)])
    bar.add(1, [("loss", 3.0), ("rate", 3.0)])
    bar.close()
    assert log.getvalue().strip().endswith("/image - loss: 2.0000 - rate: 3.0000")
    with pytest.raises(ValueError, match="stateful_metrics or stateless_metrics, not both"):
        Progbar(2, stateful_metrics=["loss"], stateless_metrics=["loss"])


def test_the_signature_shows_one_spelling() -> None:
    assert next(iter(inspect.signature(deserialize_keras_object).parameters)) == "identifier"
    assert "x" not in inspect.signature(torchkutils.to_categorical).parameters
