"""What `import torchkutils` offers, name by name."""

from __future__ import annotations

import importlib.metadata
import inspect
import pathlib

import pytest

import torchkutils
from torchkutils._public_names import PUBLIC_NAMES, stub

# Keras 2.3.1's arguments, in its order: a Keras call runs unchanged.
KERAS_ARGUMENTS = {
    "to_categorical": ["y", "num_classes", "dtype"],
    "normalize": ["x", "axis", "order"],
    "HDF5Matrix": ["datapath", "dataset", "start", "end", "normalizer"],
    "get_file": [
        "fname", "origin", "untar", "md5_hash", "file_hash", "cache_subdir", "hash_algorithm", "extract",
        "archive_format", "cache_dir",
    ],
    "validate_file": ["fpath", "file_hash", "algorithm", "chunk_size"],
    "Progbar": ["target", "width", "verbose", "interval", "stateful_metrics"],
    "print_summary": ["model", "line_length", "positions", "print_fn"],
    "plot_model": ["model", "to_file", "show_shapes", "show_layer_names", "rankdir", "expand_nested", "dpi"],
    "model_to_dot": ["model", "show_shapes", "show_layer_names", "rankdir", "expand_nested", "dpi", "subgraph"],
    "multi_gpu_model": ["model", "gpus", "cpu_merge", "cpu_relocation"],
    "OrderedEnqueuer": ["sequence", "use_multiprocessing", "shuffle"],
    "GeneratorEnqueuer": ["sequence", "use_multiprocessing", "wait_time", "random_seed"],
    "deserialize_keras_object": ["identifier", "module_objects", "custom_objects", "printable_module_name"],
    "serialize_keras_object": ["obj"],
}  # fmt: skip


def test_the_public_names_are_pinned_and_sorted(golden) -> None:
    assert torchkutils.__all__ == sorted(PUBLIC_NAMES)
    golden("public_names.txt", "".join(f"{name}\n" for name in torchkutils.__all__))


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_a_public_name_says_what_it_is(name: str) -> None:
    assert len(inspect.getdoc(getattr(torchkutils, name)) or "") > 60


@pytest.mark.parametrize("name", sorted(KERAS_ARGUMENTS))
def test_keras_arguments_come_first_and_in_order(name: str) -> None:
    parameters = inspect.signature(getattr(torchkutils, name)).parameters.values()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    assert positional == KERAS_ARGUMENTS[name]


def test_type_checkers_read_the_same_names(request: pytest.FixtureRequest) -> None:
    path = pathlib.Path(torchkutils.__file__).with_suffix(".pyi")
    if request.config.getoption("--regold"):
        path.write_text(stub(), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == stub()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'to_categorial'"):
        torchkutils.to_categorial


def test_the_version_is_the_distribution_s() -> None:
    assert torchkutils.__version__ == importlib.metadata.version("torchkutils")
