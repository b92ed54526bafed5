"""How a batch travels from a worker: a small message through the DataLoader's queue, large contents in a slot.

torch gives every tensor that leaves a worker a file in shared memory of its own, which is made, filled, opened and
mapped for each batch. Here the contents of a batch's tensors and arrays are copied into a slot that is used again
(`shared_slots`), or go along with the message where they are small, and are copied out by the loader.

Everything is pickled here, in the worker's main thread: what torch's queue cannot pickle is lost without a word, and
the loader would wait for it for ever.
"""

from __future__ import annotations

import io
import os
import pathlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch.multiprocessing import reductions

from torchkutils.data.sequence_state import NotSendableError, holds_values_alone, why_not_sendable
from torchkutils.data.shared_slots import LARGEST, Slots

INLINE_BYTES = 2**15
"""Up to this size contents go along with the message."""

INLINE_BYTES_WITHOUT_SLOT = 2**19
"""The same where there is no slot: from about 1 MB on, torch's shared memory is cheaper."""

_ALIGNED = 64


@dataclass(frozen=True)
class Message:
    """A batch on its way.

    Attributes:
        content: The pickle of what the batch is made of.
        sizes: The bytes of each tensor or array in it; negative for tensors.
        inline: Their contents, where they go along.
        slot: Where their contents lie; -1 is nowhere.
        total: The bytes of all, with the space between them.
    """

    content: bytes
    sizes: tuple[int, ...] = ()
    inline: bytes = b""
    slot: int = -1
    total: int = 0

    def __reduce__(self) -> Any:
        return Message, (self.content, self.sizes, self.inline, self.slot, self.total)


