"""The part of a picture from one layer to another, as Keras's `layer_range` chooses it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from torchkutils.models.picture.boxes import Arrow, Box
from torchkutils.models.records import Trace

# Boxes that are no layers: they are kept where a kept layer takes or gives them.
_NO_LAYERS = ("input", "output", "parameter", "buffer", "constant")


def boxes_in_range(
    boxes: dict[str, Box], arrows: list[Arrow], layer_range: tuple[str, str], trace: Trace
) -> tuple[dict[str, Box], list[Arrow]]:
    """The boxes from the first one that the first name fits to the last one that the second fits, both included.

    A name is a module's path, and then means all that lies in it, or a regular expression that matches from the
    beginning of a path, as in Keras. Names the other way round give the same part.

    Raises:
        ValueError: A name fits no box.
    """
    begin, end = _ends(list(boxes.values()), layer_range, trace)
    inside = set()
    for key, box in boxes.items():
        if begin <= box.order <= end and box.kind not in _NO_LAYERS:
            inside.add(key)
    kept = inside | _joined_to(inside, boxes, arrows)
    return (
        {key: box for key, box in boxes.items() if key in kept},
        [arrow for arrow in arrows if arrow.source in kept and arrow.target in kept],
    )


def _ends(boxes: list[Box], layer_range: tuple[str, str], trace: Trace) -> tuple[int, int]:
    """Where the range begins and ends in the data flow."""
    paths, orders = [], []
    for box in boxes:
        if box.module is not None:
            paths.append(trace.modules[box.module].path)
            orders.append(box.order)
    first, last = positions_in_range(paths, layer_range)
    firsts, lasts = [orders[position] for position in first], [orders[position] for position in last]
    if min(firsts) > max(lasts):
        firsts, lasts = lasts, firsts
    return min(firsts), max(lasts)


def _joined_to(inside: set[str], boxes: dict[str, Box], arrows: list[Arrow]) -> set[str]:
    """Inputs, outputs and parameters that a box of the range takes or gives."""
    found = set()
    for arrow in arrows:
        if arrow.target in inside and boxes[arrow.source].kind in _NO_LAYERS:
            found.add(arrow.source)
        if arrow.source in inside and boxes[arrow.target].kind in _NO_LAYERS:
            found.add(arrow.target)
    return found


def positions_in_range(paths: Sequence[str], layer_range: tuple[str, str]) -> tuple[list[int], list[int]]:
    """The positions of the paths that the first name fits, and of those that the second fits.

    Raises:
        ValueError: A name fits no path; some that are there are named.
    """
    first, last = (_fitting(name, paths) for name in layer_range)
    return first, last


def _fitting(name: str, paths: Sequence[str]) -> list[int]:
    inside = re.compile(rf"{re.escape(name)}(?:[.\[]|$)")
    found = [position for position, path in enumerate(paths) if inside.match(path)]
    found = found or [position for position, path in enumerate(paths) if re.match(name, path)]
    if found:
        return found
    known = [path for path in dict.fromkeys(paths) if path]
    near = difflib.get_close_matches(name, known, n=3) or known[:5]
    raise ValueError(
        f"layer_range: {name!r} fits none of the {len(known)} layers that are shown; some are {', '.join(near)}"
    )
