"""What can be told of a model that is not run."""

from __future__ import annotations

import torch

from torchkutils.models.forward.raised_errors import message_of
from torchkutils.models.records import Call, Edge, Engine, ModuleRecord, Node, Run, Trace
from torchkutils.models.restore.restored import in_mode, restored
from torchkutils.models.tree.module_records import module_records
from torchkutils.models.tree.module_tree import ModuleTree
from torchkutils.models.without_running.symbolic import Flow, sequential_flow, symbolic_flow


def structure_trace(tree: ModuleTree, run: Run, why: str) -> Trace:
    """Nothing runs: torch.fx follows forward with symbols; where it cannot, the order of definition is taken.

    Args:
        tree: The model, walked.
        run: Its mode is the training flag that torch.fx sees.
        why: Nothing runs: "no input was given".
    """
    model, records = tree.modules[0], module_records(tree, arguments=run.module_arguments)
    flow = sequential_flow(records, tree.modules)
    if flow is None:
        try:
            flow = _symbolic(tree, run, records)
        except Exception as error:
            message = message_of(error).strip().partition("\n")[0]
            reason = f"{why}, and torch.fx cannot follow it ({type(error).__name__}: {message[:120]})"
            return _in_order(model, run, records, reason)
    return Trace(type(model).__name__, records, *flow, Engine("structure", "symbolic", why), run.mode)


def _symbolic(tree: ModuleTree, run: Run, records: tuple[ModuleRecord, ...]) -> Flow:
    model = tree.modules[0]
    with restored(tree), in_mode(tree, run.mode):
        if "forward" in model.__dict__:
            raise TypeError("the model's own forward is no method of its class")
        return symbolic_flow(model, records)


def _in_order(model: torch.nn.Module, run: Run, records: tuple[ModuleRecord, ...], reason: str) -> Trace:
    """Each module has one call, leaves are joined in order of definition."""
    calls = _one_call_each(records)
    nodes = [Node(0, "input", "input", None, None)]
    for call in calls:
        if call.leaf:
            nodes.append(Node(len(nodes), "call", records[call.module].path or records[0].name, call.index, None))
    nodes.append(Node(len(nodes), "output", "output", None, None))
    edges = tuple(Edge(target - 1, target, guessed=True) for target in range(1, len(nodes)))
    engine = Engine("structure", "definition", reason)
    return Trace(type(model).__name__, records, calls, tuple(nodes), edges, engine, run.mode)


def _one_call_each(records: tuple[ModuleRecord, ...]) -> tuple[Call, ...]:
    """One call of each module, inside that of the module that holds it; of a shared one at its first record."""
    call_of: dict[int | None, int | None] = {None: None}
    calls: list[Call] = []
    for record in records:
        if record.same_as is None:
            call_of[record.index] = len(calls)
            parent = call_of[record.parent]
            calls.append(Call(len(calls), record.index, 0, parent, None, None, 0, False, not record.children))
    return tuple(calls)
