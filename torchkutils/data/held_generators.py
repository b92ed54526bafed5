"""Generators of random numbers that a Sequence holds: found through its attributes, and seeded for each batch.

Workers are copies of one Sequence: without this, each worker and each epoch would draw the same numbers.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import pickle
import random
from collections import deque
from collections.abc import KeysView, Mapping, ValuesView
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from torchkutils import _nested

_KINDS = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random, torch.Generator)
_PLAIN = (list, tuple, set, frozenset)
_LEVELS = 3
_WIDEST = 1000
"""Containers of more are not looked into: they hold samples."""
_MOST = 50_000
"""So many values are looked at, the outer ones first."""
_ATOMS = frozenset([int, float, complex, bool, str, bytes, type(None), np.ndarray, torch.Tensor])


@dataclass(frozen=True)
class Held:
    """One generator of a Sequence.

    Attributes:
        generator: The object itself.
        way: The names, keys and positions that lead to it.
        salt: A digest of the way, and of the state that it had first.
    """

    generator: Any
    way: str
    salt: bytes


def held_generators(source: object, first: list[Held] | None = None) -> list[Held]:
    """Every generator that can be reached through a Sequence's attributes, once, in the order of the attributes.

    Args:
        source: The Sequence.
        first: Those that it held before a worker prepared it: what the worker put there must not count, or what is
            drawn would depend on the number of workers.
    """
    found = _Walk(source).found
    if first is None:
        return found
    salts = {one.way: one.salt for one in first}
    return [replace(one, salt=salts.get(one.way, _digest(one.way.encode()))) for one in found]


def new_generators(source: object, held: list[Held]) -> list[Held]:
    """Generators that `__getitem__` has just put into an attribute that held none."""
    known = {one.way for one in held}
    return [
        Held(value, name, _digest(name.encode()))
        for name, value in vars(source).items()
        if isinstance(value, _KINDS) and name not in known and not _elsewhere(value)
    ]


class _Walk:
    """All that can be reached from a Sequence.

    Attributes:
        found: The generators.
        values: Every value that was reached, by its id, which is its own as long as the value is kept here.
        owners: The ids of the containers and objects that hold a value, by its id.
    """

    def __init__(self, source: object) -> None:
        self.found: list[Held] = []
        self.values: dict[int, Any] = {}
        self.owners: dict[int, list[int]] = {}
        waiting: deque[tuple[tuple[str, ...], Any, int]] = deque([((), source, 0)])
        while waiting:
            # The shortest way to a generator counts, and the first of those.
            way, value, owner = waiting.popleft()
            self.owners.setdefault(id(value), []).append(owner)
            if id(value) in self.values:
                continue
            self.values[id(value)] = value
            if isinstance(value, _KINDS):
                self._note(way, value)
            elif type(value) not in _ATOMS and len(self.values) < _MOST:
                waiting.extend(((*way, str(key)), child, id(value)) for key, child in _children(value))

    def _note(self, way: tuple[str, ...], value: Any) -> None:
        if not _elsewhere(value):
            name = ".".join(way)
            self.found.append(Held(value, name, _digest(name.encode() + _state_bytes(value))))

    def around_generators(self) -> set[int]:
        """The ids of the generators and of everything that holds one."""
        around: set[int] = set()
        waiting = [id(one.generator) for one in self.found]
        while waiting:
            if (number := waiting.pop()) not in around:
                around.add(number)
                waiting.extend(self.owners.get(number, ()))
        return around


def seed_held(held: list[Held], seed: int, epoch: int, index: int) -> None:
    """Fix what the generators draw from now on by (seed, epoch, index), their place and their first state."""
    for one in held:
        digest = hashlib.blake2b(b"%d,%d,%d" % (seed, epoch, index), digest_size=32, salt=one.salt).digest()
        _seed(one.generator, digest)


def with_own_generators(source: Any) -> tuple[Any, list[Held]]:
    """A Sequence with generators of its own, which shares everything else: for threads that make batches at once.

    Returns:
        The Sequence itself where it holds no generators; else a copy of it and of what lies on the ways to them.
    """
    walk = _Walk(source)
    if not walk.found:
        return source, []
    own = [replace(one, generator=_fresh(one.generator)) for one in walk.found]
    around = walk.around_generators()
    # For deepcopy, what is in the memo has been copied already.
    memo = {number: value for number, value in walk.values.items() if number not in around}
    memo.update((id(one.generator), mine.generator) for one, mine in zip(walk.found, own, strict=True))
    return copy.deepcopy(source, memo), own


def _holds_atoms_alone(value: Any) -> bool:
    """Whether a container holds numbers, text and arrays alone, a few levels deep: a list of a million file names."""
    level = value.values() if type(value) is dict else value
    for _ in range(_LEVELS):
        types = set(map(type, level)) if isinstance(level, (*_PLAIN, KeysView, ValuesView)) else {object}
        if _ATOMS.issuperset(types):
            return True
        if len(types) > 1 or types.pop() not in _PLAIN:
            return False
        level = list(itertools.chain.from_iterable(level))
    return False


def _elsewhere(generator: Any) -> bool:
    """Whether it draws on a device, which a worker must not touch."""
    return isinstance(generator, torch.Generator) and generator.device.type != "cpu"


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def parts_of(value: Any) -> _nested.Children | None:
    """What a container or an object holds; a mapping that is no dict, an open file for instance, is not read."""
    if isinstance(value, Mapping) and not isinstance(value, dict):
        return None
    return _nested.children(value, objects=True)


def _children(value: Any) -> list[tuple[Any, Any]]:
    wide = isinstance(value, (*_PLAIN, dict)) and len(value) > _WIDEST
    if wide or _holds_atoms_alone(value):
        return []
    if isinstance(value, torch.nn.Module):
        return list(vars(value).items())
    held = parts_of(value)
    return [] if held is None else list(zip(held.keys, held.values, strict=True))


def _state_bytes(generator: Any) -> bytes:
    if isinstance(generator, torch.Generator):
        state: bytes = generator.get_state().numpy().tobytes()
        return state
    if isinstance(generator, random.Random):
        return repr(generator.getstate()).encode()
    if isinstance(generator, np.random.RandomState):
        return pickle.dumps(generator.get_state(legacy=False))
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
    return pickle.dumps(bits.state)


def _seed(generator: Any, digest: bytes) -> None:
    # More than 64 bits make NumPy's seeding slow.
    number = int.from_bytes(digest[:8], "little")
    if isinstance(generator, torch.Generator):
        generator.manual_seed(number % 2**63)
    elif isinstance(generator, random.Random):
        random.Random.seed(generator, number)
    elif isinstance(generator, np.random.RandomState):
        kind = getattr(np.random, generator.get_state(legacy=False)["bit_generator"])
        generator.set_state(kind(number).state)
    else:
        bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
        bits.state = type(bits)(number).state


def _fresh(generator: Any) -> Any:
    return torch.Generator() if isinstance(generator, torch.Generator) else copy.deepcopy(generator)
