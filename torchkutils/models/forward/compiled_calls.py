"""Calls of functions that `torch.compile` made: what runs inside them must not be recorded.

torch.compile follows every Python function that a compiled function runs, a function mode and replaced entry points
too: it fails on them, or compiles once more for each look. So a look that meets such a function ends there
(`CompiledFunctionMet`), all is put back, and forward runs again while `CompiledCalls` tells when this thread enters
and leaves a compiled function: in between, nothing is recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeAlias

from torchkutils._torch_versions import is_call_of_compiled_function

Before: TypeAlias = Callable[[str, tuple[Any, ...], dict[str, Any]], None]


class CompiledFunctionMet(BaseException):
    """A function was about to be compiled while forward is recorded. A BaseException, so that no model catches it."""


class CompiledCalls:
    """Calls `before` and `after` around each compiled function that this thread calls in the block.

    Python's profile function is the only way to hear of a call that costs the callers of other functions little and
    other threads nothing. Where a profiler runs already, it is left alone, and these calls are not seen.

    Args:
        before: Gets the name of the function, its positional and its keyword arguments.
        after: Gets what it returned; None when it raised.
    """

    def __init__(self, before: Before, after: Callable[[Any], None]) -> None:
        self._before, self._after = before, after
        self._running: FrameType | None = None
        self._installed = False

    def __enter__(self) -> None:
        self._installed = sys.getprofile() is None
        if self._installed:
            sys.setprofile(self._profile)

    def __exit__(self, *details: Any) -> None:
        if self._installed:
            sys.setprofile(None)
        self._running = None

    def _profile(self, frame: FrameType, event: str, result: Any) -> None:
        if event == "call" and self._running is None and is_call_of_compiled_function(frame.f_code):
            self._running = frame
            variables = frame.f_locals
            function = variables.get("fn")
            name = getattr(function, "__name__", "function").strip("_")
            self._before(name, variables.get("args", ()), variables.get("kwargs", {}))
        elif event == "return" and frame is self._running:
            self._running = None
            self._after(result)
