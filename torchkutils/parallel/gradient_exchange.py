"""No gradient of a rank stays its own: what DistributedDataParallel does not exchange is exchanged here.

DistributedDataParallel (the *engine*) exchanges the gradients of the parameters that it found when it was made, once
for each of its forwards, and only if each of them got one. Everything else it leaves as it is, without a word: a
second backward, a method of the model other than forward, a layer that was put in or unfrozen afterwards. The ranks
then drift apart. So every trained tensor of the template has a hook that notes when it got a gradient, and:

1. A backward pass of the engine's forward (it is *armed*) ends with a message between the ranks: that they are at the
   same point, hold the same parameters (see `ParameterChecks`), and whether each parameter took part. It travels beside
   the engine's last gradients, and is read before the engine waits for them: a rank that is elsewhere (it changed its
   layers, trains by another method) is an error on every rank, and no rank waits for gradients that never come. Where a
   parameter was missing, the rank sends zeros for it, by a backward pass of zeros that lets the engine finish. A
   parameter that took part nowhere keeps its gradient, None or not. Other values than the other ranks' are an error
   once the engine has finished.
2. A backward pass of anything else ends with the mean of its gradients over the ranks. Buffers become rank 0's.
3. Before an optimizer's step, gradients that were exchanged in no such way (put there by hand, or left over from
   `no_sync`) are averaged over the ranks too. The mean of equal gradients changes nothing. A gradient that was
   changed in place after the exchange is used as it is: ranks that did not do so alike see it at the next message.
4. A forward that finds other parameters than the engine has, or other ones trained, makes the engine anew.

Inside `no_sync` nothing is exchanged; the next backward outside sends what added up.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchkutils._torch_versions import after_backward, inside_function_backward
from torchkutils.parallel.collectives import average_gradients, take_from_first
from torchkutils.parallel.control import Control, Message
from torchkutils.parallel.optimizer_steps import watch_steps
from torchkutils.parallel.parameter_checks import ParameterChecks


@dataclass
class _Exchanged:
    """A gradient that is the same on all ranks, and how often it had been changed in place by then.

    The gradient itself is known, not its number, which may belong to a new one as soon as an old one is gone.
    """

    gradient: weakref.ref[Tensor]
    version: int


class _Pass:
    """The backward pass that runs: where the hooks of the engine's parameters note themselves."""

    note: Callable[[int], None] | None = None


