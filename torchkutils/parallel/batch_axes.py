"""`batch_axes`: what the caller says about where the batch lies in arguments and outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

Rule: TypeAlias = int | str
"""An axis of tensors, 'list' (one entry a sample), or how numbers are merged: 'sum', 'mean', 'first'."""

_WORDS = ("list", "sum", "mean", "first")
_TOKEN = re.compile(r"\['([^']*)'\]|\[(-?\w+)\]|([^.\[\]]+)")


class BatchAxes:
    """Rules by path. A rule for a container holds for everything inside; the longest path wins.

    A path is written as in messages: `hidden`, `args[1]`, `output['count']`, `output.logits`, `output[1][0]`; for
    outputs the word `output` may be left out.
    """

    def __init__(self, rules: Mapping[str, Rule] | None) -> None:
        self._rules = {_tokens(path): rule for path, rule in (rules or {}).items()}
        self._known: dict[str, Rule | None] = {}

    def __repr__(self) -> str:
        return f"BatchAxes({sorted(self._rules.items())})"

    def __bool__(self) -> bool:
        return bool(self._rules)

    def rule(self, path: str) -> Rule | None:
        """The caller's rule for what stands at a path; None where there is none."""
        if not self._rules:
            return None
        if path not in self._known:
            self._known[path] = self._looked_up(_tokens(path))
        return self._known[path]

    def _looked_up(self, tokens: tuple[str, ...]) -> Rule | None:
        ways = [tokens, tokens[1:]] if tokens[0] == "output" else [tokens]
        prefixes = (way[:end] for way in ways for end in range(len(way), 0, -1))
        return next((self._rules[one] for one in prefixes if one in self._rules), None)


def checked_batch_axes(rules: Any) -> BatchAxes:
    """The rules of a caller.

    Raises:
        TypeError: No mapping, or a path that is no text.
        ValueError: A rule that is neither an axis nor one of the words.
    """
    if rules is None:
        return BatchAxes(None)
    if not isinstance(rules, Mapping) or not all(isinstance(path, str) for path in rules):
        raise TypeError(f"batch_axes must map names of arguments and outputs to axes, got {rules!r}")
    for path, rule in rules.items():
        is_axis = isinstance(rule, int) and not isinstance(rule, bool) and rule >= 0
        if not is_axis and rule not in _WORDS:
            raise ValueError(
                f"batch_axes must give an axis ≥ 0 or one of {', '.join(map(repr, _WORDS))}, got {rule!r} for {path!r}"
            )
    return BatchAxes(rules)


def _tokens(path: str) -> tuple[str, ...]:
    return tuple(next(filter(None, groups), "") for groups in _TOKEN.findall(path)) or ("",)
