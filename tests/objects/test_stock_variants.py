"""Constructor variants of torch.nn's classes give bit-equal outputs after a reload, in train and eval mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchkutils import load_model, save_model

ROW, MAP, SEQUENCE = [(3, 4)], [(2, 4, 8, 8)], [(3, 2, 4)]

# Class, arguments, keywords, shapes of the inputs.
VARIANTS = [
    *[(kind, (), {}, ROW) for kind in (
        nn.CELU, nn.ELU, nn.GELU, nn.GLU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity,
        nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.SiLU, nn.Sigmoid,
        nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Dropout, nn.AlphaDropout, nn.Flatten,
    )],
    (nn.CELU, (0.7,), {}, ROW), (nn.ELU, (0.3, False), {}, ROW), (nn.GELU, ("tanh",), {}, ROW),
    (nn.Hardtanh, (-0.2, 0.3), {}, ROW), (nn.LeakyReLU, (0.3,), {}, ROW), (nn.PReLU, (4, 0.1), {}, ROW),
    (nn.RReLU, (0.2, 0.4), {}, ROW), (nn.Softplus, (2, 0.5), {}, ROW), (nn.Threshold, (0.1, 7.0), {}, ROW),
    (nn.Softmax, (-2,), {}, ROW), (nn.Softmin, (1,), {}, ROW), (nn.LogSoftmax, (0,), {}, ROW),
    (nn.Softmax2d, (), {}, MAP), (nn.Dropout1d, (0.3,), {}, SEQUENCE), (nn.Dropout2d, (0.3,), {}, MAP),
    (nn.Dropout, (0.2,), {}, ROW), (nn.FeatureAlphaDropout, (0.3,), {}, MAP),
    (nn.Linear, (4, 3), {"bias": False}, ROW), (nn.Bilinear, (4, 4, 2), {"bias": False}, ROW * 2),
    (nn.Conv1d, (4, 6, 3), {"padding": "same", "dilation": 2}, [(2, 4, 8)]),
    (nn.Conv2d, (4, 6, (3, 1), 2, (1, 0)), {"groups": 2, "padding_mode": "circular", "bias": False}, MAP),
    (nn.Conv3d, (2, 3, 2), {}, [(1, 2, 3, 3, 3)]),
    (nn.ConvTranspose1d, (4, 2, 3, 2, 1, 1), {}, [(2, 4, 5)]),
    (nn.ConvTranspose2d, (4, 2, 3, 2, 1, 1), {"bias": False, "groups": 2}, MAP),
    (nn.ConvTranspose3d, (2, 3, 2), {}, [(1, 2, 3, 3, 3)]),
    (nn.BatchNorm1d, (4,), {"track_running_stats": False}, ROW),
    (nn.BatchNorm2d, (4,), {"momentum": None, "affine": False}, MAP), (nn.BatchNorm3d, (2, 0.1), {}, [(2, 2, 3, 3, 3)]),
    (nn.InstanceNorm1d, (2,), {}, SEQUENCE),
    (nn.InstanceNorm2d, (4,), {"affine": True, "track_running_stats": True}, MAP),
    (nn.LayerNorm, ((4,),), {"bias": False}, ROW), (nn.LayerNorm, ((3, 4),), {"elementwise_affine": False}, ROW),
    (nn.GroupNorm, (2, 4), {"affine": False}, MAP), (nn.RMSNorm, (4, 0.01), {}, ROW),
    (nn.LocalResponseNorm, (2,), {}, MAP),
    (nn.AvgPool1d, (2, 1, 1), {"count_include_pad": False}, SEQUENCE),
    (nn.AvgPool2d, ((2, 1),), {"divisor_override": 3}, MAP), (nn.MaxPool1d, (2,), {}, SEQUENCE),
    (nn.MaxPool2d, (3, 2, 1), {"ceil_mode": True, "dilation": 2}, MAP), (nn.LPPool2d, (2, 2), {"ceil_mode": True}, MAP),
    (nn.FractionalMaxPool2d, (2,), {"output_ratio": (0.5, 0.6)}, MAP), (nn.AdaptiveMaxPool2d, (3,), {}, MAP),
    (nn.AdaptiveAvgPool2d, ((None, 2),), {}, MAP), (nn.AdaptiveAvgPool1d, (2,), {}, SEQUENCE),
    (nn.ZeroPad2d, (1,), {}, MAP), (nn.ConstantPad1d, ((1, 2), 0.5), {}, SEQUENCE), (nn.ReflectionPad2d, (2,), {}, MAP),
    (nn.ReplicationPad1d, (1,), {}, SEQUENCE), (nn.CircularPad2d, ((1, 0, 2, 1),), {}, MAP),
    (nn.Upsample, (), {"scale_factor": (2, 3), "mode": "bilinear", "align_corners": True}, MAP),
    (nn.UpsamplingNearest2d, (), {"size": 5}, MAP), (nn.PixelShuffle, (2,), {}, MAP),
    (nn.PixelUnshuffle, (2,), {}, MAP),
    (nn.ChannelShuffle, (2,), {}, MAP), (nn.Fold, ((3, 3), (2, 2)), {}, [(1, 4, 4)]),
    (nn.Unfold, (2,), {"stride": 2}, MAP),
    (nn.Unflatten, (1, (2, 2)), {}, ROW), (nn.CosineSimilarity, (0, 0.1), {}, ROW * 2),
    (nn.PairwiseDistance, (1.0,), {"keepdim": True}, ROW * 2),
    (nn.RNN, (4, 3), {"nonlinearity": "relu", "batch_first": True}, SEQUENCE),
    (nn.LSTM, (4, 6, 2), {"proj_size": 3, "bias": False, "dropout": 0.5}, SEQUENCE),
    (nn.GRU, (4, 3, 2), {"bidirectional": True, "dropout": 0.2}, SEQUENCE),
    (nn.RNNCell, (4, 3), {"nonlinearity": "relu"}, ROW), (nn.LSTMCell, (4, 3), {"bias": False}, ROW),
    (nn.GRUCell, (4, 3), {}, ROW),
    (nn.MultiheadAttention, (4, 2, 0.3), {"bias": False, "kdim": 3, "vdim": 5}, [(2, 1, 4), (3, 1, 3), (3, 1, 5)]),
    (nn.MultiheadAttention, (4, 2), {"add_bias_kv": True, "add_zero_attn": True}, SEQUENCE * 3),
    (nn.TransformerEncoderLayer, (4, 2, 8, 0.3, nn.functional.gelu), {"norm_first": True, "bias": False}, SEQUENCE),
    (nn.TransformerDecoderLayer, (4, 2, 8), {"activation": "gelu", "batch_first": True}, SEQUENCE * 2),
    (nn.Transformer, (4, 2, 1, 2, 8), {"norm_first": True, "batch_first": True}, SEQUENCE * 2),
    (nn.MSELoss, ("none",), {}, ROW * 2), (nn.SmoothL1Loss, (), {"beta": 0.3, "reduction": "sum"}, ROW * 2),
    (nn.HuberLoss, ("sum", 0.2), {}, ROW * 2),
    (nn.CrossEntropyLoss, (torch.rand(4),), {"label_smoothing": 0.2}, ROW * 2),
    (nn.BCEWithLogitsLoss, (), {"pos_weight": torch.rand(4)}, ROW * 2),
    (nn.KLDivLoss, (), {"log_target": True}, ROW * 2),
    (nn.TripletMarginLoss, (0.5, 3.0), {"swap": True}, ROW * 3),
]  # fmt: skip


def outputs_of(model, inputs, training):
    model.train(training)
    torch.manual_seed(5)
    found = model(*inputs)
    return found if isinstance(found, tuple) else (found,)


def test_the_table_is_wide():
    assert len(VARIANTS) >= 73
    assert len({kind for kind, *_ in VARIANTS}) >= 69


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(VARIANTS)), ids=[f"{n} {v[0].__name__}" for n, v in enumerate(VARIANTS)])
def test_a_variant_gives_bit_equal_outputs_in_both_modes(number, tmp_path):
    kind, arguments, keywords, shapes = VARIANTS[number]
    model = kind(*arguments, **keywords)
    save_model(model, tmp_path / "m.h5")
    again = load_model(tmp_path / "m.h5")
    inputs = [torch.randn(shape) for shape in shapes]
    for training in (True, False):
        for one, other in zip(outputs_of(model, inputs, training), outputs_of(again, inputs, training), strict=True):
            assert (one is None and other is None) or all(map(torch.equal, *map(flat, (one, other))))


def flat(value):
    return value if isinstance(value, tuple) else (value,)
