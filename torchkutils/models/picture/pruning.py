"""Boxes that a picture leaves out although the trace has them."""

from __future__ import annotations

from collections.abc import Container, Mapping

from torchkutils.models.picture.boxes import Arrow, Box


def without_loose_boxes(boxes: dict[str, Box], arrows: list[Arrow]) -> dict[str, Box]:
    """The boxes without the parameters, buffers and constants that nothing in the picture takes."""
    linked = {key for arrow in arrows for key in (arrow.source, arrow.target)}
    return {
        key: box for key, box in boxes.items() if key in linked or box.kind not in ("parameter", "buffer", "constant")
    }


def without_steering(
    boxes: dict[str, Box], arrows: list[Arrow], outputs: Container[str]
) -> tuple[dict[str, Box], list[Arrow]]:
    """Leave out functions whose result only decides what Python does: comparisons, and numbers that nothing takes.
    Those that take nothing of the model either (`torch.arange`, indexed and dropped) go whatever they give.

    `outputs` are the boxes that the model's outputs come from.
    """
    takers: dict[str, set[str]] = {}
    givers: dict[str, set[str]] = {}
    for arrow in arrows:
        takers.setdefault(arrow.source, set()).add(arrow.target)
        givers.setdefault(arrow.target, set()).add(arrow.source)

    def steers(key: str) -> bool:
        return boxes[key].kind == "function" and key not in outputs and not takers.get(key)

    fed = _fed(boxes, takers)
    ends = [key for key, box in boxes.items() if steers(key) and (key not in fed or _may_decide(box))]
    dropped: set[str] = set()
    while ends:
        end = ends.pop()
        dropped.add(end)
        for giver in givers.get(end, ()):
            takers[giver].discard(end)
            if steers(giver):
                ends.append(giver)
    return _without(dropped, boxes, arrows)


def _fed(boxes: Mapping[str, Box], takers: Mapping[str, set[str]]) -> set[str]:
    """The boxes that something of the model leads to: an input, a module, a tensor that it holds, what nobody saw."""
    stack = [key for key, box in boxes.items() if box.kind != "function" or box.untraced]
    fed = set(stack)
    while stack:
        new = takers.get(stack.pop(), set()) - fed
        fed |= new
        stack += new
    return fed


def _may_decide(box: Box) -> bool:
    """Whether Python can decide by what a box gives: a comparison, or a single number."""
    return box.dtype == "bool" or box.outputs == "()"


def _without(dropped: set[str], boxes: dict[str, Box], arrows: list[Arrow]) -> tuple[dict[str, Box], list[Arrow]]:
    kept = {key: box for key, box in boxes.items() if key not in dropped}
    return kept, [arrow for arrow in arrows if arrow.source in kept and arrow.target in kept]
