"""No gradient of a rank stays its own: what DistributedDataParallel does not exchange is exchanged here.

DistributedDataParallel (the *engine*) exchanges the gradients of the parameters that it found when it was made, once
for each of its forwards, and only if each of them got one. Everything else it leaves as it is, without a word: a
second backward, a method of the model other than forward, a layer that was put in or unfrozen afterwards. The ranks
then drift apart. So every trained tensor of the template has a hook that notes when it got a gradient, and:

1. A backward pass of the engine's forward (it is *armed*) ends with a word between the ranks: that they are at the
   same point, hold the same parameters (a sample of the values, another one each time), and which parameters took
   part. Where one was missing on a rank, that rank sends zeros for it, by a backward pass of zeros that lets the
   engine finish. A parameter that took part nowhere keeps its gradient, None or not.
2. A backward pass of anything else ends with the mean of its gradients over the ranks. Buffers become rank 0's.
3. Before an optimizer's step, gradients that were exchanged in no such way (put there by hand, or left over from
   `no_sync`) are averaged over the ranks too. The mean of equal gradients changes nothing.
4. A forward that finds other parameters than the engine has, or other ones trained, makes the engine anew.

Inside `no_sync` nothing is exchanged; the next backward outside sends what added up.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from torchkutils._torch_versions import after_backward, inside_function_backward
from torchkutils.parallel.collectives import average_gradients, take_from_first
from torchkutils.parallel.control import Control
from torchkutils.parallel.value_samples import ValueSamples, differing_samples

_exchanges: weakref.WeakSet[GradientExchange] = weakref.WeakSet()
_step_hook: Any = None


def _before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for exchange in list(_exchanges):
        exchange.before_step(optimizer)


def _watch_optimizers() -> None:
    global _step_hook
    if _step_hook is None:
        _step_hook = register_optimizer_step_pre_hook(_before_step)


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
        self._samples = ValueSamples([])
        self._hooks: list[Any] = []
        self._armed = False
        self._in_backward = False
        self._sending_zeros = False
        self._fired: set[int] = set()
        self._loose: set[int] = set()
        # The gradients themselves: a number may belong to a new one as soon as an old one is gone.
        self._exchanged: dict[int, weakref.ref[Tensor]] = {}
        self._others: dict[int, weakref.ref[Tensor]] = {}
        _exchanges.add(self)
        _watch_optimizers()

    def watch(self, engine: nn.Module | None, *, completes: bool) -> None:
        """Take over the template's tensors as they are now.

        Args:
            engine: The DistributedDataParallel around it; None where it trains no parameter.
            completes: Whether missing gradients are sent as zeros; False where the engine finds them itself.
        """
        self._engine, self._completes = engine, completes
        parameters = [p for p in self._template.parameters() if p.requires_grad]
        # The engine knows parameters alone; a buffer that is trained is exchanged here.
        buffers = [b for b in self._template.buffers() if b.requires_grad and b.is_leaf]
        for hook in self._hooks:
            hook.remove()
        pending = [self._tensors[place] for place in self._loose]
        self._tensors = [*parameters, *buffers]
        self._places = {id(tensor): place for place, tensor in enumerate(self._tensors)}
        self._by_engine = frozenset(range(len(parameters)) if engine is not None else ())
        self._samples = ValueSamples(self._tensors)
        self._armed = False
        self._fired, self._exchanged, self._others = set(), {}, {}
        self._loose = {self._places[id(tensor)] for tensor in pending if id(tensor) in self._places}
        me = weakref.ref(self)
        self._hooks = []
        for place, tensor in enumerate(self._tensors):
            hook = tensor.register_post_accumulate_grad_hook(_noting(me, place))  # type: ignore[no-untyped-call]
            self._hooks.append(hook)

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
        if not self._joining:
            everyone = self._control.agree(
                "a backward pass of the parallel model",
                number=hash(tuple(missing)) if missing else 0,
                pair=self._samples.pair(),
            )
            differing_samples(everyone, self._samples.described())
            if self._completes and any(one.number for one in everyone):
                self._send_zeros(missing, idle)
        try:
            # After the engine has put the means in place, which it does when backward has ended.
            after_backward(self._note_exchanged)
        except RuntimeError:
            self._note_exchanged()

    def _send_zeros(self, missing: list[int], idle: list[int]) -> None:
        """Let the engine finish without the missing gradients; those that are idle on all ranks stay as they are."""
        idle_everywhere = set.intersection(*map(set, self._control.objects(idle)))
        kept = {place: self._tensors[place].grad for place in idle_everywhere}
        if missing:
            self._sending_zeros = True
            try:
                with torch.enable_grad():
                    nothing = [self._tensors[place].sum() * 0 for place in missing]
                torch.autograd.backward(nothing)
            finally:
                self._sending_zeros = False
        for place, gradient in kept.items():
            self._tensors[place].grad = gradient

    def _note_exchanged(self) -> None:
        self._exchanged = {}
        self._remember(place for place in range(len(self._tensors)) if place not in self._loose)

    def _remember(self, places: Iterable[int]) -> None:
        """These gradients are the same on all ranks now."""
        for place in places:
            gradient = self._tensors[place].grad
            if gradient is not None:
                self._exchanged[place] = weakref.ref(gradient)

    def _is_exchanged(self, place: int) -> bool:
        known = self._exchanged.get(place)
        return known is not None and known() is self._tensors[place].grad

    def _average(self, point: str, places: Iterable[int] = ()) -> None:
        """Average gradients over the ranks that the engine left as they were."""
        wanted = sorted({*self._loose, *places})
        everyone = self._control.agree(point, number=hash(tuple(wanted)))
        if len({one.number for one in everyone}) > 1:
            wanted = sorted(set().union(*self._control.objects(wanted)))
        average_gradients([self._tensors[place] for place in wanted])
        self._loose.clear()
        self._remember(wanted)
        buffers = [buffer for buffer in self._template.buffers() if not buffer.requires_grad]
        if buffers and self._template.training:
            with torch.inference_mode(False):
                take_from_first(buffers, self._device)

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Exchange what an optimizer is about to use and nobody exchanged."""
        if self._control.world == 1 or self._joining:
            return
        own = [self._places[id(tensor)] for tensor in self._trained_by(optimizer) if self._is_own(tensor)]
        if not own:
            return
        if self._armed and self._fired:
            self._finish_engines()
        left = [place for place in own if not self._is_exchanged(place)]
        if left:
            self._average("an optimizer's step with gradients that were not exchanged", left)

    def _trained_by(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        return [tensor for group in optimizer.param_groups for tensor in group["params"] if tensor.grad is not None]

    def _is_own(self, tensor: Tensor) -> bool:
        key = id(tensor)
        if key in self._places:
            return True
        known = self._others.get(key)
        if known is not None and known() is tensor:
            return False
        if any(own is tensor for own in self._template.parameters()):
            # Put in or unfrozen since the last forward.
            self.watch(self._engine, completes=self._completes)
            return key in self._places
        self._others[key] = weakref.ref(tensor)
        return False


def _noting(me: weakref.ref[GradientExchange], place: int) -> Callable[[Tensor], None]:
    def note(tensor: Tensor) -> None:
        exchange = me()
        if exchange is not None:
            exchange.got_gradient(place)

    return note
