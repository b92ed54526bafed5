"""What reading one file may cost: a file from a stranger is measured before it is believed.

One `Budget` counts over the whole file, not level by level: a hundred small claims add up as one large claim does. The
writer asks the same functions, so that whatever is written can be read.
"""

from __future__ import annotations

import collections
import itertools
import json
import re
from typing import Any

__all__ = [
    "ARCHITECTURE_LIMIT",
    "DOCUMENT_LIMIT",
    "MAX_INTEGER",
    "MAX_LEVELS",
    "Budget",
    "dict_of_pairs",
    "parse_json",
    "write_json",
]

ARCHITECTURE_LIMIT = 1 << 20
DOCUMENT_LIMIT = 1 << 24
MAX_LEVELS = 100
MAX_INTEGER = 2**31

# Bytes that CPython takes for an object, an array, a separator of a JSON text; digits and letters count twice.
_OBJECT, _ARRAY, _ITEM = 240, 90, 40
_DOCUMENT_MEMORY = 40 << 20
# A module of torch.nn takes 2 to 4 kB and 50 to 100 µs, with no tensor in it.
_FREE_MODULES = 1000
_MODULES_PER_TENSOR = 8
_MODULES_AT_MOST = 10_000
_BYTES_PER_MODULE = 4096
_FREE_MENTIONS = 2000
_LAYERS_AT_MOST = 1000
_EQUAL_HASHES = 100


class Budget:
    """What is left of the modules, paths and mentions that one file may ask for.

    Args:
        tensors: How many tensors it stores.
        names: How many keys its index has for them.
        nbytes: Bytes of the stored tensors.
    """

    modules_left: int
    mentions_left: int
    bytes_left: int

    def __init__(self, tensors: int, names: int, nbytes: int) -> None:
        free = _FREE_MODULES + _MODULES_PER_TENSOR * tensors
        self.modules_left = min(free, _MODULES_AT_MOST + nbytes // _BYTES_PER_MODULE)
        self.paths_limit: int = _FREE_MENTIONS + 8 * names + self.modules_left
        self.mentions_left = _FREE_MENTIONS + 8 * (tensors + names)
        self.layers_limit: int = min(max(tensors, 1), _LAYERS_AT_MOST)
        self.bytes_left = nbytes + (16 << 20)

    def modules(self, count: int, what: str) -> None:
        """Pay for modules that are about to be built.

        Raises:
            ValueError: The file asks for more modules than its tensors make plausible.
        """
        self.modules_left -= count
        if self.modules_left < 0:
            raise ValueError(f"{what} would make more modules than the tensors in the file can fill")

    def allocate(self, nbytes: int) -> None:
        """Pay for memory beside the tensors.

        Raises:
            ValueError: It would be more than the tensors take.
        """
        self.bytes_left -= nbytes
        if self.bytes_left < 0:
            raise ValueError("its modules would be larger than the tensors in the file")

    def mention(self) -> None:
        """Pay for one mention of a tensor by its name.

        Raises:
            ValueError: The file names its tensors too often.
        """
        self.mentions_left -= 1
        if self.mentions_left < 0:
            raise ValueError("it names its tensors more often than a model needs")

    def paths(self, count: int) -> None:
        """Check how many paths lead to the modules of a tree.

        Raises:
            ValueError: Modules that several parents share multiply the paths.
        """
        if count > self.paths_limit:
            raise ValueError(f"its modules would stand in more than {self.paths_limit} places; shared modules multiply")


def write_json(value: Any, what: str, tensor_bytes: int = 0) -> bytes:
    """Compact UTF-8 JSON, within the limits of the reader.

    Raises:
        ValueError: The document is too long, too deep or too large for a reader.
    """
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except RecursionError as error:
        raise ValueError(f"{what} must be nested at most {MAX_LEVELS} levels deep") from error
    data = text.encode()
    _check_size(data, what, tensor_bytes)
    _check_levels(data, what)
    if what.endswith("architecture"):
        _check_integers(value, what)
    return data


def parse_json(data: bytes, what: str, tensor_bytes: int = 0, *, bounded_integers: bool = False) -> Any:
    """Parse JSON from a stranger.

    Raises:
        ValueError: It is longer, deeper or larger than a document may be, malformed, has a key twice, or an integer
            beyond 2**31 where those are bounded.
    """
    _check_size(data, what, tensor_bytes)
    try:
        _check_levels(data, what)
        return json.loads(
            data.decode(),
            object_pairs_hook=_unique_keys,
            parse_int=_bounded if bounded_integers else int,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is no acceptable JSON: {error}") from error


def size_limit(what: str, tensor_bytes: int) -> int:
    """Bytes that a document may have; an index grows with the tensors that it lists."""
    return ARCHITECTURE_LIMIT if what.endswith("architecture") else DOCUMENT_LIMIT + tensor_bytes // 16


def _check_size(data: bytes, what: str, tensor_bytes: int) -> None:
    limit = size_limit(what, tensor_bytes)
    if len(data) > limit:
        way = "; register a class that builds the repeated parts" if what.endswith("architecture") else ""
        raise ValueError(f"{what} must be at most {limit} bytes of JSON, got {len(data)}{way}")
    counts = data.count(b"{") * _OBJECT + data.count(b"[") * _ARRAY + data.count(b",") * _ITEM
    allowed = _DOCUMENT_MEMORY + tensor_bytes // 4
    if counts + 2 * len(data) > allowed:
        raise ValueError(f"{what} must hold fewer values: they would take more than {allowed >> 20} MiB of memory")


_STRINGS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def _check_levels(data: bytes, what: str) -> None:
    # Brackets behind a quote that never closes are counted too. The search reads each letter once.
    brackets = _STRINGS.sub("", data.decode()).encode().translate(None, _NO_BRACKETS)
    if max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0) > 4 * MAX_LEVELS:
        raise ValueError(f"{what} must be nested at most {MAX_LEVELS} levels deep")


def _check_integers(value: Any, what: str) -> None:
    todo = [(value, "")]
    while todo:
        one, where = todo.pop()
        if isinstance(one, dict):
            todo.extend((content, f"{where}.{key}") for key, content in one.items())
        elif isinstance(one, list):
            todo.extend((content, f"{where}[{number}]") for number, content in enumerate(one))
        elif type(one) is int and abs(one) > MAX_INTEGER:
            raise ValueError(
                f"{what} must hold integers within ±2**31, got {str(one)[:40]} at {where.lstrip('.')[-120:]}; "
                "pass it as text or as a float"
            )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _bounded(digits: str) -> int:
    number = int(digits) if len(digits) < 12 else MAX_INTEGER + 1
    if abs(number) > MAX_INTEGER:
        raise ValueError(f"an integer must lie within ±2**31, got {digits[:40]}")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def dict_of_pairs(pairs: Any) -> dict[Any, Any]:
    """A dict of pairs from a file, whose keys may have been chosen so that they collide.

    Each key with the hash of an earlier one is compared with all of those: many of them would take hours.

    Raises:
        ValueError: More than 100 different keys have one hash, or a key has none.
    """
    found: dict[Any, Any] = {}
    hashes: collections.Counter[int] = collections.Counter()
    for key, value in pairs:
        # Only keys with equal hashes meet each time: a dict uses all bits of different ones after a few steps.
        code = hash(key)
        hashes[code] += 1
        if hashes[code] > _EQUAL_HASHES:
            raise ValueError(f"more than {_EQUAL_HASHES} keys have the same hash")
        found[key] = value
    return found
