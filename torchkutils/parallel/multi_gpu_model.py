"""multi_gpu_model: Keras's one line for several devices."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from torchkutils.parallel.distributed import DistributedModel, RankOptions
from torchkutils.parallel.parallel_model import ParallelModel, TemplateView
from torchkutils.parallel.ranks import in_group, rank_device

_CHOICES = {
    "strategy": ("auto", "replicate", "ddp", "fsdp"),
    "outputs": ("merged", "local"),
    "split": ("even", "keras"),
    "buffers": ("merged", "first"),
    "launch": ("auto", "serial", "threads"),
}


def multi_gpu_model(
    model: nn.Module,
    gpus: int | Sequence[int] | None = None,
    cpu_merge: bool = True,
    cpu_relocation: bool = False,
    *,
    devices: Iterable[str | torch.device] | None = None,
    strategy: str = "auto",
    outputs: str = "merged",
    split: str = "even",
    buffers: str = "merged",
    launch: str = "auto",
    shared: Sequence[str] = (),
) -> nn.Module:
    """Replicate a model on several devices: each batch is cut, every replica takes a piece, outputs are merged.

    The result is called as the model is, and shows it: the same Parameter objects, state-dict keys and attributes;
    pickling, `copy.deepcopy` and saving give the model (the "template") itself. What is called on the result other
    than itself and `sharded_loss` (a method of the template) runs on the template alone.

    Args:
        model: The template. Its weights stay where they are: on the CPU, or on one device.
        gpus: None or 0 for all visible GPUs, a number ≥ 2, or a list of two or more ids.
        cpu_merge: Merge outputs on the CPU; False: on the first device. (Keras's page says that it merges weights;
            its code merges outputs.) The loss is computed where the outputs are.
        cpu_relocation: First move the template to the CPU, in place.
        devices: Any torch devices instead of `gpus`, repeats allowed: `['cpu', 'cpu']` runs the same code.
        strategy: 'replicate' (one process); 'ddp' (torch.distributed, one process a device, any number of machines,
            under torchrun; `gpus` must be None); 'fsdp' (the same by `fully_shard`: each rank holds a part of every
            parameter, gradient and optimizer state); 'auto': 'ddp' in a process group of more than one, else
            'replicate'.
        outputs: 'merged', or 'local': a list of each replica's outputs, left on its device. Under 'ddp' and 'fsdp'
            'merged' takes the same batch on every rank and gives each the whole outputs, 'local' takes each rank's own
            batch and gives its own outputs.
        split: 'even': sizes differ by one at most; 'keras': rounded down, the rest to the last device.
        buffers: 'merged': running statistics of BatchNorm and InstanceNorm become those of all shards together;
            'first': the first shard's, as in DataParallel. Other buffers are the first replica's. Between
            ranks so after each forward in training mode (with 'local' outputs: and with grad).
        launch: 'serial', 'threads', or 'auto': threads only on CPUs where they pay. With 'threads' on the CPU,
            random numbers are drawn in an order that differs from run to run.
        shared: Names of arguments that every replica gets whole.

    Returns:
        A module. Tensors in its arguments are cut along axis 0; 0-d tensors and other values are shared. Outputs
        are joined along axis 0; 0-d outputs are averaged by shard length.

    Raises:
        TypeError: `model` is no module, `shared` is no sequence of names; when called: a NumPy array.
        ValueError: Too few or missing devices, an unknown option, weights on several devices; when called: unequal
            lengths along axis 0, no tensor with such an axis, or a length of 0.
        RuntimeError: When called, under 'ddp' and 'fsdp': the forward failed on another rank, or a rank is gone.

    Under 'fsdp' the parameters become DTensors, in place: make the optimizer afterwards; `state_dict()` holds this
    rank's parts; `save_model`, `save_weights`, `load_weights` and `load_optimizer` are called on every rank, gather and
    scatter, and rank 0 alone reads or writes the file. All ranks begin with rank 0's values, under 'ddp' too.

    Differs from Keras: replicas follow any change of the template; uneven splits, nested arguments and any torch
    device are allowed; `outputs`, `split`, `buffers`, `launch` and `shared` are new. An optimizer hook that torch
    calls after every optimizer step of the process is registered once, to count the steps.

    >>> import torch
    >>> template = torch.nn.Linear(3, 2)
    >>> parallel = multi_gpu_model(template, devices=["cpu", "cpu"])
    >>> batch = torch.randn(5, 3)
    >>> torch.allclose(parallel(batch), template(batch))
    True
    >>> parallel.weight is template.weight
    True
    """
    chosen = {"strategy": strategy, "outputs": outputs, "split": split, "buffers": buffers, "launch": launch}
    for name, value in chosen.items():
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, _CHOICES[name]))}, got {value!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, TemplateView):
        raise ValueError("model must not be a multi-GPU model already; pass its template, model.__template__")
    if strategy in ("ddp", "fsdp") or (strategy == "auto" and in_group()):
        strategy = "ddp" if strategy == "auto" else strategy
        _check_one_home(model, cpu_relocation)
        names = _shared_names(model, shared)
        _check_distributed(strategy, gpus, devices, launch, cpu_relocation)
        options = RankOptions(strategy, outputs, split, buffers, cpu_merge, names)
        return DistributedModel(model, rank_device(strategy), options)
    places = _named_devices(devices, gpus) if devices is not None else _gpu_devices(gpus)
    _check_one_home(model, cpu_relocation)
    names = _shared_names(model, shared)
    if not cpu_merge and outputs == "merged":
        _warn_without_peer_access(places)
    if cpu_relocation:
        model.to("cpu")
    merge_on = torch.device("cpu") if cpu_merge else places[0]
    return ParallelModel(
        model, places, merge_on=merge_on, outputs=outputs, split=split, buffers=buffers, launch=launch, shared=names
    )


def _check_distributed(strategy: str, gpus: Any, devices: Any, launch: str, cpu_relocation: bool) -> None:
    if launch != "auto":
        raise ValueError(f"launch must be 'auto' under {strategy!r}, where each rank has one replica, got {launch!r}")
    if cpu_relocation:
        raise ValueError(
            f"cpu_relocation must be False under {strategy!r}, which moves the model to its rank, got True"
        )
    if gpus is not None or devices is not None:
        raise ValueError(
            f"gpus and devices must be None under {strategy!r}, where LOCAL_RANK decides, got {gpus=}, {devices=}"
        )


def _gpu_devices(gpus: int | Sequence[int] | None) -> list[torch.device]:
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus is None or (isinstance(gpus, int) and gpus == 0 and not isinstance(gpus, bool)):
        gpus = available
    if isinstance(gpus, (list, tuple, range)):
        if len(gpus) <= 1:
            raise ValueError(
                "For multi-gpu usage to be effective, call `multi_gpu_model` with `len(gpus) >= 2`. "
                f"Received: `gpus={gpus}`"
            )
        numbers = list(gpus)
    elif isinstance(gpus, int) and gpus > 1:
        numbers = list(range(gpus))
    else:
        raise ValueError(
            f"For multi-gpu usage to be effective, call `multi_gpu_model` with `gpus >= 2`. Received: `gpus={gpus}`"
            + ("" if available else "; devices=['cpu', 'cpu'] runs the same code without GPUs")
        )
    if any(not isinstance(number, int) or isinstance(number, bool) for number in numbers):
        raise ValueError(f"gpus must hold the ids of GPUs as integers, got {numbers}")
    if any(not 0 <= number < available for number in numbers):
        wanted = ["cpu", *(f"cuda:{number}" for number in numbers)]
        here = ["cpu", *(f"cuda:{number}" for number in range(available))]
        raise ValueError(
            f"To call `multi_gpu_model` with `gpus={gpus}`, we expect the following devices to be available: {wanted}. "
            f"However this machine only has: {here}. Try reducing `gpus`."
        )
    return [torch.device("cuda", number) for number in numbers]


def _named_devices(devices: Iterable[str | torch.device], gpus: Any) -> list[torch.device]:
    if gpus is not None:
        raise ValueError(f"gpus and devices name the same thing; give one of them, got gpus={gpus} and {devices=}")
    if isinstance(devices, (str, torch.device)):
        raise TypeError(f"devices must be a list of devices, got {devices!r}; write [{str(devices)!r}, ...]")
    names = list(devices)
    if not names:
        raise ValueError("devices must name at least one device, got an empty list")
    return [_existing(name) for name in names]


def _existing(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        # cpu:0 and cuda have other names once a tensor lies there.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as err:
        raise ValueError(f"devices must exist on this machine, got {name!r}: {str(err).splitlines()[0]}") from err


def _check_one_home(model: nn.Module, relocating: bool) -> None:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"model must be initialised, got lazy parameter {name}; call the model once first")
    homes = {tensor.device: name for name, tensor in tensors}
    if len(homes) > 1 and not relocating:
        where = ", ".join(f"{name} on {device}" for device, name in homes.items())
        raise ValueError(f"model must lie on one device, got {where}; move it, or pass cpu_relocation=True")


def _shared_names(model: nn.Module, shared: Sequence[str]) -> tuple[str, ...]:
    if isinstance(shared, str) or not all(isinstance(name, str) for name in shared):
        raise TypeError(f"shared must be a sequence of argument names, got {shared!r}")
    parameters = inspect.signature(model.forward).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in shared:
        if name not in parameters and not open_ended:
            raise ValueError(f"shared must name arguments of the model's forward, got {name!r}; it has {[*parameters]}")
    return tuple(shared)


def _warn_without_peer_access(places: Sequence[torch.device]) -> None:
    first = places[0]
    for device in places[1:]:
        distinct_gpus = first.type == device.type == "cuda" and first != device
        if distinct_gpus and not torch.cuda.can_device_access_peer(first, device):
            warnings.warn(
                f"cpu_merge=False merges on {first}, which cannot access {device} directly: cpu_merge=True may be "
                "faster",
                stacklevel=3,
            )
            return
