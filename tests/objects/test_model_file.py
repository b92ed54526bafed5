"""Models to files and back; files of strangers."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import struct
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from torchkutils import (
    custom_object_scope,
    load_model,
    load_optimizer,
    load_weights,
    read_metadata,
    register_keras_serializable,
    save_model,
    save_weights,
)
from torchkutils.objects.describe import describe_model_file


@register_keras_serializable("ModelFileTests")
class Recorded(nn.Module):
    def __init__(self, width=3, *, rate=0.5, activation=torch.relu, inner=None):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("scratch", torch.arange(3), persistent=False)
        self.rate, self.activation, self.inner = rate, activation, inner

    def forward(self, x):
        x = self.activation(self.second(self.first(x))) * self.scale * self.rate
        return x if self.inner is None else self.inner(x)


class Configured(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width, self.layer = width, nn.Linear(width, width)

    def get_config(self):
        return {"width": self.width}


def same_outputs(model, again, *inputs):
    for mode in (True, False):
        outputs = []
        for one in (model, again):
            one.train(mode)
            torch.manual_seed(3)
            found = one(*inputs)
            outputs.append(found[0] if isinstance(found, tuple) else found)
        assert torch.equal(*outputs)


def parts():
    shared = nn.ReLU()
    return {
        "nested": (nn.Sequential(nn.Sequential(nn.Linear(4, 6), shared), nn.Dropout(0.4), nn.Linear(6, 2), shared), 4),
        "batch norm": (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False), nn.PReLU(4)), 4),
        "lstm": (nn.LSTM(4, 3, 2, dropout=0.2, bidirectional=True), 4),
        "gru": (nn.GRU(4, 3, batch_first=True), 4),
        "rnn": (nn.RNN(4, 3, nonlinearity="relu"), 4),
        "encoder": (nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2, nn.LayerNorm(4)), 4),
        "recorded": (Recorded(4, rate=0.25, inner=nn.Sequential(nn.Linear(4, 4), nn.Dropout())), 4),
        "bfloat16": (nn.Sequential(nn.Linear(4, 4)).bfloat16(), 4),
        "double": (nn.Linear(4, 4).double(), 4),
    }


@pytest.mark.parametrize("name", list(parts()))
def test_a_model_comes_back_with_equal_outputs(name, tmp_path):
    model, width = parts()[name]
    state = torch.get_rng_state()
    save_model(model, tmp_path / "m.h5")
    again = load_model(tmp_path / "m.h5")
    assert torch.equal(torch.get_rng_state(), state)
    same_outputs(model, again, torch.randn(3, 5, width, dtype=next(model.parameters()).dtype)[:, 0])


def test_shared_modules_tied_tensors_and_flags_come_back(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), Recorded(3))
    model.append(model[0])
    model[1].weight = model[0].weight
    model[2].eval()
    model[0].bias.requires_grad_(False)
    save_model(model, tmp_path / "m.h5")
    again = load_model(tmp_path / "m.h5")
    assert again[3] is again[0]
    assert again[1].weight is again[0].weight
    assert again[2].first.weight is again[2].second.weight
    assert not again[2].training
    assert again.training
    assert not again[0].bias.requires_grad
    with h5py.File(tmp_path / "m.h5") as file:
        assert np.array_equal(file["tensors/0.weight"][()], model[0].weight.detach())
        assert "1.weight" not in file["tensors"]


DTYPES = (
    "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 complex128 float8_e4m3fn float8_e5m2"
)


@pytest.mark.parametrize("dtype", DTYPES.split())
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_every_dtype_round_trips_bit_for_bit(dtype, shape, tmp_path):
    module, other = nn.Module(), nn.Module()
    kind = getattr(torch, dtype)
    value = torch.randint(0, 2, shape, dtype=torch.uint8).to(kind)
    module.register_buffer("value", value)
    other.register_buffer("value", torch.zeros(shape, dtype=torch.uint8).to(kind))
    save_weights(module, tmp_path / "w.h5")
    load_weights(other, tmp_path / "w.h5")
    assert other.value.dtype == kind
    assert bytes(other.value.contiguous().view(-1).view(torch.uint8).numpy()) == bytes(
        value.contiguous().view(-1).view(torch.uint8).numpy()
    )


@pytest.mark.parametrize(
    "make",
    [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), torch.optim.Adam, torch.optim.AdamW],
    ids=["momentum", "Adam", "AdamW"],
)
def test_the_next_step_after_a_reload_is_the_one_without_it(make, tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer, data = make(model.parameters()), torch.randn(5, 3)

    def step(net, by):
        by.zero_grad()
        net(data).square().sum().backward()
        by.step()

    step(model, optimizer)
    save_model(model, tmp_path / "m.h5", optimizer=optimizer)
    again = load_model(tmp_path / "m.h5")
    resumed = make(again.parameters())
    load_optimizer(tmp_path / "m.h5", resumed)
    step(model, optimizer)
    step(again, resumed)
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    with pytest.raises(ValueError, match="optimizer must be a"):
        load_optimizer(tmp_path / "m.h5", torch.optim.Rprop(again.parameters()))


def test_a_schedulers_state_fits_into_the_metadata(tmp_path):
    model = nn.Linear(1, 1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD(model.parameters()), [2, 2, 5])
    save_model(model, tmp_path / "m.h5", metadata={"scheduler": scheduler.state_dict(), "best": float("inf")})
    assert read_metadata(tmp_path / "m.h5") == {"scheduler": scheduler.state_dict(), "best": float("inf")}


def hooked():
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda *_: None)
    return model


def changed():
    model = Recorded()
    model.activation = lambda x: x
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Sequential(nn.ReLU(), hooked()), r"^1 has hooks"),
        (changed, "the model was changed after it was built: attribute 'activation'"),
        (lambda: Recorded(activation=lambda x: x), "argument activation must be known by name"),
        (lambda: nn.Sequential(type("Own", (nn.Module,), {})()), "neither a torch.nn class nor registered"),
        (lambda: nn.LazyLinear(2), "no shape yet|without shapes"),
        (lambda: nn.Linear(2, 2, device="meta"), "meta device"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_and_the_old_file_stays(model, message, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        save_model(model(), path)
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["m.h5"]


def test_a_class_with_get_config_is_found_in_a_scope(tmp_path):
    save_model(Configured(3), tmp_path / "m.h5")
    with pytest.raises(ValueError, match="Unknown module class: 'Configured'"):
        load_model(tmp_path / "m.h5")
    with custom_object_scope({"Configured": Configured}):
        assert load_model(tmp_path / "m.h5").width == 3
    with pytest.raises(ValueError, match="must name a module class"):
        load_model(tmp_path / "m.h5", custom_objects={"Configured": print})


def test_load_weights_names_what_differs_and_changes_nothing(tmp_path):
    save_weights(nn.Linear(2, 3), tmp_path / "w.h5")
    model = nn.Linear(3, 3)
    before = model.weight.clone()
    with pytest.raises(ValueError, match="shape"):
        load_weights(model, tmp_path / "w.h5")
    with pytest.raises(ValueError, match="strict=False"):
        load_weights(nn.Sequential(nn.Linear(2, 3)), tmp_path / "w.h5")
    assert torch.equal(model.weight, before)


def write_twice(path, change):
    """Save a model, then let `change` tamper with the open file."""
    save_model(nn.Linear(3, 2), path, metadata="kept")
    with h5py.File(path, "r+") as file:
        change(file, path)


def instead(name, make):
    def change(file, path):
        del file[name]
        make(file, path)

    return change


def external_link(file, path):
    file["tensors"] = h5py.ExternalLink(str(path.with_name("other.h5")), "/")


def external_storage(file, path):
    outside = path.with_name("outside.bin")
    outside.write_bytes(bytes(24))
    file.create_dataset("tensors/weight", (2, 3), "f4", external=[(str(outside), 0, 24)])


def virtual(file, path):
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[...] = h5py.VirtualSource(str(path.with_name("other.h5")), "x", (2, 3))
    file.create_virtual_dataset("tensors/weight", layout)


HOSTILE = {
    "external link": instead(
        "tensors", lambda f, p: f.__setitem__("tensors", h5py.ExternalLink(str(p.with_name("other.h5")), "/"))
    ),
    "soft link": instead("tensors/weight", lambda f, p: f.__setitem__("tensors/weight", h5py.SoftLink("/index"))),
    "cycle": instead("tensors/weight", lambda f, p: f.__setitem__("tensors/weight", f["tensors"])),
    "external storage": instead("tensors/weight", external_storage),
    "virtual": instead("tensors/weight", virtual),
    "chunks": instead("tensors/weight", lambda f, p: f.create_dataset("tensors/weight", (2, 3), "f4", chunks=True)),
    "shape bomb": instead("tensors/weight", lambda f, p: f.create_dataset("tensors/weight", (10**6, 10**6), "f4")),
    "no storage": instead("tensors/weight", lambda f, p: f.create_dataset("tensors/weight", (2, 3), "f4")),
    "wrong dtype": instead("tensors/weight", lambda f, p: f.create_dataset("tensors/weight", data=np.zeros((2, 3)))),
    "format of the wrong type": lambda f, p: f.attrs.__setitem__("format", [1, 2, 3]),
    "newer version": lambda f, p: f.attrs.__setitem__("format_version", 99),
    "text changed": lambda f, p: f["architecture"].__setitem__(20, 65),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_tampered_file_is_refused_with_its_path(name, tmp_path):
    path = tmp_path / "m.h5"
    write_twice(path, HOSTILE[name])
    with pytest.raises((ValueError, OSError), match=r"m\.h5"):
        load_model(path)


def forged(path, architecture):
    """A file whose architecture is any JSON text, with a right digest."""
    import hashlib

    save_model(nn.Linear(3, 2), path)
    with h5py.File(path, "r+") as file:
        del file["architecture"]
        file["architecture"] = np.frombuffer(architecture.encode(), np.uint8)
        file.attrs["architecture_sha256"] = np.bytes_(hashlib.sha256(architecture.encode()).hexdigest())


def node(name, **config):
    import json

    return json.dumps({"class_name": name, "config": config})


@pytest.mark.parametrize(
    "architecture",
    [
        node("Linear", in_features=10**6, out_features=10**6),
        node("Linear", in_features=10**12, out_features=1),
        node("LSTM", input_size=1, hidden_size=1, num_layers=2**31),
        node("Linear", in_features=2**31, out_features=2**31),
        node("Embedding", num_embeddings=2**31, embedding_dim=2**31),
        node("Conv2d", in_channels=10**6, out_channels=10**6, kernel_size=[1000, 1000]),
        node("LayerNorm", normalized_shape=[2**31, 2**31]),
        node("MultiheadAttention", embed_dim=10**6, num_heads=1),
        node("TransformerEncoderLayer", d_model=2**20, nhead=1),
        node("AdaptiveLogSoftmaxWithLoss", in_features=2, n_classes=2**31, cutoffs=[1, 2]),
        node("Transformer", num_encoder_layers=2**31),
        node("os.system", command="true"),
        node("system"),
        node("relu"),
        node("Adam"),
        "[" * 10000 + "]" * 10000,
        '{"class_name":"ReLU","class_name":"ReLU","config":{}}',
        '{"class_name":3,"config":[]}',
        '{"shared":0}',
        "null",
        "{",
        "NaN",
        node("Linear", in_features={"__module__": 3}, out_features=1),
        node("ReLU", inplace={"__unknown__": 1}),
    ],
)
def test_a_hostile_architecture_allocates_nothing(architecture, tmp_path):
    path = tmp_path / "m.h5"
    forged(path, architecture)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"m\.h5"):
        load_model(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_a_keras_file_is_refused_by_name(tmp_path):
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file.attrs["keras_version"] = "2.3.1"
    with pytest.raises(ValueError, match="Keras model file"):
        load_model(tmp_path / "k.h5")


@pytest.mark.slow
def test_a_file_cut_or_flipped_anywhere_raises_or_is_the_same_model(tmp_path):
    path, damaged = tmp_path / "m.h5", tmp_path / "damaged.h5"
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    save_model(model, path)
    whole, draw = path.read_bytes(), random.Random(1)
    with h5py.File(path) as file:
        tensors = [(d.id.get_offset(), d.nbytes) for d in file["tensors"].values()]
    for _ in range(50):
        damaged.write_bytes(whole[: draw.randrange(len(whole))])
        with pytest.raises((ValueError, OSError), match=r"damaged\.h5"):
            load_model(damaged)
    places = [i for i in range(len(whole)) if not any(start <= i < start + size for start, size in tensors)]
    for place in draw.sample(places, 200):
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :])
        try:
            again = load_model(damaged)
        except (ValueError, OSError) as error:
            assert "damaged.h5" in str(error)  # noqa: PT017
        else:
            assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.h5"
    save_model(nn.Linear(2, 2), path)
    before = path.read_bytes()
    script = (
        "import resource, sys, torch, torchkutils\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n    torchkutils.save_model(torch.nn.Linear(1000, 1000), sys.argv[1])\n"
        "except OSError:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["m.h5"]


def test_the_description_shows_classes_tensors_and_metadata(tmp_path):
    save_model(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), tmp_path / "m.h5", metadata={"epoch": 7})
    text = describe_model_file(tmp_path / "m.h5")
    for wanted in (
        "Sequential",
        "in_features=3",
        "0.weight",
        "(2, 3)",
        "2 tensors, 8 elements, 32 bytes",
        '"epoch": 7',
    ):
        assert wanted in text


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel], ids=["compiled", "dp"])
def test_a_wrapped_model_saves_as_its_template(wrap, tmp_path):
    template = nn.Linear(2, 2)
    save_model(wrap(template), tmp_path / "m.h5")
    again = load_model(tmp_path / "m.h5")
    assert type(again) is nn.Linear
    assert torch.equal(again.weight, template.weight)


def test_a_model_under_distributed_data_parallel_saves_as_its_template(tmp_path):
    import torch.distributed as dist

    template = nn.Linear(2, 2)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        save_model(nn.parallel.DistributedDataParallel(template), tmp_path / "m.h5")
        other = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
        load_weights(other, tmp_path / "m.h5")
    finally:
        dist.destroy_process_group()
    again = load_model(tmp_path / "m.h5")
    assert type(again) is nn.Linear
    assert torch.equal(again.weight, template.weight)
    assert torch.equal(other.module.weight, template.weight)


def test_loading_counts_as_a_change_of_the_parameters(tmp_path):
    model = nn.Linear(2, 2)
    save_weights(model, tmp_path / "w.h5")
    before = model.weight._version
    load_weights(model, tmp_path / "w.h5")
    assert model.weight._version > before


# Loads each file of a folder and says: which one, how it went, what else was opened, how much memory it took.
OPENER = """
import pathlib, resource, sys, torch, torchkutils
folder = pathlib.Path(sys.argv[1])
torchkutils.load_model(folder / "good" / "m.h5")
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
for path in sorted(folder.glob("*/m.h5")):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del opened[:]
    try:
        torchkutils.load_model(path)
        outcome = "loaded"
    except (ValueError, OSError) as error:
        outcome = "refused" if str(path) in str(error) else str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    foreign = [one for one in opened if not one.endswith((".py", ".pyc"))]
    print(path.parent.name, outcome, foreign, grown < 50 * 1024, sep="|")
