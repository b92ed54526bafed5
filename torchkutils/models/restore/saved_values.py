"""The state of values that keep it in no attribute: arrays, random generators, iterators, buffers, open files."""

from __future__ import annotations

import array
import contextlib
import copy
import io
import itertools
import random
import types
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from torchkutils.models.restore.reachable import CachedFunction, Held, cell_contents

# A larger array is not copied; a change of it is noticed by a checksum, and told.
_LARGEST_COPY = 256 * 2**20

_SIMPLE_ITERATORS = frozenset(
    [
        *map(type, (iter([]), iter(()), iter(""), iter(b""), iter(range(0)), iter(set()), iter({}))),
        *map(type, (iter({}.values()), iter({}.items()), reversed([]))),
        *(itertools.count, itertools.repeat),
    ]
)


class ValueStates:
    """The state of such values; what changed is put back, or named in `lost` where that is not possible.

    Args:
        stateful: The values.
    """

    def __init__(self, stateful: list[Held]) -> None:
        self.lost: list[str] = []
        self._states = [(held, _state_of(held.value)) for held in stateful]

    def changed(self) -> bool:
        """Whether any of them changed."""
        return any(state is not None and state.changed() for _, state in self._states)

    def restore(self) -> None:
        """Put back each value that changed."""
        for held, state in self._states:
            if state is not None and state.changed() and not state.restore(held):
                self.lost.append(f"{held.name()} ({type(held.value).__name__})")


class _State:
    """What a value was before.

    Args:
        read: Gives the state, comparable by `==`.
        write: Sets the state; None where that is not possible.
    """

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], Any] | None) -> None:
        self._read, self._write, self._before = read, write, read()

    def changed(self) -> bool:
        """Whether it is another one now."""
        return bool(self._read() != self._before)

    def restore(self, held: Held) -> bool:
        """Set it back; False where that is not possible."""
        if self._write is None:
            return False
        self._write(self._before)
        return True


class _IteratorState(_State):
    """Of a built-in iterator: a copy replaces it in the dict or list that holds it."""

    def __init__(self, iterator: Any) -> None:
        super().__init__(lambda: _position(iterator), None)
        self._copy = _copied(iterator)

    def restore(self, held: Held) -> bool:
        """Hand the copy to whatever holds the iterator."""
        if held.holder is None or self._copy is None:
            return False
        held.holder[held.key] = self._copy
        return True


def _state_of(value: Any) -> _State | None:
    """How the state of a value is read and written; None for one that has none, or hides it."""
    for classes, state_of in _STATES:
        if isinstance(value, classes):
            return state_of(value)
    return _IteratorState(value) if _is_builtin_iterator(value) else None


def _generator_state(generator: torch.Generator) -> _State:
    def write(state: list[int]) -> None:
        generator.set_state(torch.tensor(state, dtype=torch.uint8))

    return _State(lambda: generator.get_state().tolist(), write)


def _bit_generator_state(generator: Any) -> _State:
    before = copy.deepcopy(generator.state)

    def write(_: Any) -> None:
        generator.state = before

    return _State(lambda: repr(generator.state), write)


def _legacy_state(generator: np.random.RandomState) -> _State:
    before = copy.deepcopy(generator.get_state(legacy=False))
    return _State(lambda: repr(generator.get_state(legacy=False)), lambda _: generator.set_state(before))


def _buffer_state(buffer: Any) -> _State:
    def write(before: Any) -> None:
        buffer[:] = before

    return _State(lambda: buffer[:], write)


def _array_state(values: np.ndarray[Any, Any]) -> _State | None:
    if not values.flags.writeable:
        return None
    if values.nbytes > _LARGEST_COPY:
        return _State(lambda: (values.shape, zlib.adler32(np.ascontiguousarray(values).view(np.uint8).data)), None)
    before = values.copy()

    def read() -> Any:
        if values.dtype.hasobject:
            return list(map(id, values.ravel()))
        return values.shape, values.tobytes()

    def write(_: Any) -> None:
        if values.shape != before.shape:
            values.shape = before.shape
        np.copyto(values, before)

    return _State(read, write)


def _cell_state(cell: types.CellType) -> _State:
    """Of a variable of a closure: the object that it is bound to."""

    def write(before: list[int]) -> None:
        if before:
            cell.cell_contents = contents[0]
        else:
            del cell.cell_contents

    contents = cell_contents(cell)
    return _State(lambda: [id(content) for content in cell_contents(cell)], write)


def _memory_file_state(file: Any) -> _State:
    def write(before: Any) -> None:
        contents, position = before
        file.seek(0)
        file.truncate()
        file.write(contents)
        file.seek(position)

    return _State(lambda: (file.getvalue(), file.tell()), write)


def _cached_function_state(function: Any) -> _State:
    """Of functools.lru_cache: what it holds cannot be read; a cache that was empty can be emptied again."""

    def write(_: Any) -> None:
        function.cache_clear()

    before = function.cache_info()
    unused = before.hits == before.misses == before.currsize == 0
    return _State(lambda: function.cache_info()[1::2], write if unused else None)


def _file_state(file: io.IOBase) -> _State | None:
    if isinstance(file, io.BytesIO | io.StringIO) and not file.closed:
        return _memory_file_state(file)
    with contextlib.suppress(OSError, ValueError):
        if not file.closed and file.seekable():
            return _State(file.tell, file.seek)
    return None


def _generator_position(generator: types.GeneratorType[Any, Any, Any]) -> Any:
    """The position of a Python generator: the instruction, and the values of its variables."""
    frame = generator.gi_frame
    if frame is None:
        return None
    variables = [(name, _position(value)) for name, value in frame.f_locals.items()]
    return frame.f_lasti, variables


def _position(value: Any) -> Any:
    """The position of a built-in iterator, read from what pickle would keep of it; of any other value its identity."""
    if isinstance(value, types.GeneratorType):
        return _generator_position(value)
    if isinstance(value, int | float | range):
        # What pickle keeps of an iterator over a range is a new range each time.
        return value
    if not _is_builtin_iterator(value):
        return id(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            _, arguments, *rest = value.__reduce__()
        except Exception:
            return repr(value)
    # What is left of a dict or a set is a new list each time: its length is the position.
    parts = [len(part) if isinstance(part, list | tuple | str) else _position(part) for part in arguments]
    return parts, [repr(part) for part in rest]


def _is_builtin_iterator(value: Any) -> bool:
    return hasattr(value, "__next__") and type(value).__module__ in ("builtins", "itertools")


def _copied(iterator: Any) -> Any:
    """Another iterator at the same position; None for one that takes from other iterators, which copies would share."""
    if type(iterator) not in _SIMPLE_ITERATORS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return copy.copy(iterator)
        except Exception:
            return None


# The first class that fits.
_STATES: tuple[tuple[Any, Callable[[Any], _State | None]], ...] = (
    (np.ndarray, _array_state),
    (torch.Generator, _generator_state),
    (random.Random, lambda value: _State(value.getstate, value.setstate)),
    (np.random.Generator, lambda value: _bit_generator_state(value.bit_generator)),
    (np.random.BitGenerator, _bit_generator_state),
    (np.random.SeedSequence, lambda value: _State(lambda: value.n_children_spawned, None)),
    (types.CellType, _cell_state),
    (np.random.RandomState, _legacy_state),
    ((bytearray, array.array), _buffer_state),
    (io.IOBase, _file_state),
    (CachedFunction, _cached_function_state),
    (types.GeneratorType, lambda value: _State(lambda: _generator_position(value), None)),
)
