"""The state of a Sequence as bytes: whether it changed, and what of it must be sent to workers that live on.

A state is a pickle of the Sequence without its large arrays and tensors, and a table of these *leaves*. The pickle
holds no address (torch's own pickles of tensors and generators do), so two states are equal when their contents are. A
leaf is known by a digest of its content; workers keep theirs, and are sent only those that are new.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import mmap
import multiprocessing
import pickle
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from torchkutils import _nested
from torchkutils.data.held_generators import parts_of

LEAF_BYTES = 2**16
"""From which size on an array or tensor is a leaf."""

_PIECE = 2**22
_PAGE = 4096
_loading = threading.local()


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


@dataclass
class State:
    """A Sequence at one moment.

    Attributes:
        content: The pickle.
        leaves: The large arrays and tensors in it, by name: a digest of the content and a count.
    """

    content: bytes
    leaves: dict[str, Any] = field(default_factory=dict)

    def equals(self, other: State) -> bool:
        """Whether both hold the same."""
        return self.content == other.content and self.leaves.keys() == other.leaves.keys()

    def whole(self) -> Parts:
        """Everything, for a process that has nothing."""
        return Parts(self.content, {name: leaf_bytes(leaf) for name, leaf in self.leaves.items()}, {})

    def since(self, known: set[str], limit: int) -> Parts | None:
        """What a worker needs that has the leaves `known`; None where that is more than `limit` bytes."""
        new = {name: leaf for name, leaf in self.leaves.items() if name not in known}
        if len(self.content) + sum(_memory(leaf).nbytes for leaf in new.values()) > limit:
            return None
        kept = {name: glance(leaf) for name, leaf in self.leaves.items() if name in known}
        return Parts(self.content, {name: leaf_bytes(leaf) for name, leaf in new.items()}, kept)


@dataclass(frozen=True)
class Parts:
    """A state on its way to a worker.

    Attributes:
        content: The pickle.
        leaves: New leaves, pickled, by name.
        kept: What a glance at the leaves that the worker has must show, by name.
    """

    content: bytes
    leaves: dict[str, bytes]
    kept: dict[str, int]

    def restore(self, known: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Make the objects again.

        Args:
            known: The leaves that this process has, by name.

        Returns:
            What was pickled, and the leaves that belong to it.

        Raises:
            StaleLeafError: This process has changed one of its leaves, or lacks it.
        """
        leaves = {}
        for name, shown in self.kept.items():
            if name not in known or glance(known[name]) != shown:
                raise StaleLeafError(name)
            leaves[name] = known[name]
        leaves.update((name, pickle.loads(content)) for name, content in self.leaves.items())
        pickled, _loading.names = pickle.loads(self.content)
        _loading.leaves = leaves
        try:
            return pickle.loads(pickled), leaves
        finally:
            del _loading.leaves, _loading.names


class StaleLeafError(Exception):
    """A worker cannot keep a leaf: its own code has written to it."""


def state_of(value: Any, limit: int) -> State | None:
    """The state of a value; None where it cannot be sent: no pickle, too much besides leaves, or shared memory.

    Nothing of the caller's changes: unlike `multiprocessing`'s pickles, these move no tensor into shared memory.
    """
    sink = LimitedBytes(limit)
    pickler = _StatePickler(sink, leaves=True)
    try:
        pickler.dump(value)
    except Exception:
        # Whatever a class of the user's raises when it is pickled, new workers are the way to go.
        return None
    digests = _digests([_memory(leaf) for leaf in pickler.leaves])
    state = State(b"")
    names = []
    for leaf, digest in zip(pickler.leaves, digests, strict=True):
        name = hashlib.blake2b(repr(_described(leaf)).encode() + digest, digest_size=16).hexdigest()
        count = sum(other.startswith(name) for other in state.leaves)
        state.leaves[f"{name}.{count}"] = leaf
        names.append(f"{name}.{count}")
    state.content = pickle.dumps((sink.getvalue(), names))
    return state


def leaf_bytes(leaf: Any) -> bytes:
    """An array or tensor as a pickle that holds no more than its content."""
    sink = io.BytesIO()
    _StatePickler(sink, leaves=False).dump(leaf)
    return sink.getvalue()


