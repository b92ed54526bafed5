"""Every public name refuses a wrong type, a wrong value and a missing file before it does anything."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import torchkutils as ku


class Batches(ku.Sequence):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        return index


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    with h5py.File("data.h5", "w") as file:
        file["x"] = np.arange(10.0)
        file["names"] = np.array([b"a", b"b"])
    pathlib.Path("text.h5").write_text("no HDF5")
    return tmp_path


LINEAR = nn.Linear(2, 1)
CASES: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("to_categorical type", lambda: ku.to_categorical("abc"), (TypeError, ValueError), "y"),
    ("to_categorical value", lambda: ku.to_categorical([0, -1]), ValueError, "-1"),
    ("to_categorical fraction", lambda: ku.to_categorical([1.9]), ValueError, "1.9"),
    ("to_categorical classes", lambda: ku.to_categorical([0, 3], 3), ValueError, "3"),
    ("to_categorical dtype", lambda: ku.to_categorical([0], dtype="bfloat16"), TypeError, "bfloat16"),
    ("normalize type", lambda: ku.normalize("abc"), TypeError, "x"),
    ("normalize axis", lambda: ku.normalize(np.ones(3), axis=4), (ValueError, IndexError), "axis"),
    ("CustomObjectScope type", lambda: ku.CustomObjectScope([("a", 1)]).__enter__(), TypeError, "mapping|dict"),
    ("CustomObjectScope name", lambda: ku.CustomObjectScope({1: 2}).__enter__(), TypeError, "1|string"),
    ("deserialize name", lambda: ku.deserialize_keras_object("Linaer"), ValueError, "Did you mean 'Linear'"),
    ("deserialize dict", lambda: ku.deserialize_keras_object({"config": {}}), ValueError, "class_name"),
    ("HDF5Matrix file", lambda: ku.HDF5Matrix("missing.h5", "x"), FileNotFoundError, "missing.h5"),
    ("HDF5Matrix data set", lambda: ku.HDF5Matrix("data.h5", "z"), (KeyError, ValueError, OSError), "names"),
    ("HDF5Matrix window", lambda: ku.HDF5Matrix("data.h5", "x", 5, 3), ValueError, "start"),
    ("HDF5Matrix end", lambda: ku.HDF5Matrix("data.h5", "x", 0, 11), ValueError, "end"),
    ("HDF5Matrix negative", lambda: ku.HDF5Matrix("data.h5", "x", -1), ValueError, "start"),
    ("HDF5Matrix dtype", lambda: ku.HDF5Matrix("data.h5", "names"), (TypeError, ValueError), "tensor"),
    ("HDF5Matrix index", lambda: ku.HDF5Matrix("data.h5", "x")[10], IndexError, "10"),
    ("HDF5Matrix key", lambda: ku.HDF5Matrix("data.h5", "x")["a"], TypeError, "str"),
    ("Sequence workers", lambda: Batches().loader(num_workers=-1), ValueError, "num_workers"),
    ("Sequence workers type", lambda: Batches().loader(num_workers="2"), TypeError, "num_workers"),
    ("OrderedEnqueuer type", lambda: ku.OrderedEnqueuer(iter([1, 2])), TypeError, "[Ss]equence"),
    ("ChunkShuffleSampler", lambda: ku.ChunkShuffleSampler("data.h5"), TypeError, "data"),
    ("get_file origin", lambda: ku.get_file("a", ""), ValueError, "origin"),
    ("get_file type", lambda: ku.get_file("a", 3), (TypeError, ValueError), "origin"),
    ("get_file hash", lambda: ku.get_file("a", "file:///x", file_hash="123"), ValueError, "hash"),
    ("get_file folder", lambda: ku.get_file("../a", "file:///x"), ValueError, r"\.\."),
    ("get_file missing", lambda: ku.get_file("a", "file:///no/such", retries=0), ku.DownloadError, "no/such"),
    ("validate_file missing", lambda: ku.validate_file("missing", "0" * 64), FileNotFoundError, "missing"),
    ("Progbar target", lambda: ku.Progbar(-2), ValueError, "target"),
    ("summarize type", lambda: ku.summarize(len), TypeError, "model"),
    ("summarize size", lambda: ku.summarize(LINEAR, input_size=(-1, 2)), ValueError, "-1"),
    ("summarize both", lambda: ku.summarize(LINEAR, input_size=(1, 2), input_data=torch.ones(2)), ValueError, "both"),
    ("summarize columns", lambda: ku.summarize(LINEAR, columns=["size"]), ValueError, "columns"),
    ("print_summary positions", lambda: ku.print_summary(LINEAR, positions=[0.5, 0.2, 1]), ValueError, "positions"),
    ("print_summary print_fn", lambda: ku.print_summary(LINEAR, print_fn=3), TypeError, "print_fn"),
    ("plot_model type", lambda: ku.plot_model("model"), TypeError, "model"),
    ("plot_model ending", lambda: ku.plot_model(LINEAR, "a.xyz"), ValueError, "xyz"),
    ("plot_model rankdir", lambda: ku.plot_model(LINEAR, rankdir="XX"), ValueError, "rankdir"),
    ("plot_model folder", lambda: ku.plot_model(LINEAR, "no/such/a.png"), OSError, "no/such"),
    ("model_to_dot dpi", lambda: ku.model_to_dot(LINEAR, dpi=0), ValueError, "dpi"),
    ("multi_gpu_model type", lambda: ku.multi_gpu_model("model", 2), TypeError, "model"),
    ("multi_gpu_model gpus", lambda: ku.multi_gpu_model(LINEAR, 1), ValueError, "For multi-gpu usage to be effective"),
    ("multi_gpu_model ids", lambda: ku.multi_gpu_model(LINEAR, [0]), ValueError, "len\\(gpus\\) >= 2"),
    ("multi_gpu_model there", lambda: ku.multi_gpu_model(LINEAR, 99), ValueError, "we expect the following devices"),
    ("save_model type", lambda: ku.save_model({"a": 1}, "m.h5"), TypeError, "model"),
    ("save_model folder", lambda: ku.save_model(LINEAR, "no/such/m.h5"), OSError, "no/such"),
    ("load_model missing", lambda: ku.load_model("missing.h5"), FileNotFoundError, "missing.h5"),
    ("load_model file", lambda: ku.load_model("text.h5"), (ValueError, OSError), "text.h5"),
    ("load_model other", lambda: ku.load_model("data.h5"), ValueError, "data.h5"),
    ("load_weights missing", lambda: ku.load_weights(LINEAR, "missing.h5"), FileNotFoundError, "missing.h5"),
    ("read_metadata missing", lambda: ku.read_metadata("missing.h5"), FileNotFoundError, "missing.h5"),
]


@pytest.mark.parametrize(("call", "error", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_input_is_named_and_nothing_is_written(
    call: Callable[[], Any], error: Any, words: str, folder: pathlib.Path
) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(error, match=words):
        call()
    assert sorted(folder.rglob("*")) == before
