"""Weights in files of safetensors, torch and Keras; what is none of these is named."""

from __future__ import annotations

import gzip
import json
import os
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from torchkutils import load_model, load_weights, save_weights

os.environ.setdefault("KERAS_BACKEND", "torch")


def body():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_safetensors_go_both_ways(tmp_path):
    source = body()
    source.add_module("narrow", nn.Linear(2, 2).bfloat16())
    source.add_module("tied", source[0])
    save_weights(source, tmp_path / "w.safetensors")
    theirs = safetensors.torch.load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(value, theirs[key]) for key, value in source.state_dict().items())
    safetensors.torch.save_file(body().state_dict(), tmp_path / "t.safetensors")
    model = body()
    load_weights(model, tmp_path / "t.safetensors")
    assert torch.equal(model[0].weight, safetensors.torch.load_file(tmp_path / "t.safetensors")["0.weight"])


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_a_checkpoint_of_torch_is_read(wrap, tmp_path):
    source, model = body(), body()
    torch.save(wrap(source.state_dict()), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert all(map(torch.equal, model.state_dict().values(), source.state_dict().values()))


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", "{}")


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.keras", archive, "a Keras 3 archive"),
        ("a.zip", lambda p: zipfile.ZipFile(p, "w").close(), "of an unknown kind|zip"),
        ("a.pt", lambda p: torch.save(nn.Linear(2, 2), p), "holds more than tensors"),
        ("a.pt", lambda p: torch.save([1, 2], p), "holds a list"),
        ("a.onnx", lambda p: p.write_bytes(b"\x08\x07\x12\x04test"), "an ONNX model"),
        ("a.txt", lambda p: p.write_text("hello world, some text"), "it is text"),
        ("a.gz", lambda p: p.write_bytes(gzip.compress(b"x")), "a gzip archive"),
        ("a.npy", lambda p: np.save(p, np.ones(2)), "a NumPy array"),
        ("a.h5", lambda p: p.write_bytes(b""), "it is empty"),
        ("a.pkl", lambda p: p.write_bytes(b"\x80\x04K\x01."), "a pickle"),
        ("a.safetensors", lambda p: p.write_bytes((1 << 35).to_bytes(8, "little") + b"{}"), "its header claims"),
    ],
)
def test_another_file_is_named(name, write, message, tmp_path):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(nn.Linear(2, 2), tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(ValueError, match=name):
        load_model(tmp_path / name)


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "header",
    [
        {"weight": {**ENTRY, "data_offsets": [0, 1 << 40]}},
        {"weight": {**ENTRY, "shape": [1 << 30, 1 << 30]}},
        {"weight": {**ENTRY, "dtype": "object"}},
        {"weight": [1]},
        {"weight": {**ENTRY, "data_offsets": [8, 24]}},
        [1],
        {f"w{n}": ENTRY for n in range(50)},
        {"weight": ENTRY, "more": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    ],
)
def test_a_hostile_header_is_refused(header, tmp_path):
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(ValueError, match=r"w\.safetensors"):
        load_weights(nn.Linear(2, 2, bias=False), tmp_path / "w.safetensors")


def test_tensors_without_elements_come_back(tmp_path):
    tensors = {"a": torch.ones(2), "b": torch.empty(0, 3), "c": torch.ones(1), "d": torch.empty(0)}
    save_weights(tensors, tmp_path / "w.safetensors")
    model = nn.ParameterDict({name: torch.zeros_like(tensor) for name, tensor in tensors.items()})
    load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(model[name], tensor) for name, tensor in tensors.items())


def test_what_safetensors_cannot_hold_is_named(tmp_path):
    for value, kind in (
        (torch.ones(2).to_sparse(), "torch.sparse_coo"),
        (torch.ones(2, dtype=torch.complex128), "complex128"),
    ):
        with pytest.raises(ValueError, match=f"a is nothing that a safetensors file can hold: .*{kind}"):
            save_weights({"a": value}, tmp_path / "w.safetensors")


# -- Keras -------------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.gru = nn.LSTM(6, 5, batch_first=True), nn.GRU(5, 4, batch_first=True)
        self.both = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
        self.rnn, self.norm = nn.RNN(6, 3, batch_first=True), nn.LayerNorm(3, eps=1e-3)
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)

    def forward(self, x):
        for layer in (self.lstm, self.gru, self.both, self.rnn):
            x = layer(x)[0]
        return self.two(self.one(self.norm(x)))


def keras_recurrent(layers):
    return [
        layers.Input((8, 6)), layers.LSTM(5, return_sequences=True), layers.GRU(4, return_sequences=True),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True)), layers.SimpleRNN(3, return_sequences=True),
        layers.LayerNormalization(), layers.Dense(3, name="mine"), layers.Dense(3, use_bias=False),
    ]  # fmt: skip


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3), nn.Conv2d(4, 8, 3, groups=4),
            nn.ConvTranspose2d(8, 2, 3), nn.PReLU(2), nn.GroupNorm(2, 2, eps=1e-3),
        )  # fmt: skip
        self.head = nn.Linear(72, 2)

    def forward(self, x):
        return self.head(self.layers(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1))


def keras_pictures(layers):
    return [
        layers.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(),
        layers.DepthwiseConv2D(3, depth_multiplier=2), layers.Conv2DTranspose(2, 3), layers.PReLU(shared_axes=[1, 2]),
        layers.GroupNormalization(2), layers.Flatten(), layers.Dropout(0.5), layers.Dense(2),
    ]  # fmt: skip


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.conv = nn.Embedding(7, 3), nn.Conv1d(3, 2, 2)

    def forward(self, x):
        return self.conv(self.table(x.long()).transpose(1, 2)).transpose(1, 2)


def keras_words(layers):
    return [layers.Input((5,)), layers.Embedding(7, 3), layers.Conv1D(2, 2)]


@pytest.fixture
def keras():
    return pytest.importorskip("keras")


def keras_model(keras, make):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(make(keras.layers))
    for weight in model.weights:
        if weight.dtype != "uint32":
            weight.assign(np.random.default_rng(len(weight.path)).random(weight.shape).astype("f4") * 0.5 + 0.1)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["w.weights.h5", "w.h5"])
@pytest.mark.parametrize(
    ("make", "build", "shape"),
    [
        (keras_recurrent, Recurrent, (2, 8, 6)),
        (keras_pictures, Pictures, (2, 8, 8, 3)),
        (keras_words, Words, (2, 5)),
    ],
)
def test_keras_weights_give_keras_outputs(make, build, shape, name, keras, tmp_path):
    theirs = keras_model(keras, make)
    (theirs.save_weights if "weights" in name else theirs.save)(tmp_path / name)
    model = build().eval()
    load_weights(model, tmp_path / name)
    data = np.random.default_rng(0).integers(0, 7, shape).astype("f4")
    wanted = theirs(data, training=False).detach().numpy()
    np.testing.assert_allclose(model(torch.from_numpy(data)).detach().numpy(), wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 3)), "holds 2 layers of kind 'dense', the model has 1"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.Conv1d(1, 1, 1)), "of kind"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(2, 3, bias=False)), "must have shape"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2, bias=False)), "must have shape"),
        (lambda: nn.Sequential(nn.MultiheadAttention(3, 1)), "no kind of Keras's"),
    ],
)
def test_keras_weights_that_do_not_fit_change_nothing(model, message, keras, tmp_path):
    theirs = keras_model(keras, lambda layers: [layers.Input((3,)), layers.Dense(3), layers.Dense(3, use_bias=False)])
    theirs.save_weights(tmp_path / "w.weights.h5")
    target = model()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(target, tmp_path / "w.weights.h5")
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
