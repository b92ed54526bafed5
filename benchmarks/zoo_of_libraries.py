"""Models of libraries beside torchvision, timm and transformers, for `make zoo`: small, with random weights.

The libraries lie in a folder of their own, `.venv/zoo` (`make zoo` fills it), installed without what they depend on, so
that nothing of the project's own environment changes.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.models.vision import vision_library

FOLDER = pathlib.Path(sys.prefix) / "zoo"
Made = tuple[nn.Module, dict[str, Any]]


def library(name: str) -> Any:
    """A library of that folder; some of them import torchvision and timm."""
    vision_library("torchvision")
    vision_library("timm")
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    __import__(name)
    return sys.modules[name]


# -- detection, of torchvision -------------------------------------------------------------------------------------


def plain_nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Non-maximum suppression in Python: torchvision's own operator is compiled, and absent on a build for CPUs."""
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        box = boxes[index]
        others = boxes[kept]
        corner, opposite = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
        shared = (opposite - corner).clamp(min=0).prod(1)
        areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
        if not bool((shared > iou_threshold * (areas - shared)).any()):
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


def detector(name: str) -> Made:
    """A detection model, which takes a list of images of different sizes."""
    torchvision = vision_library("torchvision")
    if not torchvision.extension._has_ops():
        torchvision.ops.boxes._assert_has_ops = lambda: None
        operators = torch.library.Library("torchvision", "FRAGMENT")
        operators.impl("nms", plain_nms, "CPU", allow_override=True)
        _kept.append(operators)
    options: dict[str, Any] = {"topk_candidates": 20}
    if "rcnn" in name:
        options = {"rpn_pre_nms_top_n_test": 20, "rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5}
    if "ssd" not in name:
        options |= {"min_size": 64, "max_size": 96}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, **options)
    return model, {"images": [torch.rand(3, 64, 64), torch.rand(3, 64, 80)]}


# What was registered with torch stays as long as the object does.
_kept: list[Any] = []
DETECTORS = (
    *("fasterrcnn_mobilenet_v3_large_320_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"),
    *("retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large"),
)

# -- diffusers -----------------------------------------------------------------------------------------------------

