"""Generators of random numbers that a Sequence holds: found through its attributes, and seeded for each batch.

Workers are copies of one Sequence: without this, each worker and each epoch would draw the same numbers.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from torchkutils import _nested

_KINDS = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random, torch.Generator)
_ATOMS = frozenset([int, float, complex, bool, str, bytes, type(None), np.ndarray, torch.Tensor])


@dataclass(frozen=True)
class Held:
    """One generator of a Sequence.

    Attributes:
        generator: The object itself.
        salt: A digest of the way to it and of its state when it was found.
    """

    generator: Any
    salt: bytes


def held_generators(source: object) -> list[Held]:
    """Every generator that can be reached through a Sequence's attributes, once, in the order of the attributes."""
    return _Walk(source).found


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
        waiting: list[tuple[tuple[str, ...], Any, int]] = [((), source, 0)]
        while waiting:
            way, value, owner = waiting.pop()
            self.owners.setdefault(id(value), []).append(owner)
            if id(value) in self.values:
                continue
            self.values[id(value)] = value
            if isinstance(value, _KINDS):
                self._note(way, value)
            elif type(value) not in _ATOMS and len(way) <= _nested.DEEPEST:
                # What is put in first comes out last: of several ways to a generator, the first attribute's counts.
                waiting.extend(((*way, str(key)), child, id(value)) for key, child in reversed(_children(value)))

    def _note(self, way: tuple[str, ...], value: Any) -> None:
        if isinstance(value, torch.Generator) and value.device.type != "cpu":
            return
        salt = hashlib.blake2b(".".join(way).encode() + _state_bytes(value), digest_size=16).digest()
        self.found.append(Held(value, salt))

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
    own = [Held(_fresh(one.generator), one.salt) for one in walk.found]
    around = walk.around_generators()
    # For deepcopy, what is in the memo has been copied already.
    memo = {number: value for number, value in walk.values.items() if number not in around}
    memo.update((id(one.generator), mine.generator) for one, mine in zip(walk.found, own, strict=True))
    return copy.deepcopy(source, memo), own


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, (list, tuple, set, frozenset)) and _ATOMS.issuperset(map(type, value)):
        return []
    if isinstance(value, torch.nn.Module):
        return list(vars(value).items())
    held = _nested.children(value, objects=True)
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
