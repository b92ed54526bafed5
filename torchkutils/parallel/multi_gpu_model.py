"""multi_gpu_model: Keras's one line for several devices."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from torchkutils.parallel.batch_axes import Rule, checked_batch_axes
from torchkutils.parallel.devices import check_one_home, gpu_devices, named_devices, warn_without_peer_access
from torchkutils.parallel.distributed_model import DistributedModel
from torchkutils.parallel.engines import checked_options
from torchkutils.parallel.parallel_model import ParallelModel, Settings
from torchkutils.parallel.ranks import in_group, rank_device
from torchkutils.parallel.replicated_model import ReplicatedModel
from torchkutils.parallel.template_view import TemplateView

_CHOICES = {
    "strategy": ("auto", "replicate", "ddp", "fsdp"),
    "outputs": ("merged", "local"),
    "split": ("even", "keras"),
    "buffers": ("merged", "first"),
    "launch": ("auto", "serial", "threads"),
}


def _not_a_module(given: Any) -> str:
    if inspect.isclass(given):
        return f"the class {given.__name__}; give an instance of it: {given.__name__}(...)"
    return type(given).__name__


def multi_gpu_model(
    model: nn.Module,
    gpus: int | Sequence[int] | None = None,
    cpu_merge: bool = True,
    cpu_relocation: bool = False,
    *,
    devices: Iterable[str | torch.device] | None = None,
    strategy: Literal["auto", "replicate", "ddp", "fsdp"] = "auto",
    outputs: str = "merged",
    split: str = "even",
    buffers: str = "merged",
    launch: str = "auto",
    shared: Sequence[str] = (),
    batch_axes: Mapping[str, Rule] | None = None,
    options: Mapping[str, Any] | None = None,
) -> ParallelModel:
    """Replicate a model on several devices: each batch is cut, every replica takes a piece, outputs are merged.

    The result is called as the model is, and shows it: the same Parameter objects, state-dict keys and attributes;
    pickling, `copy.deepcopy` and saving give the model (the "template") itself. Methods of the template other than
    forward run on the template alone; under 'ddp' the gradients of what they compute are exchanged too.

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
        launch: 'serial', 'threads', or 'auto': threads only where they pay. With 'threads' on the CPU, random numbers
            are drawn in an order that differs from run to run.
        shared: Names of arguments that every replica gets whole.
        batch_axes: The axis of the batch by the name of an argument or the path of an output, where it is not 0:
            `{'hidden': 1}`, `{'output[1]': 1}`. 'list' cuts or joins a list with one entry a sample; for numbers and
            other outputs 'sum', 'mean' or 'first' says how to merge them.
        options: Under 'ddp' arguments of DistributedDataParallel (`find_unused_parameters`, `static_graph`,
            `bucket_cap_mb`, …) and `comm_hook`, a function or (state, function); under 'fsdp' of `fully_shard`
            (`mp_policy`, `offload_policy`, `reshard_after_forward`, …).

    Returns:
        A ParallelModel. Tensors in its arguments are cut along axis 0, lists as long as the batch with them; 0-d
        tensors and other values are shared. Outputs are joined along axis 0; 0-d floats are averaged by shard
        length, or, if an argument named `labels` holds -100, means by `cross_entropy` by their number of labels.

    Raises:
        TypeError: `model` is no module, `shared` is no sequence of names, `batch_axes` or `options` no mapping; when
            called: a NumPy array.
        ValueError: Too few or missing devices, an unknown option, weights on several devices; when called: unequal
            lengths along axis 0, no tensor with such an axis, a length of 0, a list that can be read in two ways, or
            an output that cannot be merged (it is named).
        RuntimeError: When called, under 'ddp' and 'fsdp': the forward failed on another rank, a rank is gone, or the
            ranks hold different parameters or do different things.

    Under 'ddp' and 'fsdp' the rank's GPU (by LOCAL_RANK) becomes the current CUDA device of the process. All ranks
    begin with rank 0's values. Layers that are replaced, added or unfrozen later are taken over at the next call under
    'ddp', and refused under 'fsdp', on every rank. Under 'fsdp' the parameters become DTensors, in place: make the
    optimizer afterwards; `state_dict()` holds this rank's parts; `save_model`, `save_weights`, `load_weights` and
    `load_optimizer` are called on every rank, gather and scatter, and rank 0 alone reads or writes the file.

    Differs from Keras: replicas follow any change of the template; uneven splits, nested arguments and any torch
    device are allowed; the keyword-only arguments are new. Optimizer hooks that torch calls before and after every
    optimizer step of the process are registered once.

    >>> import torch
    >>> template = torch.nn.Linear(3, 2)
    >>> parallel = multi_gpu_model(template, devices=["cpu", "cpu"])
    >>> batch = torch.randn(5, 3)
    >>> torch.allclose(parallel(batch), template(batch))
    True
    >>> parallel.weight is template.weight
    True
    """
    _check_choices(strategy=strategy, outputs=outputs, split=split, buffers=buffers, launch=launch)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {_not_a_module(model)}")
    if isinstance(model, TemplateView):
        raise ValueError("model must not be a multi-GPU model already; pass its template, model.__template__")
    if strategy == "auto":
        strategy = "ddp" if in_group() else "replicate"
    settings = Settings(
        outputs, split, buffers, cpu_merge, _shared_names(model, shared), checked_batch_axes(batch_axes)
    )
    engine_options = checked_options(strategy, options)
    if strategy != "replicate":
        check_one_home(model, cpu_relocation)
        _check_distributed(strategy, gpus, devices, launch, cpu_relocation)
        device = rank_device(strategy)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return DistributedModel(model, device, strategy, settings, engine_options)
    places = named_devices(devices, gpus) if devices is not None else gpu_devices(gpus)
    check_one_home(model, cpu_relocation)
    if not cpu_merge and outputs == "merged":
        warn_without_peer_access(places)
    if cpu_relocation:
        model.to("cpu")
    return ReplicatedModel(model, places, settings, launch)


def _check_choices(**chosen: str) -> None:
    for name, value in chosen.items():
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, _CHOICES[name]))}, got {value!r}")


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


def _shared_names(model: nn.Module, shared: Sequence[str]) -> tuple[str, ...]:
    if isinstance(shared, str) or not all(isinstance(name, str) for name in shared):
        raise TypeError(f"shared must be a sequence of argument names, got {shared!r}")
    parameters = inspect.signature(model.forward).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in shared:
        if name not in parameters and not open_ended:
            raise ValueError(f"shared must name arguments of the model's forward, got {name!r}; it has {[*parameters]}")
    return tuple(shared)
