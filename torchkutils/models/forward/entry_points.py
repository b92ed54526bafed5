"""The two ways into a module, `__call__` and `forward`, replaced while a listener is told of its calls.

Why they are replaced, and in which order things happen, is told in this folder's README.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from copy import deepcopy
from threading import get_ident
from types import MethodType
from typing import Any, Protocol

import torch

from torchkutils._torch_versions import MODULE_CALL
from torchkutils.models.forward.known_layers import Rule, hooked, runs_plainly, stock_forward, stock_rule
from torchkutils.models.tree.module_tree import only_calls_children

_CALL = torch.nn.Module.__call__
_REPLACED = ("_compiled_call_impl", "forward")


class CallListener(Protocol):
    """Who is told of the calls of modules.

    Attributes:
        thread: Identity of the only thread whose calls are told; 0 for none.
    """

    thread: int

    def before_call(self, entry: EntryPoints, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call is about to run. What this gives identifies the call to the other two methods."""

    def after_call(self, entry: EntryPoints, call: Any, output: Any) -> Any:
        """It has returned an output. The caller gets what this returns."""

    def call_failed(self, call: Any, error: BaseException) -> None:
        """It raised; the error is raised on afterwards."""

    def run_stock_call(self, entry: StockEntryPoints, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The whole call of a layer of torch.nn without hooks: run `entry.stock_forward`, give its output."""


class _NoListener:
    """The listener of modules whose look has ended: no thread's calls are told."""

    thread = 0


_NO_LISTENER: Any = _NoListener()


class Phase(enum.Enum):
    """What the next entry into a module means.

    Transitions:
        `__call__` with hooks: IDLE or HOOKED → HOOKED; torch's `_call_impl` runs and will enter forward.
        forward, entered while HOOKED: → IDLE; it is the forward of the call that has begun.
        forward, entered while IDLE: → DIRECT → IDLE; it is a call of its own, which runs no hooks.
        the end of a call: → the phase before that call. A pre-hook that calls its own module needs this: when that
        inner call has ended, the next entry into forward still belongs to the outer one.
    """

    IDLE = enum.auto()
    HOOKED = enum.auto()
    DIRECT = enum.auto()


_IDLE, _HOOKED, _DIRECT = Phase


class EntryPoints:
    """The replaced entry points of one module.

    `nn.Module.__call__` runs `_compiled_call_impl` where a module has one, so that attribute is what replaces
    `__call__`. A module that was compiled in place runs as what it is without compilation. Calls in other threads
    run as they always do.

    Attributes:
        index: Of the module in the tree.
        module: The module.
        forward: Its own forward.
        children_only: The modules that it calls one after the other, where its forward does nothing else; else None.
        closed: It is one box whatever it calls: a script, or a layer whose parametrizations make its weights.
        phase: What the next entry means.
    """

    __slots__ = (
        *("_through_torch", "children_only", "closed", "forward", "forward_entry", "index", "listener", "module"),
        *("phase", "stored"),
    )
    module: torch.nn.Module
    forward: Callable[..., Any]
    children_only: Any
    closed: bool
    index: int
    phase: Any
    listener: CallListener
    forward_entry: Any

    def __init__(self, listener: CallListener, module: torch.nn.Module, index: int) -> None:
        scripted = isinstance(module, torch.jit.ScriptModule)
        self.module = module
        self.forward = self._own_forward(module.__dict__)
        self.children_only = _children_only(module)
        self.closed = scripted or "parametrizations" in module._modules
        # A class with a way of calling of its own, and a script, must run by it.
        self._through_torch = scripted or type(module)._call_impl is not MODULE_CALL
        self.index, self.phase = index, _IDLE
        self.replace(listener)

    def replace(self, listener: CallListener) -> None:
        """Replace the module's entry points until `release` is called."""
        self.listener = listener
        own = self.module.__dict__
        self.stored: dict[str, Any] | None = None
        if "forward" in own or "_compiled_call_impl" in own:
            self.stored = {name: own[name] for name in _REPLACED if name in own}
        own["_compiled_call_impl"] = self.call
        self.forward_entry = None
        if not isinstance(self.module, torch.jit.ScriptModule):
            self.forward_entry = own["forward"] = self.enter_forward

    def release(self) -> None:
        """Give the module its own entry points back."""
        own = self.module.__dict__
        for name in _REPLACED:
            own.pop(name, None)
        if self.stored is not None:
            own.update(self.stored)
        # Someone may have kept one of the replacements: from now on it runs the module's own.
        self.listener, self.forward_entry = _NO_LISTENER, None

    def __deepcopy__(self, memo: dict[int, Any]) -> EntryPoints:
        """Of a module that forward copies: the copy has its own forward, and its calls are not recorded."""
        own = None if self.stored is None else self.stored.get("forward")
        return _without_listener(memo.get(id(self.module), self.module), self.index, deepcopy(own, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        """Of a module that forward pickles: as for a copy."""
        own = None if self.stored is None else self.stored.get("forward")
        return _without_listener, (self.module, self.index, own)

    def _own_forward(self, own: dict[str, Any]) -> Callable[..., Any]:
        """The module's forward; for the wrapper that torch.compile makes, the wrapped module."""
        children = self.module._modules
        wrapped = children["_orig_mod"] if "_orig_mod" in children and "forward" in own else None
        return wrapped if isinstance(wrapped, torch.nn.Module) else _uncompiled(self.module.forward)

    def _call_of_other_thread(self) -> Callable[..., Any]:
        compiled = None if self.stored is None else self.stored.get("_compiled_call_impl")
        return compiled or self.module._call_impl

    def runs_only_children(self) -> bool:
        """Whether the call that has just begun is going to run nothing but modules with entry points of their own."""
        known = self.children_only is not None and self.phase is not _HOOKED
        return known and list(self.module._modules.values()) == self.children_only

    def _forward_to_run(self) -> Callable[..., Any]:
        """The module's own forward, or another one that the running model has set in its place."""
        if self.module.__dict__.get("forward") is self.forward_entry:
            return self.forward
        forward: Callable[..., Any] = self.module.forward
        return self.forward if isinstance(getattr(forward, "__self__", None), EntryPoints) else forward

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Replaces `module(...)`. It is one frame, as in torch, so that a model may be as deep as without a look."""
        listener = self.listener
        if get_ident() != listener.thread:
            return self._call_of_other_thread()(*args, **kwargs)
        before = self.phase
        if before is not _DIRECT and (self._through_torch or hooked(self.module.__dict__)):
            # torch's own way of calling runs the hooks and comes back through `enter_forward`.
            self.phase = _HOOKED
            function: Callable[..., Any] = self.module._call_impl
        else:
            self.phase, function = _IDLE, self._forward_to_run()
        call = listener.before_call(self, args, kwargs)
        try:
            output = function(*args, **kwargs)
        except BaseException as error:
            listener.call_failed(call, error)
            raise
        finally:
            self.phase = _IDLE if before is _DIRECT else before
        return listener.after_call(self, call, output)

    def enter_forward(self, *args: Any, **kwargs: Any) -> Any:
        """Replaces `module.forward(...)`."""
        if get_ident() != self.listener.thread:
            return self.forward(*args, **kwargs)
        if self.phase is _HOOKED:
            self.phase = _IDLE
            return self.forward(*args, **kwargs)
        self.phase = _DIRECT
        return self.call(*args, **kwargs)


def _without_listener(module: torch.nn.Module, index: int, own: Callable[..., Any] | None) -> EntryPoints:
    """Entry points that hand calls on to a module's forward, its own or its class's."""
    entry = EntryPoints.__new__(EntryPoints)
    entry.listener, entry.module, entry.index, entry.stored = _NO_LISTENER, module, index, None
    entry.children_only, entry.closed, entry.forward_entry, entry._through_torch = None, False, None, False
    entry.forward = MethodType(type(module).forward, module) if own is None else own
    entry.phase = _IDLE
    return entry


class StockEntryPoints(EntryPoints):
    """Those of a layer of torch.nn whose forward calls no other module and is known (`known_layers`).

    Attributes:
        stock_forward: The forward of its class.
        rule: How to count its operations; None where they are none or counted elsewhere.
    """

    __slots__ = ("rule", "stock_forward")
    rule: Rule | None
    stock_forward: Callable[..., Any]

    def __init__(
        self,
        listener: CallListener,
        module: torch.nn.Module,
        index: int,
        stock_forward: Callable[..., Any],
        rule: Rule | None,
    ) -> None:
        self.module, self.index, self.phase = module, index, _IDLE
        self.stock_forward, self.rule = stock_forward, rule
        # What the constructor of `EntryPoints` would find: most modules are such layers.
        self.forward = MethodType(stock_forward, module)
        self.children_only, self.closed, self._through_torch = None, False, False
        self.replace(listener)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Replaces `module(...)`."""
        listener = self.listener
        if get_ident() != listener.thread or not runs_plainly(self.module.__dict__):
            return EntryPoints.call(self, *args, **kwargs)
        if self.phase is _DIRECT:
            self.phase = _IDLE
        return listener.run_stock_call(self, args, kwargs)


def replace_entry_points(
    listener: CallListener, module: torch.nn.Module, index: int, *, inside_too: bool = False
) -> EntryPoints:
    """Replace a module's entry points until `release` is called.

    Args:
        listener: Is told of the calls.
        module: Whose they are.
        index: Of the module in the tree.
        inside_too: The functions inside must be seen, even where the layer is known.
    """
    forward = None if inside_too else stock_forward(module)
    if forward is None or type(module)._call_impl is not MODULE_CALL:
        return EntryPoints(listener, module, index)
    return StockEntryPoints(listener, module, index, forward, stock_rule(module))


def _uncompiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The function that `torch.compile` was given to make this forward, the module's own or its class's."""
    plain: Callable[..., Any] | None = getattr(forward, "_torchdynamo_orig_callable", None)
    if plain is None:
        return forward
    return MethodType(plain, forward.__self__) if isinstance(forward, MethodType) else plain


def _children_only(module: torch.nn.Module) -> list[torch.nn.Module | None] | None:
    """The children of a module that only calls them, if `__call__` of each is torch's."""
    if not only_calls_children(module):
        return None
    children = list(module._modules.values())
    classes = set(map(type, children))
    return children if all(kind.__call__ is _CALL for kind in classes) else None
