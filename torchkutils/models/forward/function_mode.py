"""Work of ours in the middle of a forward, which no function mode is to see."""

from __future__ import annotations

from typing import Any

import torch


class aside:  # noqa: N801
    """No function mode sees what the block does; free where ours is off the stack."""

    __slots__ = ("guard",)

    def __init__(self, needed: bool) -> None:
        self.guard = torch._C.DisableTorchFunction() if needed else None

    def __enter__(self) -> None:
        if self.guard is not None:
            self.guard.__enter__()

    def __exit__(self, *details: Any) -> None:
        if self.guard is not None:
            self.guard.__exit__(*details)
