"""torchvision and timm on a build of torch that cannot load torchvision's compiled operators.

They lie in a folder of their own (`make test-slow` fills it): where they can be imported, transformers imports
torchvision too, which fails on such a build until the two names below are defined.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import pytest
import torch

FOLDER = pathlib.Path(sys.prefix) / "vision"
_DETECTION = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []


def vision_library(name: str) -> Any:
    """torchvision or timm; their models need no compiled operator, but their import asks for two names."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    if not _libraries and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + _DETECTION)
        _libraries.append(library)
    return pytest.importorskip(name, reason="make test-slow installs it")
