"""The function mode of a look, and the only module that touches torch's stack of function modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch.overrides import TorchFunctionMode

from torchkutils._torch_versions import (
    function_mode_at,
    function_modes,
    pop_function_mode,
    push_function_mode,
)

RunFunction: TypeAlias = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
FunctionFailed: TypeAlias = Callable[[Exception, Callable[..., Any], tuple[Any, ...], dict[str, Any]], None]


def _run_unseen(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


def _ignore(*failure: Any) -> None:
    """Nothing is recorded any more."""


class FunctionMode(TorchFunctionMode):
    """Hands each torch function that this thread calls to `run_function`, which runs it and gives its result.
    What a function raised is told to `function_failed`.

    The mode is popped from torch's stack while only known code runs, since each function costs more with it; see
    "Why the mode is popped" in this folder's README.

    Attributes:
        on: Whether the mode is on torch's stack.
    """

    on: bool

    def __init__(self, run_function: RunFunction, function_failed: FunctionFailed) -> None:
        super().__init__()
        self.on = False
        self._run_function, self._function_failed = run_function, function_failed

    def __enter__(self) -> FunctionMode:
        super().__enter__()  # type: ignore[no-untyped-call]
        self.on = True
        return self

    def __exit__(self, *details: Any) -> None:
        if not self._is_on_stack():
            # An interrupt may arrive between `pop_mode` and `push_mode`. torch's own exit pops one mode.
            self.push_mode()
        super().__exit__(*details)  # type: ignore[no-untyped-call]
        self.on = False
        # The recorder and its mode would hold each other, and all that was recorded, until garbage is collected.
        self._run_function, self._function_failed = _run_unseen, _ignore

    def _is_on_stack(self) -> bool:
        return any(function_mode_at(level) is self for level in range(function_modes()))

    def pop_mode(self) -> bool:
        """Take the mode from torch's stack; False, and nothing is done, where another mode lies above it."""
        if not function_modes():
            return False
        top = pop_function_mode()
        if top is not self:
            push_function_mode(top)
            return False
        self.on = False
        return True

    def push_mode(self) -> None:
        """Put the mode on torch's stack again."""
        push_function_mode(self)
        self.on = True

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        try:
            return self._run_function(function, args, kwargs or {})
        except Exception as error:
            self._function_failed(error, function, args, kwargs or {})
            raise
