"""What stands before a module's `__call__` and `forward` while a recorder watches it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from threading import get_ident
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch

from torchkutils.models.forward.known_layers import (
    Rule,
    hooked,
    only_calls_children,
    runs_plainly,
    stock_forward,
    stock_rule,
)

if TYPE_CHECKING:
    from torchkutils.models.forward.recorder import Recorder

_CALL = torch.nn.Module.__call__
_ENTRIES = ("_compiled_call_impl", "forward")


class _Nobody:
    """Stands for a recorder that has ended: no thread is the one that it watches."""

    thread = 0


_NOBODY: Any = _Nobody()


class Watched:
    """One module under watch: both ways into it lead here, a call of it and a direct call of its forward.

    `nn.Module.__call__` asks for `_compiled_call_impl` first, so that is where we stand; a module compiled in place
    runs as what it is. Other threads pass through.

    Attributes:
        place: Of the module in the tree.
        sequence: What it calls one after the other, where its forward does nothing else; None for other modules.
        closed: It is one box whatever it calls: a script, or a layer whose parametrizations make its weights.
    """

    __slots__ = (
        *("before", "closed", "entry", "forward", "inside", "module", "place", "recorder", "sequence", "straight"),
        "through_torch",
    )

    def __init__(self, recorder: Recorder, module: torch.nn.Module, place: int) -> None:
        self._look_at(module)
        self._stand(recorder, module, place)

    def _look_at(self, module: torch.nn.Module) -> None:
        """What kind of module it is."""
        scripted = isinstance(module, torch.jit.ScriptModule)
        self.module = module
        self.forward = self._own_forward(module.__dict__)
        self.sequence = _sequence(module)
        self.closed = scripted or "parametrizations" in module._modules
        self.through_torch = scripted or type(module)._call_impl is not torch.nn.Module._call_impl

    def _stand(self, recorder: Recorder, module: torch.nn.Module, place: int) -> None:
        """Stand before both ways into the module."""
        self.recorder, self.module, self.place = recorder, module, place
        own = module.__dict__
        self.before: dict[str, Any] | None = None
        if "forward" in own or "_compiled_call_impl" in own:
            self.before = {name: own[name] for name in _ENTRIES if name in own}
        # `inside`: torch's own way of calling runs, and forward comes next; `straight`: no hooks are wanted.
        self.inside, self.straight, self.entry = False, False, None
        own["_compiled_call_impl"] = self.call
        if not isinstance(module, torch.jit.ScriptModule):
            self.entry = own["forward"] = self.direct

    def release(self) -> None:
        """Give the module its own ways back."""
        own = self.module.__dict__
        for name in _ENTRIES:
            own.pop(name, None)
        if self.before is not None:
            own.update(self.before)
        # Whoever kept one of the ways in gets the module's own behind it.
        self.recorder, self.entry = _NOBODY, None

    def __deepcopy__(self, memo: dict[int, Any]) -> Watched:
        """A copy of the module that forward makes has its own forward, and nobody watches it."""
        own = None if self.before is None else self.before.get("forward")
        return _unwatched(memo.get(id(self.module), self.module), self.place, deepcopy(own, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        """So has one that it pickles."""
        own = None if self.before is None else self.before.get("forward")
        return _unwatched, (self.module, self.place, own)

    def _own_forward(self, own: dict[str, Any]) -> Callable[..., Any]:
        """The module's forward; of a compiled module, the module that it wraps."""
        children = self.module._modules
        wrapped = children["_orig_mod"] if "_orig_mod" in children and "forward" in own else None
        return wrapped if isinstance(wrapped, torch.nn.Module) else _uncompiled(self.module.forward)

    def _elsewhere(self) -> Callable[..., Any]:
        """What a call in another thread runs."""
        compiled = None if self.before is None else self.before.get("_compiled_call_impl")
        return compiled or self.module._call_impl

    def looks_away(self) -> bool:
        """Whether it is about to run nothing but modules that are watched themselves."""
        return self.sequence is not None and not self.inside and list(self.module._modules.values()) == self.sequence

    def _replaced(self) -> Callable[..., Any]:
        """What stands where we stood: a forward that the model's own has put there, unless it is another look at it."""
        forward: Callable[..., Any] = self.module.forward
        return self.forward if isinstance(getattr(forward, "__self__", None), Watched) else forward

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Instead of `module(...)`; one frame, as in torch, so that models run as deep as they do there."""
        recorder = self.recorder
        if get_ident() != recorder.thread:
            return self._elsewhere()(*args, **kwargs)
        # Hooks are run by torch's own way of calling, which comes back through `direct`.
        self.inside = not self.straight and (self.through_torch or hooked(self.module.__dict__))
        function: Callable[..., Any] = self.module._call_impl if self.inside else self.forward
        if not self.inside and self.module.__dict__.get("forward") is not self.entry:
            function = self._replaced()
        self.straight = False
        state = recorder.begin(self, args, kwargs)
        try:
            output = function(*args, **kwargs)
        except BaseException as error:
            recorder.abandon(state, error)
            raise
        finally:
            self.inside = False
        return recorder.finish(self, state, output)

    def direct(self, *args: Any, **kwargs: Any) -> Any:
        """Instead of `module.forward(...)`."""
        if get_ident() != self.recorder.thread:
            return self.forward(*args, **kwargs)
        if self.inside:
            self.inside = False
            return self.forward(*args, **kwargs)
        self.straight = True
        return self.call(*args, **kwargs)


def _unwatched(module: torch.nn.Module, place: int, own: Callable[..., Any] | None) -> Watched:
    """What passes calls on to a module's forward, its own or its class's."""
    passing = Watched.__new__(Watched)
    passing.recorder, passing.module, passing.place, passing.before = _NOBODY, module, place, None
    passing.sequence, passing.closed, passing.entry, passing.through_torch = None, False, None, False
    passing.forward = MethodType(type(module).forward, module) if own is None else own
    passing.inside, passing.straight = False, False
    return passing


class WatchedLeaf(Watched):
    """A leaf whose forward is known to the letter: nobody looks on while it runs."""

    __slots__ = ("plain", "rule")

    def __init__(
        self, recorder: Recorder, module: torch.nn.Module, place: int, plain: Callable[..., Any], rule: Rule | None
    ) -> None:
        self.plain, self.rule = plain, rule
        # What `_look_at` would find.
        self.forward = MethodType(plain, module)
        self.sequence, self.closed, self.through_torch = None, False, False
        self._stand(recorder, module, place)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Instead of `module(...)`."""
        recorder = self.recorder
        if get_ident() != recorder.thread or not runs_plainly(self.module.__dict__):
            return Watched.call(self, *args, **kwargs)
        if not recorder.on:
            return recorder.run_leaf(self, args, kwargs)
        if not recorder.step_down():
            return Watched.call(self, *args, **kwargs)
        try:
            return recorder.run_leaf(self, args, kwargs)
        finally:
            recorder.step_up()


def watch(recorder: Recorder, module: torch.nn.Module, place: int) -> Watched:
    """Stand before a module until `release` is called."""
    plain = stock_forward(module)
    if plain is None or type(module)._call_impl is not torch.nn.Module._call_impl:
        return Watched(recorder, module, place)
    return WatchedLeaf(recorder, module, place, plain, stock_rule(module))


def _uncompiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """What `torch.compile` made a forward of, be it the module's own or its class's."""
    plain: Callable[..., Any] | None = getattr(forward, "_torchdynamo_orig_callable", None)
    if plain is None:
        return forward
    return MethodType(plain, forward.__self__) if isinstance(forward, MethodType) else plain


def _sequence(module: torch.nn.Module) -> list[torch.nn.Module | None] | None:
    """The children of a module that only calls them, if torch's own way of calling leads into each."""
    children = list(module._modules.values())
    plain = only_calls_children(module) and all(type(child).__call__ is _CALL for child in children)
    return children if plain else None