def glance(leaf: Any) -> int:
    """A number that hardly stays the same when a leaf is written to, in a tenth of a digest's time.

    The sum of all words, and a checksum of every sixteenth page.
    """
    memory = np.frombuffer(_memory(leaf), np.uint8)
    words = memory[: memory.size // 8 * 8].view(np.int64)
    pages = memory[: memory.size // _PAGE * _PAGE].reshape(-1, _PAGE)[::16]
    crc32 = _fastest_crc32()
    return hash((int(words.sum()), crc32(pages.tobytes()), crc32(memory[-_PAGE:].tobytes())))


def why_not_sendable(name: str, value: Any, start_method: str) -> str | None:
    """Which part of a value cannot be pickled, in words; None where all can.

    Args:
        name: What to call the value.
        value: Anything.
        start_method: 'fork' asks for a pickle alone; the others for one that a new interpreter can read.
    """
    way, part = name, value
    error = _pickling_error(value, start_method)
    if error is None:
        return None
    while True:
        held = parts_of(part)
        parts = [] if held is None else zip(held.paths(way), held.values, strict=True)
        for inner_way, inner in parts:
            if (inner_error := _pickling_error(inner, start_method)) is not None:
                way, part, error = inner_way, inner, inner_error
                break
        else:
            return f"{way} is {_kind(part)}, which cannot be pickled ({type(error).__name__}: {error})"
        if way.count(".") + way.count("[") > _nested.DEEPEST:
            return f"{way} cannot be pickled ({type(error).__name__}: {error})"


def _kind(part: Any) -> str:
    if callable(part) and hasattr(part, "__qualname__"):
        return f"the {'class' if isinstance(part, type) else 'function'} {part.__qualname__}"
    return f"of type {type(part).__name__}"


class _Nowhere(io.RawIOBase):
    """Takes what is written and keeps nothing."""

    def write(self, data: Any) -> int:
        return memoryview(data).nbytes


def _pickling_error(value: Any, start_method: str) -> Exception | None:
    try:
        _TrialPickler(_Nowhere(), start_method).dump(value)
    except Exception as error:
        return error
    return None


class _StatePickler(pickle.Pickler):
    """Pickles values without addresses; refuses what lives in memory that others can write to.

    Attributes:
        leaves: The large arrays and tensors that were left out, in their order.
    """

    def __init__(self, sink: Any, leaves: bool) -> None:
        super().__init__(sink, protocol=pickle.HIGHEST_PROTOCOL)
        self._leave_out = leaves
        self._tensors: dict[int, _Storage] = {}
        self.leaves: list[Any] = []

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray):
            return self._array(value)
        if type(value) is torch.Generator:
            return _restored_generator, (value.device.type, value.get_state().numpy().tobytes())
        return NotImplemented

    def _tensor(self, tensor: torch.Tensor) -> Any:
        shared: bool = tensor.is_shared()  # type: ignore[no-untyped-call]
        if tensor.device.type != "cpu" or shared:
            raise NotSendableError("a tensor in shared memory or on a device")
        if not _is_known(tensor):
            return NotImplemented
        storage = tensor.untyped_storage()
        if self._leave_out and storage.nbytes() >= LEAF_BYTES and _is_plain(tensor):
            return self._left_out(tensor)
        held = self._tensors.setdefault(storage.data_ptr(), _Storage(storage))
        layout = (tensor.dtype, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        return _restored_tensor, (held, *layout, type(tensor) is torch.nn.Parameter, tensor.requires_grad)

    def _array(self, array: np.ndarray[Any, Any]) -> Any:
        if (mapped := _mapped_file(array)) is not None:
            return mapped
        if not _lies_in_own_memory(array):
            raise NotSendableError("an array over memory of others")
        if not self._leave_out or array.nbytes < LEAF_BYTES or type(array) is not np.ndarray or array.dtype.hasobject:
            return NotImplemented
        return self._left_out(array) if array.flags.c_contiguous or array.flags.f_contiguous else NotImplemented

    def _left_out(self, leaf: Any) -> Any:
        self.leaves.append(leaf)
        return _leaf, (len(self.leaves) - 1,)


class _TrialPickler(_StatePickler):
    """Finds out whether a value can be pickled, and read by the process of a start method."""

    def __init__(self, sink: Any, start_method: str) -> None:
        super().__init__(sink, leaves=True)
        self._new_interpreter = start_method != "fork"

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) or (isinstance(value, np.ndarray) and not value.dtype.hasobject):
            # Their contents can be pickled, or travel through shared memory.
            return int, ()
        named = isinstance(value, type) or type(value).__name__ == "function"
        if self._new_interpreter and named and value.__module__ == "__main__" and not _main_can_be_imported():
            raise NotSendableError(
                f"{value.__qualname__} is defined in a notebook cell or an interactive session, where a process that "
                "is not forked cannot find it: move it to a module"
            )
        return NotImplemented


def holds_values_alone(tensor: torch.Tensor) -> bool:
    """Whether a tensor's memory, dtype and strides say all about it."""
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu"
    return dense and not tensor.is_quantized and not vars(tensor)


def _main_can_be_imported() -> bool:
    main = sys.modules["__main__"]
    return getattr(main, "__file__", None) is not None or getattr(main, "__spec__", None) is not None


class _Storage:
    """The memory of one or several tensors, pickled as its bytes."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self._storage = storage

    def __reduce__(self) -> tuple[Callable[..., torch.UntypedStorage], tuple[Any]]:
        values: Any = torch.empty(0, dtype=torch.uint8).set_(self._storage).numpy()
        return _restored_storage, (pickle.PickleBuffer(values),)


def _restored_storage(content: Any) -> torch.UntypedStorage:
    # An array of no bytes cannot be the memory of a tensor.
    flat = (
        torch.frombuffer(bytearray(content), dtype=torch.uint8) if len(content) else torch.empty(0, dtype=torch.uint8)
    )
    return flat.untyped_storage()


def _restored_tensor(
    storage: torch.UntypedStorage,
    dtype: torch.dtype,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    parameter: bool,
    requires_grad: bool,
) -> torch.Tensor:
    tensor = torch.empty(0, dtype=dtype).set_(storage, offset, shape, stride)
    return torch.nn.Parameter(tensor, requires_grad) if parameter else tensor.requires_grad_(requires_grad)


def _restored_generator(device: str, state: bytes) -> torch.Generator:
    generator = torch.Generator(device)
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return generator


def _mapped_file(array: np.ndarray[Any, Any]) -> Any:
    """How to map a piece of a file again; None for an array that is no such piece, or that cannot be mapped so.

    What is written through such a map is written to the file, and all processes that map it see it.
    """
    root: Any = array
    while isinstance(root, np.ndarray) and not (isinstance(root, np.memmap) and isinstance(root.base, mmap.mmap)):
        root = root.base
    if root is None or not isinstance(root, np.memmap) or root.filename is None or root.mode == "c":
        return None
    if array.size == 0 or not array.flags.c_contiguous:
        return None
    start = root.offset + array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    mode = "r+" if array.flags.writeable else "r"
    return _map_again, (str(root.filename), array.dtype, mode, start, array.shape, isinstance(array, np.memmap))


def _map_again(path: str, dtype: Any, mode: Any, start: int, shape: tuple[int, ...], as_map: bool) -> Any:
    mapped = np.memmap(path, dtype, mode, start, shape)
    return mapped if as_map else np.asarray(mapped)


def _leaf(number: int) -> Any:
    return _loading.leaves[_loading.names[number]]


def _is_known(tensor: torch.Tensor) -> bool:
    """Whether a tensor is no more than its memory, its layout and whether it asks for a gradient."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or not holds_values_alone(tensor):
        return False
    return not (tensor.is_conj() or tensor.is_neg()) and tensor.is_leaf and tensor.grad is None


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a known tensor is all of its memory, in order, and no parameter."""
    whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
    return whole and type(tensor) is torch.Tensor and not tensor.requires_grad and tensor.is_contiguous()


def _lies_in_own_memory(array: np.ndarray[Any, Any]) -> bool:
    """Whether no other process can write to an array."""
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, torch.Tensor):
        return not base.is_shared()  # type: ignore[no-untyped-call]
    # What pickle.loads and numpy.frombuffer give lies in a bytearray, and is this process's own.
    return isinstance(base, (np.ndarray, bytes, bytearray))


def _described(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, torch.Tensor):
        return "tensor", str(leaf.dtype), tuple(leaf.shape)
    return "array", repr(leaf.dtype), leaf.shape, leaf.flags.c_contiguous, leaf.flags.writeable


def _memory(leaf: Any) -> memoryview:
    """The bytes of a leaf, in memory's order."""
    if isinstance(leaf, torch.Tensor):
        leaf = leaf.reshape(-1).view(torch.uint8).numpy()
    flat: Any = leaf.reshape(-1, order="A").view(np.uint8)
    return memoryview(flat)


@functools.cache
def _fastest_crc32() -> Callable[[Any], int]:
    """The same checksum from the library that is fastest: isal and libdeflate take a fifth of zlib's time or less."""
    for package, module in (("isal", "isal.isal_zlib"), ("deflate", "deflate")):
        if importlib.util.find_spec(package) is not None:
            found: Callable[[Any], int] = importlib.import_module(module).crc32
            return found
    return zlib.crc32


def _digests(memories: list[memoryview]) -> list[bytes]:
    """A digest of each: checksums of its pieces, made by two threads where there is much (they release the GIL)."""
    crc32 = _fastest_crc32()
    pieces = [[memory[start : start + _PIECE] for start in range(0, memory.nbytes, _PIECE)] for memory in memories]
    every = [piece for own in pieces for piece in own]
    if len(every) > 2 and (multiprocessing.cpu_count() or 1) > 1:
        with ThreadPoolExecutor(2) as threads:
            sums = iter(list(threads.map(crc32, every)))
    else:
        sums = map(crc32, every)
    return [b"".join(next(sums).to_bytes(4, "little") for _ in own) for own in pieces]