class GradientExchange:
    """Watches one template's gradients on this rank.

    Args:
        template: The model.
        control: How the ranks agree.
        device: This rank's.
    """

    def __init__(self, template: nn.Module, control: Control, device: torch.device) -> None:
        self._template = template
        self._control = control
        self._device = device
        self._tensors: list[Tensor] = []
        self._places: dict[int, int] = {}
        self._by_engine: frozenset[int] = frozenset()
        self._completes = True
        self._engine: nn.Module | None = None
        self._checks = ParameterChecks([], control)
        self._hooks: list[Any] = []
        self._armed = False
        self._in_backward = False
        self._sending_zeros = False
        self._pass = _Pass()
        self._fired: set[int] = set()
        self._loose: set[int] = set()
        self._heard: list[Message] = []
        self._has_exchanged = self._has_sorted = False
        self._exchanged: dict[int, _Exchanged] = {}
        self._others: dict[int, weakref.ref[Tensor]] = {}
        watch_steps(self)

    def watch(self, engine: nn.Module | None, *, completes: bool) -> None:
        """Take over the template's tensors as they are now.

        Args:
            engine: The DistributedDataParallel around it; None where it trains no parameter.
            completes: Whether missing gradients are sent as zeros; False where the engine finds them itself.
        """
        self._engine, self._completes = engine, completes
        parameters, buffers = _trained(self._template)
        pending = [self._tensors[place] for place in self._loose]
        self._tensors = [*parameters, *buffers]
        self._places = {id(tensor): place for place, tensor in enumerate(self._tensors)}
        self._by_engine = frozenset(range(len(parameters)) if engine is not None else ())
        # Frozen ones too: every rank computes with them.
        frozen = [parameter for parameter in self._template.parameters() if not parameter.requires_grad]
        self._checks = ParameterChecks([*self._tensors, *frozen], self._control)
        self._armed = self._has_exchanged = self._has_sorted = False
        self._pass.note = None
        self._fired.clear()
        self._exchanged, self._others = {}, {}
        self._loose = {self._places[id(tensor)] for tensor in pending if id(tensor) in self._places}
        self._put_hooks()

    def _put_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        me = weakref.ref(self)
        self._hooks = []
        for place, tensor in enumerate(self._tensors):
            noting = _noting(me, place, self._pass if place in self._by_engine else _Pass())
            self._hooks.append(tensor.register_post_accumulate_grad_hook(noting))  # type: ignore[no-untyped-call]

    def sorts_now(self) -> bool:
        """Whether the engine's forward waits for the other ranks': once, after the first exchange, to sort buckets."""
        if self._has_sorted or not self._has_exchanged or not torch.is_grad_enabled():
            return False
        self._has_sorted = True
        return True

    def arm(self) -> None:
        """The engine's forward ran, and its next backward exchanges gradients."""
        self._armed = True

    def got_gradient(self, place: int) -> None:
        """A tensor's gradient was added up; called by its hook."""
        if self._sending_zeros:
            return
        if not self._in_backward:
            self._in_backward = True
            after_backward(self._backward_ended)
        if self._armed and place in self._by_engine:
            self._fired.add(place)
            self._pass.note = self._fired.add
        else:
            self._loose.add(place)

    @property
    def _collecting(self) -> bool:
        return self._engine is not None and not getattr(self._engine, "require_backward_grad_sync", True)

    @property
    def _joining(self) -> bool:
        # Inside torch's Join a rank without batches answers what DistributedDataParallel asks, and nothing else.
        return bool(getattr(getattr(self._engine, "_join_config", None), "enable", False))

    def _backward_ended(self) -> None:
        self._in_backward = False
        self._pass.note = None
        if self._control.world == 1:
            self._armed = False
            self._fired.clear()
            self._loose.clear()
            return
        # A backward pass inside one (reentrant checkpointing) may be followed by more gradients of the same pass.
        goes_on = len(self._fired) < len(self._by_engine) and inside_function_backward()
        if self._armed and self._fired and not goes_on:
            self._finish_engines()
        if self._loose and not self._armed and not self._collecting and not self._joining:
            self._average("a backward pass outside the parallel model's forward")

    def _finish_engines(self) -> None:
        """See to it that the engine's exchange ends, and ends the same on every rank."""
        missing = sorted(self._by_engine - self._fired)
        idle = [place for place in missing if place not in self._loose]
        self._armed = False
        self._fired.clear()
        self._loose -= self._by_engine
        self._heard = []
        if not self._joining:
            changes, sample = self._checks.message()
            self._heard = self._control.agree(
                "a backward pass of the parallel model",
                number=hash(tuple(missing)) if missing else 0,
                changes=changes,
                pair=sample,
                meanwhile=self._checks.start_next,
            )
            if self._completes and missing:
                self._send_zeros(missing, self._idle_everywhere(self._heard, idle))
        try:
            # After the engine has put the means in place, which it does when backward has ended.
            after_backward(self._engine_finished)
        except RuntimeError:
            self._engine_finished()

    def _idle_everywhere(self, everyone: list[Message], idle: list[int]) -> set[int]:
        """The parameters that took part on no rank; asked only where some are missing on this one."""
        if not all(one.number for one in everyone):
            # A rank had them all, and does not wait.
            return set()
        return set.intersection(*map(set, self._control.objects(idle)))

    def _send_zeros(self, missing: list[int], idle_everywhere: set[int]) -> None:
        """Let the engine finish without the missing gradients; those that are idle on all ranks stay as they are."""
        kept = {place: self._tensors[place].grad for place in idle_everywhere}
        self._sending_zeros = True
        try:
            with torch.enable_grad(), self._all_trained(missing):
                nothing = [self._tensors[place].sum() * 0 for place in missing]
            torch.autograd.backward(nothing)
        finally:
            self._sending_zeros = False
        for place, gradient in kept.items():
            self._tensors[place].grad = gradient

    @contextlib.contextmanager
    def _all_trained(self, places: Iterable[int]) -> Iterator[None]:
        """What was frozen between forward and backward is trained once more: the other ranks wait for its gradient."""
        frozen = [self._tensors[place] for place in places if not self._tensors[place].requires_grad]
        for tensor in frozen:
            tensor.requires_grad_(True)
        try:
            yield
        finally:
            for tensor in frozen:
                tensor.requires_grad_(False)

    def _engine_finished(self) -> None:
        heard, self._heard = self._heard, []
        self._has_exchanged = True
        if heard:
            self._checks.check(heard)
        self._exchanged = {}
        self._remember(place for place in range(len(self._tensors)) if place not in self._loose)

    def _remember(self, places: Iterable[int]) -> None:
        """These gradients are the same on all ranks now."""
        for place in places:
            gradient = self._tensors[place].grad
            if gradient is not None:
                self._exchanged[place] = _Exchanged(weakref.ref(gradient), gradient._version)

    def _is_exchanged(self, place: int) -> bool:
        known, gradient = self._exchanged.get(place), self._tensors[place].grad
        if known is None or gradient is None or known.gradient() is not gradient:
            return False
        if gradient._version != known.version:
            self._checks.gradient_changed(gradient._version - known.version)
            known.version = gradient._version
        return True

    def _average(self, point: str, places: Iterable[int] = ()) -> None:
        """Average gradients over the ranks that the engine left as they were."""
        wanted = sorted({*self._loose, *places})
        training = self._template.training
        everyone = self._control.agree(
            point, number=hash(tuple(wanted)), content=str(training).encode(), unequal=_ANOTHER_MODE
        )
        if len({one.number for one in everyone}) > 1:
            wanted = sorted(set().union(*self._control.objects(wanted)))
        average_gradients([self._tensors[place] for place in wanted])
        self._loose.clear()
        self._remember(wanted)
        buffers = [buffer for buffer in self._template.buffers() if not buffer.requires_grad]
        if buffers and training:
            with torch.inference_mode(False):
                take_from_first(buffers, self._device)

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Exchange what an optimizer is about to use and nobody exchanged."""
        own = [] if self._control.world == 1 or self._joining else self._trained_by(optimizer)
        if not own:
            return
        if self._armed and self._fired:
            self._finish_engines()
        given = [place for place in own if self._tensors[place].grad is not None]
        left = [place for place in given if not self._is_exchanged(place)]
        if left:
            self._average("an optimizer's step with gradients that were not exchanged", left)
        self._checks.step_begins()

    def _trained_by(self, optimizer: torch.optim.Optimizer) -> list[int]:
        trained = (tensor for group in optimizer.param_groups for tensor in group["params"])
        return [self._places[id(tensor)] for tensor in trained if self._is_own(tensor)]

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer's step has ended; it was one of these tensors' if `before_step` saw it begin."""
        self._checks.step_ended()

    def _is_own(self, tensor: Tensor) -> bool:
        key = id(tensor)
        if key in self._places:
            return True
        known = self._others.get(key)
        # A frozen parameter is nobody's; it may be unfrozen later.
        if tensor.grad is None or (known is not None and known() is tensor):
            return False
        if any(own is tensor for own in self._template.parameters()):
            # Put in or unfrozen since the last forward.
            self.watch(self._engine, completes=self._completes)
            return key in self._places
        self._others[key] = weakref.ref(tensor)
        return False


_ANOTHER_MODE = "training must be the same on every rank, got another mode than rank 0's on rank {ranks}"


def _trained(template: nn.Module) -> tuple[list[nn.Parameter], list[Tensor]]:
    """The parameters and buffers of a template that are trained; the engine knows parameters alone."""
    parameters = [parameter for parameter in template.parameters() if parameter.requires_grad]
    return parameters, [buffer for buffer in template.buffers() if buffer.requires_grad and buffer.is_leaf]


def _noting(me: weakref.ref[GradientExchange], place: int, running: _Pass) -> Callable[[Tensor], None]:
    def note(tensor: Tensor) -> None:
        if running.note is not None:
            running.note(place)
            return
        exchange = me()
        if exchange is not None:
            exchange.got_gradient(place)

    return note
