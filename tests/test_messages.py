"""Mistakes that people make: each message names the argument, what was given and the way out."""

from __future__ import annotations

import pathlib
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import torchkutils as ku


class Batches(ku.Sequence):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return np.ones((4, 2), np.float32)


LINEAR = nn.Linear(2, 3)
IMAGES = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A file of each kind that people mistake for another."""
    folder = tmp_path_factory.mktemp("mistakes")
    ku.save_model(LINEAR, folder / "model.h5")
    ku.save_weights(LINEAR, folder / "weights.h5")
    ku.save_weights(LINEAR, folder / "weights.safetensors")
    torch.save(LINEAR.state_dict(), folder / "checkpoint.pt")
    torch.save(LINEAR, folder / "whole.pt")
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", "")
    (folder / "page.h5").write_text("<!DOCTYPE html>")
    (folder / "empty.h5").write_bytes(b"")
    with h5py.File(folder / "data.h5", "w") as file:
        file["x"] = np.arange(10.0)
    return folder


@pytest.fixture(autouse=True)
def inside(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def named(name: str) -> Callable[[], Any]:
    return lambda: ku.deserialize_keras_object(name)


Case = tuple[Callable[[], Any], type[Exception], str]

FILES: list[Case] = [
    (lambda: ku.load_model("model.keras"), ValueError, "model.keras is a Keras 3 archive.* use a file written by save"),
    (
        lambda: ku.load_model("checkpoint.pt"),
        ValueError,
        "checkpoint.pt is a torch checkpoint.*build the model and use",
    ),
    (lambda: ku.load_model("weights.safetensors"), ValueError, "is a safetensors file.*use load_weights"),
    (lambda: ku.load_model("page.h5"), ValueError, "page.h5 is text, no model file.*use a file written by save_model"),
    (lambda: ku.load_model("empty.h5"), ValueError, "empty.h5 is empty.*use a file written by save_model"),
    (lambda: ku.load_model("weights.h5"), ValueError, "weights.h5: it holds weights alone; build the model and use"),
    (lambda: ku.load_model("data.h5"), ValueError, "data.h5 is no model file of torchkutils; use a file written by"),
    (
        lambda: ku.load_weights(LINEAR, "whole.pt"),
        ValueError,
        r"whole.pt: .*a whole model.*torch.save\(model.state_dict",
    ),
    (
        lambda: ku.load_weights(LINEAR, "model.keras"),
        ValueError,
        "model.keras: .*unzip it and give its model.weights.h5",
    ),
    (lambda: ku.save_model(LINEAR, "new.pt"), ValueError, r"path must not end in .pt, got 'new.pt': .*write .h5"),
    (
        lambda: ku.save_model(LINEAR, "new.keras"),
        ValueError,
        "path must not end in .keras, got 'new.keras': .*write .h5",
    ),
    (lambda: ku.save_model(LINEAR, "new.safetensors"), ValueError, "got 'new.safetensors': .*save_weights writes it"),
    (lambda: ku.save_weights(LINEAR, "new.pth"), ValueError, "path must not end in .pth, got 'new.pth': .*write .h5"),
    (
        lambda: ku.HDF5Matrix("x", "data.h5"),
        FileNotFoundError,
        "no file 'x'; dataset 'data.h5' is one, .*other way roun",
    ),
    (lambda: ku.HDF5Matrix("data.h5", "X"), KeyError, r"no dataset 'X' in .*data.h5'; it holds \['x'\]"),
    (lambda: ku.get_file("http://h/x.zip"), ValueError, r"origin must be a URL.*fname holds one.*get_file\(origin=…\)"),
    (lambda: ku.get_file("http://h/x.zip", "x.zip"), ValueError, r"got 'x.zip', .*write get_file\(fname, origin\)"),
    (lambda: ku.get_file("x", "/tmp/x"), ValueError, "origin must be a URL with a protocol .file:///….* got '/tmp/x'"),
]

ARGUMENTS: list[Case] = [
    (
        lambda: ku.plot_model(IMAGES, (None, 3, 8, 8)),
        TypeError,
        r"to_file .*did you mean input_size=\(None, 3, 8, 8\)\?",
    ),
    (lambda: ku.print_summary(IMAGES, (1, 3, 8, 8)), ValueError, r"line_length .*mean input_size=\(1, 3, 8, 8\)\?"),
    (lambda: ku.print_summary(IMAGES, torch.ones(1, 3, 8, 8)), ValueError, "got Tensor of shape .*mean input_data=?"),
    (
        lambda: ku.summarize(IMAGES, (1, 3, 8, 8)),
        TypeError,
        r"takes 1 positional argument, got 2; did you mean input_s",
    ),
    (
        lambda: ku.summarize(IMAGES, input_shape=(1, 3, 8, 8)),
        TypeError,
        "no argument 'input_shape'; did you mean 'input_",
    ),
    (lambda: ku.summarize(IMAGES, col_names=["params"]), TypeError, "no argument 'col_names'; did you mean 'columns'"),
    (lambda: ku.summarize(LINEAR, columns="params"), ValueError, r"columns .*got 'params'; write \['params'\]"),
    (
        lambda: ku.summarize(LINEAR, columns=["param"]),
        ValueError,
        r"columns .*got \['param'\]; did you mean 'params'\?",
    ),
    (lambda: ku.summarize(LINEAR, input_size=2), TypeError, r"input_size .*got 2; did you mean \(None, 2\)\?"),
    (
        lambda: ku.summarize(LINEAR, input_size=torch.ones(1, 2)),
        TypeError,
        "Tensor .*mean input_data=",
    ),
    (
        lambda: ku.summarize(nn.Linear),
        TypeError,
        r"model .*got the class Linear; give an instance of it: Linear\(...\)",
    ),
    (lambda: ku.summarize("model.h5"), TypeError, "model .*got str 'model.h5'; give the model that was loaded from it"),
    (
        lambda: ku.summarize(LINEAR, mode="training"),
        ValueError,
        "mode must be 'eval', 'train' or 'same', got 'training'",
    ),
    (
        lambda: ku.save_model("m.h5", LINEAR),
        TypeError,
        "model .*got the path 'm.h5'; model and path are the other way ro",
    ),
    (lambda: ku.save_model(nn.Linear, "m.h5"), TypeError, r"model .*got the class Linear; give an instance of it"),
    (
        lambda: ku.save_model(LINEAR, "m.h5", {"a": 1}),
        TypeError,
        "takes 2 positional arguments, got 3; give {'a': 1} by",
    ),
    (
        lambda: ku.save_model(LINEAR, "m.h5", optimizer=torch.optim.SGD),
        TypeError,
        "optimizer .*the class SGD; give an in",
    ),
    (
        lambda: ku.load_weights("m.h5", LINEAR),
        TypeError,
        "model .*got the path 'm.h5'; model and path are the other way",
    ),
    (
        lambda: ku.load_model("model.h5", map_location="cpu"),
        TypeError,
        "no argument 'map_location'; did you mean 'device'",
    ),
    (lambda: ku.load_model("model.h5", custom_objects=[nn.ReLU]), TypeError, r"custom_objects .*write {'ReLU': ReLU}"),
    (lambda: ku.load_model("model.h5", custom_objects=nn.ReLU), TypeError, r"custom_objects .*write {'ReLU': ReLU}"),
    (
        lambda: ku.CustomObjectScope([nn.ReLU]),
        TypeError,
        r"custom_objects must be dicts from names to objects, got \[<cla",
    ),
    (lambda: ku.register_keras_serializable(nn.ReLU), TypeError, r"write @register_keras_serializable\(\)"),
    (lambda: Batches().loader(batch_size=3), TypeError, "no argument 'batch_size'; __getitem__ gives whole batches"),
    (lambda: Batches().loader(workers="thread"), ValueError, r"workers must be one of \['processes', .* got 'thread'"),
    (lambda: ku.Progbar(range(3)), ValueError, r"target .*got range\(0, 3\); its length is 3"),
    (lambda: ku.multi_gpu_model(LINEAR, 1), ValueError, r"`gpus=1`; devices=\['cpu', 'cpu'\] runs the same code"),
    (
        lambda: ku.split_dataset(np.arange(4)),
        ValueError,
        "left_size or right_size must be given: a fraction in .0, 1. or",
    ),
]

ARGUMENTS += [
    (lambda: ku.model_to_dot(IMAGES, (1, 3, 8, 8)), TypeError, r"show_shapes .*did you mean input_size=\(1, 3, 8, 8\)"),
    (lambda: ku.plot_model(IMAGES, None, input_shape=(1, 3)), TypeError, "'input_shape'; did you mean 'input_size'"),
]

VALUES: list[Case] = [
    (
        lambda: ku.summarize(LINEAR, input_size=(1, 2), dtypes="flaot32"),
        TypeError,
        "dtypes .*'flaot32'; did you mean 'float3",
    ),
    (lambda: ku.to_categorical([0], dtype="flot32"), TypeError, "dtype .*got 'flot32'; did you mean 'float32'"),
    (lambda: ku.pad_sequences([[1]], dtype="itn32"), TypeError, "dtype .*got 'itn32'; did you mean 'int32'"),
    (lambda: ku.load_model("model.h5", dtype="bflaot16"), TypeError, "dtype .*got 'bflaot16'; did you mean 'bfloat16'"),
    (
        lambda: ku.to_categorical(["cat"]),
        ValueError,
        r"y must hold whole numbers, got text .*numpy.unique\(y, return_inv",
    ),
    (
        lambda: ku.to_categorical([1, 2, 3], 3),
        ValueError,
        r"lie in \[0, 3\), got 3 at index 2; num_classes=4 has a place",
    ),
    (
        lambda: ku.normalize([1.0], order="l2"),
        TypeError,
        "order must be a real number, got 'l2'; 2 is the Euclidean nor",
    ),
    (named("rmsprop"), ValueError, r"Did you mean 'RMSprop'\? \(lr for learning_rate, alpha for rho"),
    (named("linear"), ValueError, "'linear'. Did you mean 'Identity' as an activation, 'Linear' as a layer"),
    (named("categorical_crossentropy"), ValueError, r"Did you mean 'cross_entropy'\? \(takes logits .* no softmax"),
    (named("mse"), ValueError, r"'mse'. Did you mean 'mse_loss' or 'MSELoss'\?"),
    (named("hard_silu"), ValueError, r"'hard_silu'. Did you mean 'hardswish'\?"),
    (named("Linaer"), ValueError, r"'Linaer'. Did you mean 'Linear'\?"),
    (
        lambda: ku.deserialize_keras_object({"class_name": "Dense", "config": {"units": 3}}),
        ValueError,
        "in_features and out",
    ),
    (
        lambda: ku.save_model(LINEAR, "m.h5", metadata={"a": object()}),
        ValueError,
        r"metadata\['a'\] must be a plain value",
    ),
    (
        lambda: ku.serialize_keras_object(lambda x: x),
        ValueError,
        "obj must have a name of its own, got a lambda; use def",
    ),
]

# What people bring along from Keras 2 and 3, scikit-learn and NumPy.
HABITS: list[Case] = [
    (lambda: ku.to_categorical([0, 1], n_classes=2), TypeError, "no argument 'n_classes'; did you mean 'num_classes'"),
    (lambda: ku.to_categorical([0, None]), TypeError, "y must hold whole numbers, got None at index 1"),
    (
        lambda: ku.to_categorical([[0], [1, 2]]),
        ValueError,
        r"y must be rectangular, .*got lists of unequal .*\[1, 2\]\]",
    ),
    (lambda: ku.to_categorical([0], 1, nn.Linear), TypeError, "dtype must name a dtype, got the class Linear"),
    (lambda: ku.to_categorical([0], "3"), TypeError, "num_classes must be an integer or None, got '3'"),
    (lambda: ku.normalize([1, 2], ord=2), TypeError, "no argument 'ord'; did you mean 'order'"),
    (lambda: ku.normalize(None), TypeError, "x must hold numbers, got None"),
    (lambda: ku.normalize([1, 2], "l2"), TypeError, "axis must be an integer, .* got 'l2'"),
    (lambda: ku.pad_sequences([[1]], max_len=3), TypeError, "no argument 'max_len'; did you mean 'maxlen'"),
    (lambda: ku.pad_sequences([["a"]]), ValueError, "row 0 holds the text 'a', which dtype int32 .*give dtype=object"),
    (lambda: ku.pad_sequences([[1]], padding="right"), ValueError, "padding must be 'pre' or 'post', got 'right'"),
    (lambda: ku.Progbar(9, stateful_metrics="acc"), TypeError, r"must be lists of names, got a text; write \['acc'\]"),
    (
        lambda: ku.Progbar(9, verbose=0).update("3"),
        TypeError,
        r"got '3' and None; write update\(3, \[\('loss', 0.5\)\]\)",
    ),
    (lambda: ku.Progbar(9, verbose=0).update(1, 0.5), TypeError, r"got 1 and 0.5; write update\(3, \[\('loss'"),
    (lambda: ku.HDF5Matrix("data.h5", "x", as_tensor="float32"), TypeError, "as_tensor must be True .*got 'float32'"),
    (lambda: ku.HDF5Matrix("data.h5", "x", normalizer=255), TypeError, "normalizer must be a function .*got 255"),
    (lambda: ku.HDF5Matrix("data.h5", "x", -5), ValueError, "start and end must not be negative, got start=-5"),
    (lambda: ku.HDF5Matrix("data.h5", "x", 0, 99), ValueError, "end must lie within the data set's 10 rows, got 99"),
    (lambda: ku.get_file("a.zip", None), ValueError, "origin must be a URL such as 'https://host/file.zip', got None"),
    (
        lambda: ku.get_file("a.zip", "example.org/a.zip"),
        ValueError,
        "origin .*with a protocol .*got 'example.org/a.zip'",
    ),
    (lambda: ku.get_file("a", "http://h/a", file_hash="abc"), ValueError, "file_hash must be .*'abc' of 3 characters"),
    (lambda: ku.get_file("a", "http://h/a", archive_format="rar"), ValueError, "archive_format must be .* got 'rar'"),
    (lambda: ku.get_file("a", "http://h/a", mirrors="http://h/b"), ValueError, "mirrors must be a list .*'http://h/b'"),
    (lambda: ku.validate_file("data.h5", None), ValueError, "file_hash must be hexadecimal digits .*got None"),
    (
        lambda: ku.save_model(LINEAR.state_dict(), "m.h5"),
        TypeError,
        r"got a dict; save_weights\(tensors, path\) stores",
    ),
    (
        lambda: ku.save_model(LINEAR, "m.h5", save_format="h5"),
        TypeError,
        "no argument 'save_format'; there is one: HDF5",
    ),
    (lambda: ku.save_model(LINEAR, "m.h5", optimizer="adam"), TypeError, "optimizer must be .*Optimizer .*got 'adam'"),
    (lambda: ku.load_model("model.h5", compile=False), TypeError, "no argument 'compile'; torch.compile.* compiles it"),
    (lambda: ku.load_model("model.h5", device="gpu"), ValueError, "device .*got 'gpu'; did you mean 'cuda'"),
    (lambda: ku.load_model("https://h/m.h5"), ValueError, "path must be local, got the URL https://h/m.h5; .*fsspec"),
    (
        lambda: ku.load_weights(LINEAR, "weights.h5", by_name=True),
        TypeError,
        "no argument 'by_name'; strict=False loads what both have",
    ),
    (lambda: ku.plot_model(LINEAR, "x.xyz"), ValueError, "to_file ends in .xyz; it must be one of .dot, .html, .png"),
    (lambda: ku.plot_model(LINEAR, None, rankdir="lr"), ValueError, "rankdir must be one of TB, BT, LR, RL; got 'lr'"),
    (lambda: ku.plot_model(LINEAR, None, show_layers=True), TypeError, "'show_layers'; did you mean 'show_layer_nam"),
    (lambda: ku.plot_model([LINEAR]), TypeError, r"got a list of 1 values; give one module, or torch.nn.Sequential"),
    (lambda: ku.print_summary(LINEAR, print_fn="print"), TypeError, "print_fn must be callable, got str"),
    (lambda: ku.print_summary(LINEAR.state_dict()), TypeError, "got a state dict .*build the model, call load_state"),
    (lambda: ku.multi_gpu_model(LINEAR, "2"), ValueError, r"Received: `gpus='2'`"),
    (lambda: ku.multi_gpu_model(nn.Linear, 2), TypeError, r"model must be .*got the class Linear; give an instance"),
    (lambda: ku.multi_gpu_model(LINEAR, devices="cpu"), TypeError, r"got 'cpu'; write \['cpu', ...\]"),
    (lambda: Batches().loader(use_multiprocessing=True), TypeError, "'use_multiprocessing'; did you mean 'workers'"),
    (lambda: Batches().loader(rank=0), ValueError, "rank=0 needs world_size, an int or 'auto'"),
    (named("glorot_uniform"), ValueError, r"Did you mean torch.nn.init.xavier_uniform_, which fills a tensor in place"),
    (named("Conv2D"), ValueError, r"Did you mean 'Conv2d'\? \(in_channels and out_channels for filters"),
    (lambda: ku.split_dataset([1, 2, 3], "50%"), TypeError, "left_size must be a fraction or a number .*got '50%'"),
    (lambda: ku.print_sumary, AttributeError, "no attribute 'print_sumary'; did you mean 'print_summary'"),
]

WITHOUT_A_GPU: list[Case] = [
    (
        lambda: ku.load_model("model.h5", device="cuda"),
        ValueError,
        "device .*got 'cuda'.*device='cpu' works everywhere",
    ),
    (
        lambda: ku.multi_gpu_model(LINEAR, devices=["cuda", "cuda"]),
        ValueError,
        r"devices .*'cuda'.*\['cpu', 'cpu'\] runs",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), FILES + ARGUMENTS + VALUES + HABITS)
def test_a_mistake_is_told_with_the_way_out(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("call", "error", "words"), WITHOUT_A_GPU)
def test_a_gpu_that_is_not_there_is_told(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        (
            IMAGES,
            {"input_data": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)},
            r"The inputs are uint8: .*x\.float\(\) / 255",
        ),
        (
            LINEAR,
            {"input_data": torch.zeros(1, 2, dtype=torch.float64)},
            r"The inputs are float64: .*give x\.float\(\)",
        ),
        (IMAGES, {"input_size": (None, 8, 8, 3)}, r"\(2, 8, 8, 3\) .*the batch axis first, then the channels"),
        (IMAGES, {"input_data": torch.zeros(1, 8, 8, 3)}, r"The channels stand last; .*x\.movedim\(-1, 1\)"),
        (LINEAR, {"input_data": (1, 2)}, r"input_data holds numbers alone; did you mean input_size=\(1, 2\)\?"),
        (LINEAR, {"input_size": {"x": (1, 2)}}, r"forward has no argument 'x'; it takes \(input\)"),
        (IMAGES, {"input_size": (3, 8)}, r"Inputs were made from input_size: \(3, 8\).*the batch axis first"),
    ],
)
def test_an_error_of_forward_has_a_note(model: nn.Module, given: dict[str, Any], words: str) -> None:
    with pytest.raises((RuntimeError, TypeError)) as caught:
        ku.summarize(model, **given)
    assert words_in(words, " ".join(caught.value.__notes__))


def words_in(pattern: str, text: str) -> bool:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)
    return True


def test_a_data_loader_of_whole_batches_says_what_to_do() -> None:
    with pytest.warns(UserWarning, match=r"DataLoader\(Batches\) makes batches of whole batches; give batch_size=None"):
        next(iter(DataLoader(Batches())))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert next(iter(DataLoader(Batches(), batch_size=None))).shape == (4, 2)


def test_what_looks_like_a_mistake_and_is_none_is_taken(tmp_path: pathlib.Path) -> None:
    ku.save_model(LINEAR, tmp_path / "m.h5", metadata={"loss": np.float64(0.5), "rate": torch.tensor(2.0)})
    assert ku.read_metadata(tmp_path / "m.h5") == {"loss": 0.5, "rate": 2.0}
    ku.Progbar(1, verbose=0).update(1, {"loss": 1.0})
    assert ku.summarize(LINEAR, input_data=np.ones((1, 2))).rows[0].output_shapes == "(1, 3)"


def test_there_are_twice_forty() -> None:
    assert len(FILES + ARGUMENTS + VALUES + WITHOUT_A_GPU) >= 40
    assert len(HABITS) >= 40
