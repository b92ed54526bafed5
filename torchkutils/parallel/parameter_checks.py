"""Whether the ranks hold the same parameters: asked at the end of every backward pass, without waiting for more.

Three things are looked at, the cheap ones each time:

1. *Counts.* torch counts how often a tensor was changed in place. Ranks that do the same have the same counts, of
   parameters and of gradients that were changed by hand, and the same number of optimizer steps. They are sent as one
   number. Where the numbers differ, or parameters were changed by anything but an optimizer, a *comparison* follows.
   (A change that repeats in each step, as in a loop that updates parameters by hand, is compared once.)
2. *Samples.* Some changes are not counted: through `.data`, through `.numpy()`, other values drawn from other seeds.
   So a sample of the values goes along, another part each time (`ValueSamples`).
3. A *comparison* looks at all values. It is rare: digests first, the values themselves only where those differ.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from torchkutils.parallel.control import Control, Message
from torchkutils.parallel.fingerprints import fingerprint
from torchkutils.parallel.value_samples import ValueSamples, close

TOLERANCE = 1e-4
"""What ranks on different processors may differ by, as a part of a tensor's largest value."""
_MASK = 2**62 - 1
_version = operator.attrgetter("_version")


class ParameterChecks:
    """Tells this rank's state to the others, and raises where it is another one.

    Args:
        tensors: What is trained, alike on all ranks.
        control: How the ranks compare.
    """

    def __init__(self, tensors: Sequence[Tensor], control: Control) -> None:
        self._tensors = list(tensors)
        self._control = control
        self._samples = ValueSamples(tensors)
        self._samples.start()
        self._sampled: list[int] = []
        self._counted = self._explained = self._versions()
        self._usual = 0
        self._steps = 0
        self._gradients_changed = 0
        self._in_step = False

    def _versions(self) -> int:
        return sum(map(_version, self._tensors))

    def step_begins(self) -> None:
        """An optimizer is about to change some of the tensors."""
        self._explained -= self._versions()
        self._in_step = True

    def step_ended(self) -> None:
        """What the tensors' counts grew by since `step_begins` was the optimizer's; without one, it changed none."""
        if self._in_step:
            self._explained += self._versions()
            self._steps += 1
        self._in_step = False

    def gradient_changed(self, times: int) -> None:
        """A gradient was changed in place after the ranks had exchanged it."""
        self._gradients_changed += times

    def message(self) -> tuple[int, tuple[float, float]]:
        """What changed since the last message, as a number, and the sample that was started then."""
        now = self._versions()
        # A backward pass inside an optimizer's step (LBFGS) cannot tell the optimizer's changes from others.
        by_hand = 0 if self._in_step else now - self._explained
        surprising = by_hand not in (0, self._usual)
        state = hash((now - self._counted, by_hand, self._steps, self._gradients_changed))
        self._counted, self._usual = now, by_hand
        self._explained = 0 if self._in_step else now
        self._steps = self._gradients_changed = 0
        pair, self._sampled = self._samples.take()
        return (state << 1 | surprising) & _MASK, pair

    def start_next(self) -> None:
        """Begin the sample that the next message carries."""
        self._samples.start()

    def check(self, everyone: Sequence[Message]) -> None:
        """Refuse to go on with other values than the other ranks have; every rank calls it with the same messages.

        Raises:
            RuntimeError: Ranks hold other values than rank 0.
        """
        first = everyone[0]
        others = [rank for rank, one in enumerate(everyone) if not close(one.pair, first.pair)]
        if others:
            raise _differing(others, self._samples.shapes(self._sampled))
        if any(one.changes != first.changes or one.changes & 1 for one in everyone):
            self._compare()

    def _compare(self) -> None:
        named = [(str(place), tensor.detach()) for place, tensor in enumerate(self._tensors)]
        self._control.agree("comparing the parameters")
        digests = self._control.objects(fingerprint(named))
        if len(set(digests)) == 1:
            return
        wrong = [place for place, tensor in enumerate(self._tensors) if not self._is_firsts(tensor)]
        everyone = self._control.objects(wrong)
        others = [rank for rank, places in enumerate(everyone) if places]
        if others:
            places = sorted(set().union(*everyone))[:3]
            shapes = ", ".join(str(tuple(self._tensors[place].shape)) for place in places)
            raise _differing(others, f"parameters of shape {shapes}")

    def _is_firsts(self, tensor: Tensor) -> bool:
        own = tensor.detach().cpu()
        first = self._control.of_first(own)
        if torch.equal(own, first):
            return True
        if not own.is_floating_point():
            return False
        own, first = own.double(), first.double()
        limit = TOLERANCE * float(first.nan_to_num(posinf=0.0, neginf=0.0).abs().max())
        return bool(torch.isclose(own, first, rtol=0.0, atol=limit, equal_nan=True).all())


def _differing(ranks: Sequence[int], where: str) -> RuntimeError:
    return RuntimeError(
        f"ranks must hold the same parameters, got other values than rank 0's on rank {', '.join(map(str, ranks))} "
        f"(seen in {where}); whatever changes them must do so on every rank: load a state, and draw initial values, "
        "with one seed or on all ranks before multi_gpu_model"
    )
