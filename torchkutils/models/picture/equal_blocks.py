"""Modules that stand side by side and are equal: the blocks of a transformer, drawn once where that is asked for."""

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
    """The same graph with each chain of equal blocks as one box, which says how many it stands for.

    A block joins the one before it where it takes that one's output, gives its own to nobody but the next one, and
    takes everything else from where the first one takes it.
    """
    chains = _chains(boxes, arrows, siblings)
    first_of = {key: chain[0] for chain in chains for key in chain}
    last = {chain[-1] for chain in chains}
    kept = {key: box for key, box in boxes.items() if first_of.get(key, key) == key}
    for chain in chains:
        kept[chain[0]].folded = len(chain)
        kept[chain[0]].until = boxes[chain[-1]].title
    remaining = []
    for arrow in arrows:
        source, target = first_of.get(arrow.source, arrow.source), first_of.get(arrow.target, arrow.target)
        inside = source == target and arrow.source != arrow.target
        repeated = arrow.target != target
        if inside or repeated or (arrow.source in first_of and arrow.source not in last):
            continue
        remaining.append(Arrow(source, target, arrow.count, arrow.guessed))
    return kept, remaining


def _chains(boxes: dict[str, Box], arrows: list[Arrow], siblings: dict[int, int]) -> list[list[str]]:
    takes: dict[str, set[str]] = {}
    gives: dict[str, set[str]] = {}
    for arrow in arrows:
        takes.setdefault(arrow.target, set()).add(arrow.source)
        gives.setdefault(arrow.source, set()).add(arrow.target)
    chains: list[list[str]] = []
    for key, box in boxes.items():
        if box.module is None or box.module not in siblings or len(box.calls) > 1 or box.failed:
            continue
        chain = chains[-1] if chains else []
        before = boxes[chain[-1]].module if chain else None
        equal = before is not None and siblings[before] == siblings[box.module]
        if (
            equal
            and gives.get(chain[-1]) == {key}
            and takes.get(key, set()) - {chain[-1]} <= takes.get(chain[0], set())
        ):
            chain.append(key)
        else:
            chains.append([key])
    return [chain for chain in chains if len(chain) > 1]
