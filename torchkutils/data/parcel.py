"""How a small batch travels from a worker: its bytes through the pipe, instead of a piece of shared memory a tensor.

torch gives every tensor that leaves a worker a file in shared memory, which the receiver opens and maps: for small ones
that costs more than copying them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import default_convert

PARCEL_BYTES = 2**19
"""Up to which size a batch is sent as bytes: from about 1 MB on, shared memory is cheaper."""


class NotSendableError(Exception):
    """A value is too large to be sent as bytes, or would not be the same any more."""


class LimitedBytes(io.BytesIO):
    """Bytes in memory that refuse to grow past a limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, data: Any) -> int:
        """Append, or raise NotSendableError."""
        if self.tell() + memoryview(data).nbytes > self._limit:
            raise NotSendableError(f"more than {self._limit} bytes")
        return super().write(data)


class Parcel:
    """A pickled batch. It is pickled as what it holds, so that the receiver finds the batch itself."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return pickle.loads, (self._content,)


class Packing:
    """The `collate_fn` of a worker: what `collate` makes of a batch, in a parcel where it fits into one.

    Args:
        collate: Makes tensors of a batch; None is torch's own conversion of arrays.
    """

    def __init__(self, collate: Callable[[Any], Any] | None) -> None:
        self._collate: Callable[[Any], Any] = default_convert if collate is None else collate

    def __call__(self, batch: Any) -> Any:
        """Convert a batch and pack it."""
        result = self._collate(batch)
        sink = LimitedBytes(PARCEL_BYTES)
        try:
            _Packer(sink).dump(result)
        except Exception:
            # Whatever cannot be packed takes torch's way, and raises there what it would have raised.
            return result
        return Parcel(sink.getvalue())


class _Packer(pickle.Pickler):
    """Pickles plain tensors as their bytes; refuses those that are more than their values."""

    def __init__(self, sink: LimitedBytes) -> None:
        super().__init__(sink, protocol=pickle.HIGHEST_PROTOCOL)
        self._memory: set[int] = set()

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._packed(value)
        if isinstance(value, (torch.UntypedStorage, torch.TypedStorage)):
            raise NotSendableError("shared memory is what a storage is for")
        return NotImplemented

    def _packed(self, tensor: torch.Tensor) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
        plain = (
            type(tensor) is torch.Tensor
            and tensor.layout is torch.strided
            and tensor.device.type == "cpu"
            and not tensor.requires_grad
            and not tensor.is_quantized
            and not tensor.is_conj()
            and not tensor.is_neg()
            and tensor.is_contiguous()
            and not vars(tensor)
        )
        memory = tensor.untyped_storage().data_ptr() if plain else 0
        if not plain or memory in self._memory:
            raise NotSendableError("a tensor that is more than its values, or shares them with another")
        if tensor.numel() == 0:
            return _empty, (tensor.dtype, tuple(tensor.shape))
        self._memory.add(memory)
        values: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        return _unpacked, (pickle.PickleBuffer(values), tensor.dtype, tuple(tensor.shape))


def _unpacked(values: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.frombuffer(values, dtype=dtype).view(shape)


def _empty(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)
