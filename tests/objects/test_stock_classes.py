"""Every public class of torch.nn rebuilds from its config, or is refused by name."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from torchkutils import deserialize_keras_object, load_model, save_model, serialize_keras_object

CLASSES = sorted(name for name, kind in vars(nn).items() if inspect.isclass(kind) and issubclass(kind, nn.Module))

REFUSED = {"DataParallel": "belongs to its devices"} | {
    name: "no shape yet" for name in CLASSES if name.startswith("Lazy")
}

VALUES = {
    "input_size": 4, "hidden_size": 3, "num_chunks": 4, "in_features": 4, "out_features": 6, "in1_features": 4,
    "in2_features": 3, "n_classes": 10, "num_classes": 5, "cutoffs": [3, 6], "num_features": 4, "num_groups": 2,
    "num_channels": 4, "normalized_shape": [3, 4], "embed_dim": 4, "num_heads": 2, "d_model": 4, "nhead": 2,
    "num_embeddings": 5, "embedding_dim": 4, "in_channels": 4, "out_channels": 6, "kernel_size": 3, "output_size": 2,
    "norm_type": 2.0, "padding": 1, "value": 0.5, "threshold": 0.1, "groups": 2, "upscale_factor": 2,
    "downscale_factor": 2, "size": 5, "dim": 1, "unflattened_size": (2, 2), "num_layers": 2, "mode": "LSTM",
    "bias": True,
}  # fmt: skip


def make(name):
    """An instance with the plainest arguments its constructor needs."""
    kind = getattr(nn, name)
    if name in ("LSTM", "GRU", "RNN"):
        return kind(4, 3, bidirectional=True)
    if name in ("TransformerEncoder", "TransformerDecoder"):
        return kind(getattr(nn, name + "Layer")(4, 2, 8), 2)
    if name == "DataParallel":
        return kind(nn.Linear(2, 2))
    if name == "Transformer":
        return kind(4, 2, 1, 1, 8)
    needed = [
        p.name
        for p in list(inspect.signature(kind.__init__).parameters.values())[1:]
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if name.startswith("FractionalMaxPool"):
        needed.append("output_size")
    return kind(**{one: VALUES[one] for one in needed})


def same_state(model, again):
    first, second = model.state_dict(), again.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_torch_nn_comes_back_from_a_file_or_is_refused(name, tmp_path):
    model = make(name)
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            save_model(nn.Sequential(model), tmp_path / "m.h5")
        return
    save_model(model, tmp_path / "m.h5")
    again = load_model(tmp_path / "m.h5")
    assert type(again) is type(model)
    assert repr(again) == repr(model)
    assert same_state(model, again)
    assert repr(deserialize_keras_object(serialize_keras_object(model))) == repr(model)
