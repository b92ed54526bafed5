"""multi_gpu_model: one model on several devices, called as one."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from torchkutils.parallel.replicas import Replicas
from torchkutils.parallel.scatter_gather import cut, merge, shard_sizes, shared_batch

Strategy = Literal["auto", "replicate", "ddp", "fsdp"]


def multi_gpu_model(
    model: torch.nn.Module,
    gpus: int | Sequence[int] | None = None,
    cpu_merge: bool = True,
    cpu_relocation: bool = False,
    *,
    devices: Sequence[torch.device | str] | None = None,
    strategy: Strategy = "auto",
    outputs: Literal["merged", "local"] = "merged",
    split: Literal["even", "keras"] = "even",
    buffers: Literal["merged", "first"] = "merged",
    launch: Literal["auto", "serial", "threads"] = "auto",
    shared: Sequence[str] = (),
) -> torch.nn.Module:
    """Cut each batch over several devices, run a replica of the model on each, and merge the outputs.

    Args:
        model: The template; its parameters stay the ones that are trained and saved.
        gpus: None or 0 for all visible GPUs, an int of 2 or more, or a list of two or more GPU ids.
        cpu_merge: Merge the outputs on the CPU (True) or on the first device (False).
        cpu_relocation: Move the template to the CPU, in place, as the master copy of the weights.
        devices: Any torch devices instead of GPUs, repeats allowed: `["cpu", "cpu"]` runs the same code.
        strategy: "replicate", or "auto" for it.
        outputs: "merged" gives one batch, "local" a list with each device's own.
        split: "even" sizes differ by one at most; "keras" gives the rest to the last device.
        buffers: "first" keeps the first replica's running statistics.
        launch: "serial" runs the replicas one after another.
        shared: Names of arguments that go to every replica whole.

    Returns:
        A module that is called as the template is; its attribute `__template__` is the template.

    Raises:
        TypeError: `model` is no module; a NumPy array among the arguments of a call.
        ValueError: Fewer than two GPUs, or GPUs that do not exist, in Keras's words.
        NotImplementedError: A choice that is not there yet; the message names it.

    Differs from Keras: `devices` takes any devices, and scalar outputs are averaged by shard size.

    >>> parallel = multi_gpu_model(torch.nn.Linear(3, 2), devices=["cpu", "cpu"])
    >>> parallel(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model has to be a torch.nn.Module, got {type(model).__name__}")
    _check_choices(strategy, outputs, split, launch, buffers)
    chosen = _devices(gpus, devices)
    if cpu_relocation:
        model.to("cpu")
    where = torch.device("cpu") if cpu_merge else chosen[0]
    return ParallelModel(model, chosen, where, outputs == "merged", split, tuple(shared))


class ParallelModel(torch.nn.Module):
    """A template on several devices; state, attributes, pickles and saved files are the template's."""

    __template__: torch.nn.Module

    def __init__(
        self,
        template: torch.nn.Module,
        devices: list[torch.device],
        merge_device: torch.device,
        merged: bool,
        split: str,
        shared: tuple[str, ...],
    ) -> None:
        super().__init__()
        self._modules["__template__"] = template
        self.__dict__["_replicas"] = Replicas(template, devices)
        self.__dict__["_plan"] = (devices, merge_device, merged, split, shared)

    def __getattr__(self, name: str) -> Any:
        if name == "__template__":
            return self._modules["__template__"]
        return getattr(self._modules["__template__"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Cut, run, merge."""
        devices, merge_device, merged, split, shared = self._plan
        kept = {name: value for name, value in kwargs.items() if name in shared}
        rest = {name: value for name, value in kwargs.items() if name not in shared}
        batch = shared_batch((args, rest))
        sizes = shard_sizes(batch, len(devices), split)
        replicas = self._replicas.current(sum(size > 0 for size in sizes))
        results = []
        first = 0
        for number, (device, size) in enumerate(zip(devices, sizes, strict=True)):
            if size == 0:
                continue
            shard_args, shard_kwargs = cut((args, rest), first, size, device)
            whole = cut(kept, 0, None, device)
            with _named_replica(number, device):
                results.append(replicas[number](*shard_args, **shard_kwargs, **whole))
            first += size
        self._replicas.take_buffers_of_first()
        return merge(results, [size for size in sizes if size], merge_device) if merged else results

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The template's."""
        return self._modules["__template__"].state_dict(*args, **kwargs)  # type: ignore[union-attr]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Into the template."""
        return self._modules["__template__"].load_state_dict(*args, **kwargs)  # type: ignore[union-attr]

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The template's."""
        return self._modules["__template__"].named_parameters(*args, **kwargs)  # type: ignore[union-attr]

    def refresh(self) -> None:
        """Copy weights and buffers anew at the next call, after edits that nothing announces (`p.data.add_`)."""
        self._replicas.forget()

    def __reduce__(self) -> Any:
        return copy.copy, (self._modules["__template__"],)


def _check_choices(strategy: str, outputs: str, split: str, launch: str, buffers: str) -> None:
    allowed = {
        "strategy": (strategy, ("auto", "replicate", "ddp", "fsdp")),
        "outputs": (outputs, ("merged", "local")),
        "split": (split, ("even", "keras")),
        "launch": (launch, ("auto", "serial", "threads")),
        "buffers": (buffers, ("merged", "first")),
    }
    for name, (value, values) in allowed.items():
        if value not in values:
            raise ValueError(f"{name} has to be one of {', '.join(map(repr, values))}; got {value!r}")
    if strategy in ("ddp", "fsdp"):
        raise NotImplementedError(f"strategy={strategy!r} is not there yet; use 'replicate'")
    if launch == "threads":
        raise NotImplementedError("launch='threads' is not there yet; use 'serial'")


def _devices(gpus: Any, devices: Sequence[torch.device | str] | None) -> list[torch.device]:
    if devices is not None:
        if gpus is not None:
            raise ValueError(f"gpus={gpus!r} and devices={list(devices)!r} were both given; give one of them")
        chosen = [torch.device(device) for device in devices]
        if len(chosen) < 2:
            raise ValueError(f"devices has to name two or more devices, got {list(devices)!r}")
        return chosen
    available = torch.cuda.device_count()
    if isinstance(gpus, list | tuple):
        if len(gpus) <= 1:
            raise ValueError(
                "For multi-gpu usage to be effective, call `multi_gpu_model` with `len(gpus) >= 2`. "
                f"Received: `gpus={gpus}`"
            )
        ids = list(gpus)
    else:
        if gpus is not None and (isinstance(gpus, bool) or not isinstance(gpus, int)):
            raise TypeError(f"gpus has to be None, an int or a list of ints, got {gpus!r}")
        count = gpus or available
        if count <= 1:
            raise ValueError(
                "For multi-gpu usage to be effective, call `multi_gpu_model` with `gpus >= 2`. "
                f"Received: `gpus={count}`"
            )
        ids = list(range(count))
    if any(number not in range(available) for number in ids):
        expected = ["/cpu:0", *[f"/gpu:{number}" for number in ids]]
        present = ["/cpu:0", *[f"/gpu:{number}" for number in range(available)]]
        raise ValueError(
            f"To call `multi_gpu_model` with `gpus={gpus}`, we expect the following devices to be available: "
            f"{expected}. However this machine only has: {present}. Try reducing `gpus`."
        )
    return [torch.device("cuda", number) for number in ids]


@contextlib.contextmanager
def _named_replica(number: int, device: torch.device) -> Iterator[None]:
    """An exception keeps its type and says where it happened."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in replica {number} on device {device}")
        raise
