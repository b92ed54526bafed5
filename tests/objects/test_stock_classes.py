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


VARIANTS = [
    (lambda: nn.Linear(4, 3, bias=False), [(2, 4)]),
    (lambda: nn.Conv2d(2, 4, (3, 1), 2, (1, 0), groups=2, padding_mode="circular", bias=False), [(1, 2, 8, 8)]),
    (lambda: nn.Conv1d(2, 4, 3, padding="same", dilation=2), [(1, 2, 8)]),
    (lambda: nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, bias=False), [(1, 2, 5, 5)]),
    (lambda: nn.BatchNorm2d(3, momentum=None, affine=False), [(2, 3, 4, 4)]),
    (lambda: nn.BatchNorm1d(3, track_running_stats=False), [(4, 3)]),
    (lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), [(2, 3, 4, 4)]),
    (lambda: nn.LayerNorm((3, 4), elementwise_affine=False), [(2, 3, 4)]),
    (lambda: nn.LayerNorm(4, bias=False), [(2, 4)]),
    (lambda: nn.GroupNorm(2, 4, affine=False), [(2, 4, 3)]),
    (lambda: nn.LSTM(4, 6, 2, proj_size=3, bias=False, dropout=0.5), [(3, 2, 4)]),
    (lambda: nn.MultiheadAttention(4, 2, 0.3, bias=False, kdim=3, vdim=5), [(2, 1, 4), (3, 1, 3), (3, 1, 5)]),
    (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, add_zero_attn=True), [(2, 1, 4)] * 3),
    (lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.3, nn.functional.gelu, norm_first=True, bias=False), [(3, 1, 4)]),
    (lambda: nn.TransformerDecoderLayer(4, 2, 8, activation="gelu", batch_first=True), [(1, 3, 4)] * 2),
    (lambda: nn.Upsample(scale_factor=(2, 3), mode="bilinear", align_corners=True), [(1, 1, 2, 2)]),
    (lambda: nn.RReLU(0.2, 0.4), [(5, 5)]),
    (lambda: nn.AdaptiveAvgPool2d((None, 2)), [(1, 2, 4, 4)]),
    (lambda: nn.Softmax(dim=-2), [(3, 4)]),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(VARIANTS)))
def test_a_variant_gives_bit_equal_outputs_in_both_modes(number, tmp_path):
    build, shapes = VARIANTS[number]
    model = build()
    save_model(model, tmp_path / "m.h5")
    again = load_model(tmp_path / "m.h5")
    inputs = [torch.randn(shape) for shape in shapes]
    for mode in (True, False):
        outputs = []
        for one in (model, again):
            one.train(mode)
            torch.manual_seed(5)
            found = one(*inputs)
            outputs.append(found[0] if isinstance(found, tuple) else found)
        assert torch.equal(*outputs)
