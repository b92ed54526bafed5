"""Equal modules that follow each other, as the blocks of a transformer: drawn once where `fold` asks for it."""

from __future__ import annotations

from collections.abc import Hashable

from torchkutils.models.picture.boxes import Arrow, Box
from torchkutils.models.records import ModuleRecord, Trace


def equal_siblings(trace: Trace) -> dict[int, int]:
    """For each module with an equal one beside it a number that they share; others are left out.

    Equal means the same classes with the same arguments and shapes, all the way down, and not the same object.
    """
    prints: dict[int, Hashable] = {}
    for module in reversed(trace.modules):
        prints[module.index] = _print_of(module, prints)
    runs: dict[int, int] = {}
    for module in trace.modules:
        for one, other in zip(module.children, module.children[1:], strict=False):
            if prints[one] == prints[other] and trace.modules[one].children:
                runs.setdefault(one, one)
                runs[other] = runs[one]
    return runs


def _print_of(module: ModuleRecord, prints: dict[int, Hashable]) -> Hashable:
    tensors = tuple(
        (tensor.name, tensor.shape, tensor.dtype, tensor.requires_grad)
        for tensor in (*module.parameters, *module.buffers)
    )
    inside = tuple([prints[child] for child in module.children])
    return module.class_name, module.extra_repr, tensors, inside, module.same_as


def folded(boxes: dict[str, Box], arrows: list[Arrow], siblings: dict[int, int]) -> tuple[dict[str, Box], list[Arrow]]:
    """The same graph with each chain of equal blocks as one box, which says how many blocks it shows.

    A block joins the one before it where it takes that one's output, gives its own output only to the next one, and
    takes everything else from where the first block takes it.
    """
    chains = _chains(boxes, arrows, siblings)
    first_of: dict[str, str] = {}
    for chain in chains:
        boxes[chain[0]].folded = len(chain)
        boxes[chain[0]].until = boxes[chain[-1]].title
        first_of |= dict.fromkeys(chain, chain[0])
    last = {chain[-1] for chain in chains}
    remaining = []
    for arrow in arrows:
        source, target = first_of.get(arrow.source, arrow.source), first_of.get(arrow.target, arrow.target)
        inside = source == target and arrow.source != arrow.target
        # What every block of a chain takes is drawn once, to the first; what the chain gives comes from the last.
        repeated = arrow.target != target
        from_within = arrow.source in first_of and arrow.source not in last
        if not (inside or repeated or from_within):
            remaining.append(Arrow(source, target, arrow.count, arrow.guessed))
    return {key: box for key, box in boxes.items() if first_of.get(key, key) == key}, remaining


def _chains(boxes: dict[str, Box], arrows: list[Arrow], siblings: dict[int, int]) -> list[list[str]]:
    """The keys of blocks that fold into one, a list for each chain of at least two."""
    neighbours = _Neighbours(arrows)
    chains: list[list[str]] = []
    group = None
    for key, box in boxes.items():
        own = None if box.module is None else siblings.get(box.module)
        if own is None or len(box.calls) > 1 or box.failed:
            continue
        if own == group and neighbours.joins(key, chains[-1]):
            chains[-1].append(key)
        else:
            chains.append([key])
        group = own
    return [chain for chain in chains if len(chain) > 1]


class _Neighbours:
    """For each box the boxes that it takes from and gives to."""

    def __init__(self, arrows: list[Arrow]) -> None:
        self._takes: dict[str, set[str]] = {}
        self._gives: dict[str, set[str]] = {}
        for arrow in arrows:
            self._takes.setdefault(arrow.target, set()).add(arrow.source)
            self._gives.setdefault(arrow.source, set()).add(arrow.target)

    def joins(self, key: str, chain: list[str]) -> bool:
        """Whether a box continues a chain."""
        last = chain[-1]
        others = self._takes.get(key, set()) - {last}
        return self._gives.get(last) == {key} and others <= self._takes.get(chain[0], set())
