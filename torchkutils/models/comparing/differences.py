"""What differs between the modules of two models that are the same module, and which have no like."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torchkutils.models.comparing.pairs import paired
from torchkutils.models.picture.boxes import agreed, arguments_text, dtypes_of
from torchkutils.models.records import Call, ModuleRecord, Trace, shape_text
from torchkutils.models.table.comparison import Change
from torchkutils.models.tree.totals import held_by_each, totals_of

Status = Literal["changed", "removed", "added"]


@dataclass(frozen=True)
class ModuleDifference:
    """A module that is not the same in both models.

    Attributes:
        status: "changed", "removed" (only the first model has it) or "added" (only the second one has it).
        path: In the first model; None where it is added.
        other_path: In the second model; None where it is removed.
        class_name: In the model that has it, in the first one where both do.
        changes: What changed, each with its value before and after. A path is said to have changed where the module was
            renamed or moved by itself, not where something around it was.
        modules: How many modules are in it, itself among them: what is in a removed or added module has no
            difference of its own.
    """

    status: Status
    path: str | None
    other_path: str | None
    class_name: str
    changes: tuple[Change, ...] = ()
    modules: int = 1

    def __str__(self) -> str:
        if self.status != "changed":
            sign, path = ("-", self.path) if self.status == "removed" else ("+", self.other_path)
            inside = f", with {self.modules - 1} more in it" if self.modules > 1 else ""
            return f"{sign} {path or 'the model'} ({self.class_name}{inside})"
        return f"~ {self.path or 'the model'}: " + "; ".join(map(_said, self._telling()))

    def _telling(self) -> list[Change]:
        """The changes without those that only say the same in other words."""
        facts = {change.fact for change in self.changes}
        implied = {"weights", "trainable_params"} if "params" in facts else set()
        return [change for change in self.changes if change.fact not in implied]


def _said(change: Change) -> str:
    before, after = str(change).removeprefix(f"{change.fact}: ").split(" → ", 1)
    return f"{change.fact} {before or 'none'} → {after or 'none'}"


@dataclass(frozen=True)
class Differences:
    """All differences of two traces.

    Attributes:
        found: In the order of the first model, added modules behind the one that they follow.
        totals: What differs in parameters and FLOPs of the whole.
        pairs: Indexes of the modules that are the same.
        equal: How many pairs do not differ.
    """

    found: tuple[ModuleDifference, ...]
    totals: tuple[Change, ...]
    pairs: dict[int, int]
    equal: int


def differences_of(before: Trace, after: Trace) -> Differences:
    """Compare two models module by module."""
    pairs = paired(before, after)
    facts = _Facts(before), _Facts(after)
    back = {other: one for one, other in pairs.items()}
    added = _added(after, back)
    found: list[ModuleDifference] = []
    equal = 0
    for module in before.modules:
        other = pairs.get(module.index)
        if other is not None:
            changes = tuple(_changes(facts, module, after.modules[other], pairs))
            equal += not changes
            if changes:
                path = after.modules[other].path
                found.append(ModuleDifference("changed", module.path, path, module.class_name, changes))
            found += added.get(other, [])
        elif module.parent in pairs:
            size = _size(before, module.index, pairs)
            found.append(ModuleDifference("removed", module.path, None, module.class_name, modules=size))
    return Differences(tuple(found), tuple(_totals(before, after)), pairs, equal)


def _size(trace: Trace, index: int, pairs: Container[int]) -> int:
    """How many modules without their like are in one, itself among them."""
    stack, count = [index], 0
    while stack:
        module = trace.modules[stack.pop()]
        count += module.index not in pairs
        stack += module.children
    return count


def _added(after: Trace, back: dict[int, int]) -> dict[int, list[ModuleDifference]]:
    """The outermost modules that only the second model has, by the module that they follow or lie in."""
    found: dict[int, list[ModuleDifference]] = {}
    last = 0
    for module in after.modules:
        if module.index in back:
            last = module.index
        elif module.parent is None or module.parent in back:
            size = _size(after, module.index, back)
            difference = ModuleDifference("added", None, module.path, module.class_name, modules=size)
            found.setdefault(last, []).append(difference)
    return found


class _Facts:
    """What is compared of each module of one model."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.held = trace, held_by_each(trace)
        self.calls: dict[int, list[Call]] = {}
        for call in trace.calls:
            self.calls.setdefault(call.module, []).append(call)
        self.ran = trace.engine.ran != "structure"

    def of(self, module: ModuleRecord) -> dict[str, Any]:
        calls = self.calls.get(module.index if module.same_as is None else module.same_as, [])
        held = self.held[module.index]
        facts: dict[str, Any] = {
            "class_name": module.class_name,
            "arguments": module.extra_repr,
            "weights": ", ".join(f"{one.name} {one.shape}" for one in module.parameters),
            "params": None if held.lazy else held.elements,
            "trainable_params": held.trainable,
        }
        if self.ran:
            facts |= {
                "input_shapes": agreed(arguments_text(call.inputs) for call in calls),
                "output_shapes": agreed(shape_text(call.output) for call in calls),
                "dtypes": dtypes_of(calls[0].output) if calls else "",
                "calls": len(calls),
                # Of itself: what lies in it is compared there.
                "flops": sum(call.flops for call in calls),
            }
        return facts


def _changes(
    facts: tuple[_Facts, _Facts], module: ModuleRecord, other: ModuleRecord, pairs: dict[int, int]
) -> Iterator[Change]:
    one, two = facts[0].of(module), facts[1].of(other)
    moved = module.parent is not None and pairs.get(module.parent) != other.parent
    # A number in a list is no name: that it is another one follows from what was put in before it.
    counted = module.name.isdigit() and other.name.isdigit()
    if module.index != 0 and (moved or (module.name != other.name and not counted)):
        yield Change(module.path, "path", module.path, other.path)
    for fact, value in one.items():
        if fact in two and value != two[fact]:
            yield Change(module.path, fact, value, two[fact])


def _totals(before: Trace, after: Trace) -> Iterator[Change]:
    one, two = totals_of(before), totals_of(after)
    facts = {"total_params": "params", "trainable_params": "trainable", "param_bytes": "param_bytes"}
    if before.engine.ran != "structure" and after.engine.ran != "structure":
        facts["flops"] = "flops"
    for fact, name in facts.items():
        if getattr(one, name) != getattr(two, name):
            yield Change("", fact, getattr(one, name), getattr(two, name))
