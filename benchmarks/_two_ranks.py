"""The training step that two ranks are measured with, and that the cost model is checked against."""

from __future__ import annotations

import torch
from torch import nn

CONTROL = "two ranks that share nothing"
BATCH = 16
"""Images a rank and step."""


def network() -> nn.Module:
    torch.manual_seed(0)
    width = 64
    body = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        body += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