class Sender:
    """The worker's side.

    Attributes:
        fallbacks: Batches that found no room in shared memory and went through the queue whole.
    """

    fallbacks: int

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.fallbacks = 0

    def pack(self, batch: Any, slot: int) -> Message:
        """Make a message of a batch.

        Args:
            batch: What the loader is to hand out.
            slot: The slot that this batch may use; -1 for none.

        Raises:
            TypeError: A part of the batch cannot be pickled; the message says which.
        """
        packer = _Packer()
        try:
            content = packer.packed(batch)
        except Exception:
            # Whatever is more than plain values takes torch's way, and raises there what it would have raised.
            return self._by_torch(batch)
        total = packer.total
        if total <= (INLINE_BYTES if slot >= 0 else INLINE_BYTES_WITHOUT_SLOT):
            return Message(content, packer.sizes, packer.joined())
        if slot < 0 or total > LARGEST:
            return self._by_torch(batch)
        try:
            memory = self._slots.memory(slot, total)
        except OSError:
            return self._by_torch(batch)
        packer.write(memoryview(memory))
        return Message(content, packer.sizes, b"", slot, total)

    def _by_torch(self, batch: Any) -> Message:
        try:
            sink = io.BytesIO()
            _SharingPickler(sink, pickle.HIGHEST_PROTOCOL).dump(batch)
            return Message(sink.getvalue())
        except Exception as shared:
            try:
                content = pickle.dumps(batch, protocol=pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                part = why_not_sendable("batch", batch, "fork") or f"it raised {type(error).__name__}: {error}"
                raise TypeError(f"a batch cannot be sent from its worker: {part}") from error
            if not isinstance(shared, (OSError, RuntimeError)):
                raise
            # No room in /dev/shm, where torch leaves the file that it could not fill.
            if torch.multiprocessing.get_sharing_strategy() == "file_descriptor":  # type: ignore[no-untyped-call]
                for left in pathlib.Path("/dev/shm").glob(f"torch_{os.getpid()}_*"):
                    left.unlink(missing_ok=True)
            self.fallbacks += 1
            return Message(content)


class Receiver:
    """The loader's side.

    Args:
        slots: The slots.
        reuse: Hand the slots' memory itself out.
        pin: Put contents into pinned memory.
    """

    def __init__(self, slots: Slots, reuse: bool, pin: bool) -> None:
        self._slots = slots
        self._reuse = reuse
        self._pin = pin

    def unpack(self, message: Message) -> Any:
        """The batch; its memory is the caller's own, unless `reuse`."""
        if not message.sizes:
            return pickle.loads(message.content)
        if message.slot < 0:
            source: Any = bytearray(message.inline)
        else:
            source = self._slots.memory(message.slot, message.total)
        own = self._reuse or message.slot < 0
        return pickle.loads(message.content, buffers=self._parts(message.sizes, source, own))

    def _parts(self, sizes: Sequence[int], source: Any, own: bool) -> Any:
        start = 0
        for signed in sizes:
            size = abs(signed)
            if signed < 0:
                flat = torch.frombuffer(source, dtype=torch.uint8, count=size, offset=start)
                yield self._tensor(flat, own)
            else:
                array = np.frombuffer(source, np.uint8, size, start)
                yield array if own else array.copy()
            start += -(-size // _ALIGNED) * _ALIGNED

    def _tensor(self, flat: torch.Tensor, own: bool) -> torch.Tensor:
        if self._pin:
            return torch.empty(flat.shape, dtype=torch.uint8, pin_memory=True).copy_(flat)
        return flat if own else flat.clone()


class _SharingPickler(ForkingPickler):
    """torch's own way, through shared memory, which loses the mark that values are to be read as their conjugates."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and (value.is_conj() or value.is_neg()):
            return reductions.reduce_tensor(value.resolve_conj().resolve_neg())  # type: ignore[no-untyped-call]
        return NotImplemented


class _Packer(pickle.Pickler):
    """Pickles a batch without the contents of its plain tensors and arrays.

    Attributes:
        sizes: As in `Message`.
        total: As in `Message`.
    """

    def __init__(self) -> None:
        self._sink = io.BytesIO()
        super().__init__(self._sink, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=self._keep)
        self._memory: set[int] = set()
        self._tensor: Any = None
        self._parts: list[memoryview] = []
        self.sizes: tuple[int, ...] = ()
        self.total = 0

    def packed(self, batch: Any) -> bytes:
        """Pickle the batch."""
        self.dump(batch)
        return self._sink.getvalue()

    def joined(self) -> bytes:
        """The contents, each at a multiple of `_ALIGNED` bytes."""
        return b"".join(b"".join((part, bytes(-part.nbytes % _ALIGNED))) for part in self._parts)

    def write(self, memory: memoryview) -> None:
        """Copy the contents, each to a multiple of `_ALIGNED` bytes."""
        start = 0
        for part in self._parts:
            memory[start : start + part.nbytes] = part
            start += -(-part.nbytes // _ALIGNED) * _ALIGNED

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._reduced(value)
        if isinstance(value, (torch.UntypedStorage, torch.TypedStorage)):
            raise NotSendableError("shared memory is what a storage is for")
        return NotImplemented

    def _keep(self, buffer: pickle.PickleBuffer) -> None:
        part = buffer.raw()
        self._parts.append(part)
        self.sizes += (-part.nbytes if buffer is self._tensor else part.nbytes,)
        self.total += -(-part.nbytes // _ALIGNED) * _ALIGNED

    def _reduced(self, tensor: torch.Tensor) -> Any:
        plain = type(tensor) is torch.Tensor and not tensor.requires_grad and holds_values_alone(tensor)
        if plain:
            tensor = tensor.resolve_conj().resolve_neg()
        memory = tensor.untyped_storage().data_ptr() if plain else 0
        flat = _in_memorys_order(tensor) if plain and memory not in self._memory else None
        if flat is None:
            raise NotSendableError("a tensor that is more than its values, or shares them with another")
        if tensor.numel() == 0:
            return _empty, (tensor.dtype, tuple(tensor.shape), tensor.stride())
        self._memory.add(memory)
        values: Any = flat.view(torch.uint8).numpy()
        self._tensor = pickle.PickleBuffer(values)
        stride = None if tensor.is_contiguous() else tensor.stride()
        return _rebuilt, (self._tensor, tensor.dtype, tuple(tensor.shape), stride)


def _in_memorys_order(tensor: torch.Tensor) -> torch.Tensor | None:
    """The elements of a tensor as they lie in memory; None where there is a gap between them."""
    if tensor.is_contiguous():
        return tensor.reshape(-1)
    order = sorted(range(tensor.dim()), key=lambda axis: (tensor.stride(axis), tensor.shape[axis]), reverse=True)
    turned = tensor.permute(order)
    return turned.reshape(-1) if turned.is_contiguous() else None


def _rebuilt(
    content: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...] | None
) -> torch.Tensor:
    flat = content.view(dtype)
    return flat.view(shape) if stride is None else flat.as_strided(shape, stride)


def _empty(dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype)