"""


def test_a_tampered_file_opens_no_other_file_and_allocates_little(tmp_path):
    save_model(nn.Linear(3, 2), path_in(tmp_path, "good"))
    for name, change in HOSTILE.items():
        write_twice(path_in(tmp_path, name), change)
    done = subprocess.run([sys.executable, "-c", OPENER, str(tmp_path)], capture_output=True, text=True)
    lines = sorted(done.stdout.splitlines())
    wanted = dict.fromkeys(HOSTILE, "refused") | {"good": "loaded"}
    assert lines == sorted(f"{name}|{outcome}|[]|True" for name, outcome in wanted.items()), done.stderr


def path_in(folder, name):
    (folder / name).mkdir()
    return folder / name / "m.h5"


class OpenedNames:
    """The names in a folder that anyone opens, the HDF5 library too: the kernel's own notice (Linux)."""

    def __init__(self, folder):
        library = ctypes.CDLL(None, use_errno=True)
        self.handle = library.inotify_init1(os.O_NONBLOCK)
        assert library.inotify_add_watch(self.handle, os.fsencode(folder), 0x20) >= 0  # IN_OPEN

    def read(self):
        found = set()
        while True:
            try:
                events = os.read(self.handle, 1 << 16)
            except BlockingIOError:
                return found
            place = 0
            while place < len(events):
                _, _, _, length = struct.unpack_from("iIII", events, place)
                found.add(events[place + 16 : place + 16 + length].rstrip(b"\0").decode())
                place += 16 + length


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify")
@pytest.mark.parametrize("name", ["external link", "external storage", "virtual"])
def test_the_other_file_a_hostile_one_points_at_is_never_opened(name, tmp_path):
    path = tmp_path / "m.h5"
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = other["weight"] = np.ones((2, 3), np.float32)
    write_twice(path, HOSTILE[name])
    opened = OpenedNames(tmp_path)
    with pytest.raises(ValueError, match=r"m\.h5"):
        load_model(path)
    assert opened.read() == {"m.h5"}
    with h5py.File(path) as file:
        file["tensors/weight"][()]
    assert opened.read() > {"m.h5"}, "h5py itself follows it, and the notice sees that"
    os.close(opened.handle)


def test_a_model_nested_too_deeply_is_refused_before_a_byte_is_written(tmp_path):
    model = nn.Linear(2, 2)
    for _ in range(300):
        model = nn.Sequential(model)
    with pytest.raises(ValueError, match=r"nested at most 100 levels deep.*torchkutils\.save_weights\(model, path\)"):
        save_model(model, tmp_path / "deep.h5")
    assert list(tmp_path.iterdir()) == []