_BLOCKS = {"layers_per_block": 1, "norm_num_groups": 4, "block_out_channels": (8, 16), "sample_size": 16}
_BOTH = {"in_channels": 3, "out_channels": 3}
_DOWN, _UP = ("DownEncoderBlock2D", "DownEncoderBlock2D"), ("UpDecoderBlock2D", "UpDecoderBlock2D")
_CODED = {**_BOTH, "down_block_types": _DOWN, "up_block_types": _UP, "latent_channels": 4}
_ATTENTION = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
DIFFUSERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "UNet2DModel": (
        {
            **_BLOCKS,
            **_BOTH,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        },
        {"sample": torch.rand(1, 3, 16, 16), "timestep": 1},
    ),
    "UNet2DConditionModel": (
        {
            **_BLOCKS,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 12,
            "attention_head_dim": 4,
        },
        {"sample": torch.rand(1, 4, 16, 16), "timestep": 1, "encoder_hidden_states": torch.rand(1, 5, 12)},
    ),
    "AutoencoderKL": ({**_BLOCKS, **_CODED}, {"sample": torch.rand(1, 3, 16, 16)}),
    "VQModel": ({**_BLOCKS, **_CODED, "num_vq_embeddings": 16}, {"sample": torch.rand(1, 3, 16, 16)}),
    "DiTTransformer2DModel": (
        {**_ATTENTION, "in_channels": 4, "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 10},
        {
            "hidden_states": torch.rand(1, 4, 8, 8),
            "timestep": torch.tensor([1]),
            "class_labels": torch.tensor([1]),
        },
    ),
    "PixArtTransformer2DModel": (
        {
            **_ATTENTION,
            "in_channels": 4,
            "out_channels": 8,
            "sample_size": 8,
            "patch_size": 2,
            "cross_attention_dim": 16,
            "caption_channels": 12,
            "use_additional_conditions": False,
        },
        {
            "hidden_states": torch.rand(1, 4, 8, 8),
            "encoder_hidden_states": torch.rand(1, 5, 12),
            "timestep": torch.tensor([1]),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    ),
}


def diffuser(name: str) -> Made:
    """A part of a diffusion pipeline."""
    options, inputs = DIFFUSERS[name]
    return getattr(library("diffusers"), name)(**options), dict(inputs)


# -- segmentation_models_pytorch -----------------------------------------------------------------------------------

SEGMENTATION = ("Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3Plus", "Linknet", "MAnet", "Segformer", "UPerNet")


def segmentation(name: str) -> Made:
    """A decoder over an encoder without weights."""
    kind = getattr(library("segmentation_models_pytorch"), name)
    return kind("resnet18", encoder_weights=None, classes=2), {"x": torch.rand(1, 3, 64, 64)}


# -- graphs, of PyG ------------------------------------------------------------------------------------------------

GRAPHS = ("GCN", "GraphSAGE", "GAT", "GIN", "EdgeCNN", "PNA")


def graph_network(name: str) -> Made:
    """A graph network of two layers on a ring of six nodes."""
    kind = getattr(library("torch_geometric").nn.models, name)
    options = {"aggregators": ["mean", "max"], "scalers": ["identity"], "deg": torch.tensor([0, 0, 6])}
    model = kind(8, 16, num_layers=2, out_channels=4, **(options if name == "PNA" else {}))
    nodes = torch.arange(6)
    edges = torch.stack([torch.cat([nodes, nodes]), torch.cat([nodes.roll(1), nodes.roll(-1)])])
    return model, {"x": torch.rand(6, 8), "edge_index": edges}


# -- MONAI ---------------------------------------------------------------------------------------------------------

_VOLUME = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
MONAI: dict[str, dict[str, Any]] = {
    "UNet": {**_VOLUME, "channels": (4, 8, 16), "strides": (2, 2), "num_res_units": 1},
    "AttentionUnet": {**_VOLUME, "channels": (4, 8, 16), "strides": (2, 2)},
    "SegResNet": {**_VOLUME, "init_filters": 8},
    "VNet": {**_VOLUME},
    "DynUNet": {
        **_VOLUME,
        "kernel_size": [3, 3, 3],
        "strides": [1, 2, 2],
        "upsample_kernel_size": [2, 2],
        "filters": [4, 8, 16],
    },
    "UNETR": {
        "in_channels": 1,
        "out_channels": 2,
        "img_size": (32, 32, 32),
        "feature_size": 4,
        "hidden_size": 16,
        "mlp_dim": 32,
        "num_heads": 2,
    },
    "DenseNet121": {**_VOLUME},
}


def medical(name: str) -> Made:
    """A network for volumes."""
    kind = getattr(library("monai.networks.nets"), name)
    return kind(**MONAI[name]), {"x": torch.rand(1, 1, 32, 32, 32)}


# -- PEFT ----------------------------------------------------------------------------------------------------------

_LAYERS = {"target_modules": ["query", "value"]}
PEFT: dict[str, dict[str, Any]] = {
    "LoraConfig": {**_LAYERS, "r": 4, "lora_dropout": 0.1},
    "LoraConfig (DoRA)": {**_LAYERS, "r": 4, "use_dora": True},
    "IA3Config": {**_LAYERS, "feedforward_modules": []},
    "LoHaConfig": {**_LAYERS, "r": 4},
    "PrefixTuningConfig": {"num_virtual_tokens": 3, "task_type": "FEATURE_EXTRACTION"},
}


def adapted(name: str) -> Made:
    """A small BERT with an adapter."""
    import transformers

    peft = library("peft")
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=64, **small))
    config = getattr(peft, name.partition(" ")[0])(**PEFT[name])
    return peft.get_peft_model(bert, config), {"input_ids": torch.arange(3, 11).reshape(1, 8)}


def _models(make: Callable[[str], Made], names: Any) -> dict[str, Callable[[], Made]]:
    return {name: lambda name=name: make(name) for name in names}  # type: ignore[misc]


LIBRARIES: dict[str, dict[str, Callable[[], Made]]] = {
    "torchvision detection": _models(detector, DETECTORS),
    "diffusers": _models(diffuser, DIFFUSERS),
    "segmentation_models": _models(segmentation, SEGMENTATION),
    "PyG": _models(graph_network, GRAPHS),
    "MONAI": _models(medical, MONAI),
    "PEFT": _models(adapted, PEFT),
}
