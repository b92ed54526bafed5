"""What many small tensors contain, copied and compared all at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch

# Larger tensors are copied one by one: to compare them takes a second copy for a moment.
_LARGEST = 64 * 1024


def can_be_packed(tensor: torch.Tensor) -> bool:
    """Whether a tensor of torch's own kind is small and lies in one piece of memory."""
    if tensor.nbytes > _LARGEST or tensor.is_meta or tensor.is_inference() or not tensor.is_contiguous():
        return False
    # Where its memory was taken away (as fully_shard does), nothing can be read; torch does not check that.
    return tensor.untyped_storage().nbytes() > 0


class PackedContents:
    """What tensors contain, as one copy for each dtype and device.

    A model may have hundreds of buffers of a few elements: to copy each of them would take ten times as long.

    Args:
        tensors: Those that `can_be_packed` accepts.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        for tensor in tensors:
            groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        self._groups = [(group, _packed(group)) for group in groups.values()]

    def restore(self) -> None:
        """Write back what changed."""
        for group, before in self._groups:
            if not torch.equal(_packed(group), before):
                _unpack(before, group)


def _packed(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The bytes of these tensors, one after the other. Bytes, since NaN equals no NaN."""
    with torch.inference_mode():
        return torch.hstack([tensor if tensor.dim() < 2 else tensor.flatten() for tensor in tensors]).view(torch.uint8)


def _unpack(contents: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    parts = contents.split_with_sizes([tensor.nbytes for tensor in tensors])
    with torch.inference_mode():
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.dtype).view_as(tensor))
