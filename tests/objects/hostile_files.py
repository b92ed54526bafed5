"""Model files that were made to hurt: each entry writes one; all of them must be refused, soon and in little memory.

`python -m tests.objects.hostile_files FOLDER` writes them all, reads each in this process and prints what happened.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import resource
import sys
import time

import h5py
import numpy as np


def node(name, **config):
    return {"class_name": name, "config": config}


def sequential(*modules):
    return node("Sequential", modules={str(n): {"__module__": one} for n, one in enumerate(modules)})


LINEAR = node("Linear", in_features=3, out_features=2, bias=True)
TENSORS = {"weight": np.zeros((2, 3), "f4"), "bias": np.zeros(2, "f4")}
GROUP = {
    "lr": 0.001, "betas": {"__tuple__": [0.9, 0.999]}, "eps": 1e-8, "weight_decay": 0, "amsgrad": False,
    "maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None,
    "decoupled_weight_decay": False, "params": [0, 1],
}  # fmt: skip


def forge(path, architecture=LINEAR, tensors=TENSORS, names=None, index=None, after=None, version=1, **documents):
    """Write a file with right digests; `after` tampers with the open file."""
    entries = [
        {"name": key, "dtype": str(one.dtype), "shape": list(one.shape), "dataset": f"tensors/{key}"}
        for key, one in tensors.items()
    ]
    names = {key: key for key in tensors} if names is None else names
    whole = {"names": names, "frozen": [], "training": True, "flipped": [], "tensors": entries}
    whole |= index if isinstance(index, dict) else {}
    documents = {"index": index if isinstance(index, bytes) else whole, "architecture": architecture, **documents}
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.attrs["format"], file.attrs["format_version"] = np.bytes_("torchkutils"), version
        for key, value in documents.items():
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            file.attrs[f"{key}_sha256"] = np.bytes_(hashlib.sha256(data).hexdigest())
            file[key] = np.frombuffer(data, np.uint8)
        group = file.create_group("tensors")
        for key, one in tensors.items():
            group[key] = one
        if after:
            after(file)


def edited(*edits, root=LINEAR):
    return {"architecture": {**root, "edits": list(edits)}, "version": 2}


def optimizer(state, shapes=((2, 3), (2,))):
    return {"optimizer": {"class_name": "Adam", "shapes": [[list(one) for one in shapes]], "state": state}}


def doubled(times):
    inner = {**node("ReLU"), "id": 0}
    for number in range(times):
        inner = {**sequential(inner, {"shared": number}), "id": number + 1}
    return inner


def copied(times):
    layer = node("TransformerEncoderLayer", d_model=2, nhead=1, dim_feedforward=2)
    for _ in range(times):
        layer = node("TransformerEncoder", encoder_layer={"__module__": layer}, num_layers=20)
    return layer


def deep_type(file):
    kind = h5py.h5t.IEEE_F32LE
    for _ in range(4000):
        kind = h5py.h5t.array_create(kind, (1,))
    del file["tensors/weight"]
    h5py.h5d.create(file["tensors"].id, b"weight", kind, h5py.h5s.create_simple((2, 3)))


def many_names(count):
    tensors = {"w": np.zeros((1, 1), "f4"), "b": np.zeros(1, "f4")}
    keys = [(f"{n}.weight", "w") for n in range(count)] + [(f"{n}.bias", "b") for n in range(count)]
    layers = [node("Linear", in_features=1, out_features=1, bias=True)] * count
    return {"architecture": sequential(*layers), "tensors": tensors, "names": dict(keys)}


LONG_RANGE = {"__range__": [0, 2**31, 1]}
EQUAL_HASHES = [n * (2**61 - 1) for n in range(1, 20_000)]
LARGE = {**TENSORS, "big": np.zeros(250_000, "f4")}

HOSTILE = {
    "device": lambda p: forge(p, node("Linear", in_features=20000, out_features=20000, bias=False, device="cpu")),
    "device in a value": lambda p: forge(p, node("ReLU", inplace={"__device__": "cpu"}, device={"__device__": "cpu"})),
    "dtype": lambda p: forge(p, node("Linear", in_features=3, out_features=2, dtype={"__dtype__": "float64"})),
    "doubling": lambda p: forge(p, doubled(40)),
    "doubling, less": lambda p: forge(p, doubled(14)),
    "copies of copies": lambda p: forge(p, copied(6)),
    "layers": lambda p: forge(p, node("LSTM", input_size=1, hidden_size=1, num_layers=2**30)),
    "encoder layers": lambda p: forge(
        p, node("TransformerEncoder", encoder_layer={"__module__": copied(0)}, num_layers=2**30)
    ),
    "layers of one tensor": lambda p: forge(
        p,
        node("LSTM", input_size=1, hidden_size=1, num_layers=30000),
        {"t": np.zeros((4, 1), "f4")},
        {f"weight_ih_l{n}": "t" for n in range(30000)},
    ),
    "names of one tensor": lambda p: forge(p, **(many_names(8000) | {"names": {"x": "w"}})),
    "cutoffs": lambda p: forge(
        p,
        node("AdaptiveLogSoftmaxWithLoss", in_features=1, n_classes=70000, cutoffs=list(range(1, 60000)), div_value=1),
    ),
    "range as cutoffs": lambda p: forge(
        p, node("AdaptiveLogSoftmaxWithLoss", in_features=4, n_classes=2**31, cutoffs=LONG_RANGE)
    ),
    "range as sizes": lambda p: forge(p, node("Conv2d", in_channels=1, out_channels=1, kernel_size=LONG_RANGE)),
    "range in a list": lambda p: forge(p, node("LayerNorm", normalized_shape=[LONG_RANGE])),
    "range of parameters": lambda p: forge(p, node("ParameterList", values=LONG_RANGE), {}),
    "range of modules": lambda p: forge(p, node("ModuleList", modules=LONG_RANGE), {}),
    "many modules": lambda p: forge(p, sequential(*[node("ReLU")] * 20000)),
    "many empty modules": lambda p: forge(p, sequential(*[node("Sequential", modules={})] * 15000)),
    "empty lists": lambda p: forge(p, metadata=b"[" + b"[]," * (5 << 20) + b"[]]"),
    "empty lists, longer": lambda p: forge(p, metadata=b"[" + b"[]," * (30 << 20) + b"[]]"),
    "long index": lambda p: forge(p, index=b'{"tensors":[' + b"{}," * (4 << 20) + b"{}]}"),
    "deep lists": lambda p: forge(p, metadata=b"[" * 100000 + b"]" * 100000),
    "deep type": lambda p: forge(p, after=deep_type),
    "deep sequence": lambda p: forge(p, metadata=b'{"__tuple__":[' * 300 + b"1" + b"]}" * 300),
    "equal hashes": lambda p: forge(p, metadata={"__items__": [[one, 0] for one in EQUAL_HASHES]}),
    "equal hashes in a set": lambda p: forge(p, metadata={"__set__": EQUAL_HASHES}),
    "unhashable": lambda p: forge(p, metadata={"__set__": [[1]]}),
    "unknown tag": lambda p: forge(p, metadata={"__import__": "os"}),
    "pickle as bytes": lambda p: forge(p, node("ReLU", inplace={"__object__": ["os.system", {"command": "true"}]})),
    "class of builtins": lambda p: forge(p, node("ReLU", inplace={"__class__": "eval"})),
    "function by path": lambda p: forge(p, node("ReLU", inplace={"__function__": "os.system"})),
    "partial of a module": lambda p: forge(
        p, node("ReLU", inplace={"__partial__": [{"__module__": node("ReLU")}, [], {}]})
    ),
    "array of objects": lambda p: forge(p, metadata={"__array__": ["|O", [1], "AAAAAAAAAAA="]}),
    "array larger than it is": lambda p: forge(p, metadata={"__array__": ["<f4", [1 << 40], "AAAA"]}),
    "parameter dict": lambda p: forge(p, node("ParameterDict", parameters={"to": {"__function__": "relu"}}), {}),
    "parameter dict, dict": lambda p: forge(
        p, node("ParameterDict", parameters={"__items__": [["__dict__", {"a": 1}]]}), {}
    ),
    "module dict": lambda p: forge(p, node("ModuleDict", modules={"forward": {"__module__": node("ReLU")}}), {}),
    "library": lambda p: forge(p, node("timm:resnet18")),
    "tensor named often": lambda p: forge(
        p, tensors=LARGE, **optimizer({"state": {}, "param_groups": [], "x": [{"__tensor__": "big"}] * 30000})
    ),
    "no groups": lambda p: forge(p, **optimizer({})),
    "a list": lambda p: forge(p, **optimizer([1])),
    "params a number": lambda p: forge(p, **optimizer({"state": {}, "param_groups": [{**GROUP, "params": 3}]})),
    "params twice": lambda p: forge(p, **optimizer({"state": {}, "param_groups": [{**GROUP, "params": [7, 7]}]})),
    "params lists": lambda p: forge(p, **optimizer({"state": {}, "param_groups": [{**GROUP, "params": [[], {}]}]})),
    "text as number": lambda p: forge(p, **optimizer({"state": {}, "param_groups": [{**GROUP, "lr": "x"}]})),
    "short tuple": lambda p: forge(
        p, **optimizer({"state": {}, "param_groups": [{**GROUP, "betas": {"__tuple__": [1]}}]})
    ),
    "flag as text": lambda p: forge(p, **optimizer({"state": {}, "param_groups": [{**GROUP, "amsgrad": "x"}]})),
    "state a list": lambda p: forge(p, **optimizer({"state": [], "param_groups": [GROUP]})),
    "state of another shape": lambda p: forge(
        p,
        tensors={**TENSORS, "e": np.zeros(7, "f4")},
        **optimizer(
            {
                "state": {"__items__": [[0, {key: {"__tensor__": "e"} for key in ("step", "exp_avg", "exp_avg_sq")}]]},
                "param_groups": [GROUP],
            }
        ),
    ),
    "state without a part": lambda p: forge(
        p, **optimizer({"state": {"__items__": [[0, {"step": 1}]]}, "param_groups": [GROUP]})
    ),
    "state of text": lambda p: forge(
        p,
        **optimizer(
            {
                "state": {"__items__": [[0, {"step": "x", "exp_avg": "x", "exp_avg_sq": "x"}]]},
                "param_groups": [GROUP],
            }
        ),
    ),
    "view past the end": lambda p: forge(
        p,
        names={"weight": "v", "bias": "bias"},
        index={"views": {"v": {"of": "bias", "shape": [2, 3], "stride": [3, 1], "offset": 0}}},
    ),
    "view of a view": lambda p: forge(
        p,
        names={"weight": "v", "bias": "bias"},
        index={"views": {"v": {"of": "v", "shape": [2, 3], "stride": [3, 1], "offset": 0}}},
    ),
    "view that grows": lambda p: forge(
        p,
        node("Linear", in_features=30000, out_features=30000, bias=False),
        names={"weight": "v"},
        index={"views": {"v": {"of": "bias", "shape": [30000, 30000], "stride": [0, 0], "offset": 0}}},
    ),
    "sparse of nothing": lambda p: forge(
        p,
        names={"weight": "s", "bias": "bias"},
        index={"sparse": {"s": {"layout": "sparse_coo", "shape": [2, 3], "parts": {"indices": "x", "values": "bias"}}}},
    ),
    "sparse beyond its shape": lambda p: forge(
        p,
        tensors={**TENSORS, "i": np.full((2, 2), 99, "i8")},
        names={"weight": "s", "bias": "bias"},
        index={"sparse": {"s": {"layout": "sparse_coo", "shape": [2, 3], "parts": {"indices": "i", "values": "bias"}}}},
    ),
    "names of lists": lambda p: forge(p, index={"names": {"weight": ["weight"], "bias": "bias"}}),
    "flags of lists": lambda p: forge(p, index={"flipped": [[]]}),
    "edit of forward": lambda p: forge(p, **edited({"at": "", "set": {"forward": {"__function__": "relu"}}})),
    "edit of a class": lambda p: forge(p, **edited({"at": "", "set": {"__class__": {"__class__": "ReLU"}}})),
    "edit of hooks": lambda p: forge(p, **edited({"at": "", "set": {"_forward_hooks": {}}})),
    "edit of a method": lambda p: forge(p, **edited({"at": "", "child": {"__module__": LINEAR}})),
    "edit of an attribute as child": lambda p: forge(p, **edited({"at": "forward", "child": {"__module__": LINEAR}})),
    "edit nowhere": lambda p: forge(p, **edited({"at": "a.b", "set": {"x": 1}})),
    "edit of many": lambda p: forge(p, **edited(*[{"at": "x", "child": {"__module__": node("ReLU")}}] * 20000)),
    "edit in a circle": lambda p: forge(
        p, **edited({"at": "x", "child": {"same": ""}}, root=node("Module", modules={}))
    ),
    "edit that is none": lambda p: forge(p, **edited({"at": "", "call": "os.system"})),
    "edits of text": lambda p: forge(p, **edited("x")),
    "parametrized bomb": lambda p: forge(
        p,
        **edited(
            {"at": "", "parametrized": {"weight": [["orthogonal", "matrix_exp", True]]}},
            root=node("Linear", in_features=20000, out_features=20000, bias=False),
        ),
    ),
    "power iterations": lambda p: forge(
        p, **edited({"at": "", "parametrized": {"weight": [["spectral_norm", 2**30, 1e-12, 0]]}})
    ),
}  # fmt: skip


def read(path):
    """Whatever a user may do with a file; gives the first refusal."""
    import torch

    import torchkutils

    torchkutils.load_model(path)
    torchkutils.read_metadata(path)
    with h5py.File(path) as file:
        has_optimizer = "optimizer" in file
    if has_optimizer:
        model = torch.nn.Linear(3, 2)
        torchkutils.load_optimizer(path, torch.optim.Adam(model.parameters()))


def main(folder):
    import torch

    torch.set_num_threads(1)
    folder = pathlib.Path(folder)
    forge(folder / "good", metadata={"a": 1}, **optimizer({"state": {}, "param_groups": [GROUP]}))
    read(folder / "good")
    for name, write in HOSTILE.items():
        path = folder / name.replace(" ", "_")
        write(path)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        try:
            read(path)
            outcome = "accepted"
        except (ValueError, OSError) as error:
            outcome = "refused" if str(path) in str(error) else f"without path: {error}"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - start
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        print(name, outcome[:200].replace("\n", " "), grown, round(seconds, 2), sep="|")
        path.unlink()


if __name__ == "__main__":
    main(sys.argv[1])
