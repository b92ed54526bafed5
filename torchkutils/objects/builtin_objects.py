"""The built-in names: an exact table of what torch itself offers, so that no name is ever looked up along a path."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["FUNCTION_NAMES", "builtin_function_name", "builtin_name", "builtin_objects", "is_stock_class"]

ACTIVATIONS = (
    "celu celu_ elu elu_ gelu glu gumbel_softmax hardshrink hardsigmoid hardswish hardtanh hardtanh_ leaky_relu "
    "leaky_relu_ log_softmax logsigmoid mish prelu relu relu6 relu_ rrelu rrelu_ selu selu_ sigmoid silu softmax "
    "softmin softplus softshrink softsign tanh tanhshrink threshold threshold_"
)
LOSSES = (
    "binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cosine_similarity cross_entropy "
    "ctc_loss gaussian_nll_loss hinge_embedding_loss huber_loss kl_div l1_loss linear_cross_entropy "
    "margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss nll_loss "
    "pairwise_distance poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss "
    "triplet_margin_with_distance_loss"
)
FUNCTION_NAMES = tuple(sorted((ACTIVATIONS + " " + LOSSES).split()))


@functools.cache
def builtin_objects() -> Mapping[str, Any]:
    """Every public class of torch.nn and torch.optim, AveragedModel, and the activations and losses of F."""
    table: dict[str, Any] = {}
    for module in (torch.optim, torch.nn):
        for name, value in vars(module).items():
            if inspect.isclass(value) and not name.startswith("_"):
                table[name] = value
    table["AveragedModel"] = torch.optim.swa_utils.AveragedModel
    functional = torch.nn.functional
    table.update({name: getattr(functional, name) for name in FUNCTION_NAMES if hasattr(functional, name)})
    return table


@functools.cache
def _names_by_identity() -> Mapping[int, str]:
    names = {id(value): name for name, value in builtin_objects().items()}
    # torch.relu and torch.nn.functional.relu are two objects that compute the same.
    for name in ("celu", "relu", "selu", "sigmoid", "softmax", "log_softmax", "tanh", "prelu", "rrelu", "threshold"):
        if hasattr(torch, name):
            names.setdefault(id(getattr(torch, name)), name)
    return names


def builtin_name(value: Any) -> str | None:
    """The name a class or function has in the table, None when it is not in there."""
    return _names_by_identity().get(id(value))


def builtin_function_name(value: Any) -> str | None:
    """The name of an activation or loss function, None for everything else."""
    return None if inspect.isclass(value) else builtin_name(value)


def is_stock_class(kind: type) -> bool:
    """Whether a class is one of torch.nn's own module classes, and not a class derived from one."""
    return issubclass(kind, torch.nn.Module) and builtin_name(kind) is not None
