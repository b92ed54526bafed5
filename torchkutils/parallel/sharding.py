"""strategy='fsdp': which parameters are gathered together, what cannot be sharded, and the sharding itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import distributed, nn

from torchkutils._torch_versions import check_sharding_on
from torchkutils.parallel.collectives import take_from_first

GROUP_ELEMENTS = 2**20
"""A block with at least so many parameters is gathered by itself; smaller ones wait for the one around them."""


def is_sharded(template: nn.Module) -> bool:
    """Whether a parameter is spread over ranks already."""
    return any(hasattr(parameter, "full_tensor") for parameter in template.parameters())


def shard(template: nn.Module, device: torch.device, options: Mapping[str, Any]) -> None:
    """Put a template under `fully_shard`, in place; every rank ends with its part of rank 0's values.

    Its blocks (what `nn.Sequential` and `nn.ModuleList` hold) of at least `GROUP_ELEMENTS` parameters are gathered one
    by one, the rest together. Where `fully_shard` was applied to a submodule before, only the rest is added. `options`
    are arguments of `fully_shard`.

    Raises:
        ValueError: Parameters or buffers that `fully_shard` cannot take; the template is as it was.
        RuntimeError: This torch cannot shard on CPUs.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    check_sharding_on(device)
    begun = any(isinstance(module, FSDPModule) for module in template.modules())
    blocks = [] if begun else _blocks(template)
    _check_shardable(template, [*blocks, template])
    take_values_of_first(template, device)
    mesh = options.get("mesh") or init_device_mesh(device.type, (distributed.get_world_size(),))
    arguments = {**options, "mesh": mesh}
    for block in blocks:
        fully_shard(block, **arguments)
    if not isinstance(template, FSDPModule):
        # Freed after forward too: what an optimizer or a file takes between two calls is always the sharded parameter.
        fully_shard(template, **{"reshard_after_forward": True, **arguments})


def take_values_of_first(template: nn.Module, device: torch.device) -> None:
    """Give every rank rank 0's parameters and buffers, where they are not spread already."""
    held = [*template.parameters(), *template.buffers()]
    for tensor in held:
        # One by one: all at once would hold a large model twice.
        if not hasattr(tensor, "full_tensor"):
            take_from_first([tensor], device)


def check_still_sharded(template: nn.Module) -> None:
    """Refuse what was put into the template after it was sharded: its gradients would stay this rank's.

    Raises:
        ValueError: A parameter that is not sharded.
    """
    for name, parameter in template.named_parameters():
        if not hasattr(parameter, "full_tensor"):
            raise ValueError(
                f"every parameter must be sharded under 'fsdp', got {name}, which was put in or replaced afterwards; "
                "call multi_gpu_model again with the template, and make the optimizer after it"
            )


def _blocks(template: nn.Module) -> list[nn.Module]:
    """The blocks that become groups of their own, inner ones first."""
    uses = _uses_of_parameters(template)
    blocks: list[nn.Module] = []
    taken: set[int] = set()
    for block in _candidates(template):
        # A parameter that is tied to one outside must be gathered with it.
        closed = all(uses[key] == count for key, count in _uses_of_parameters(block).items())
        own = [parameter for parameter in block.parameters() if id(parameter) not in taken]
        if closed and sum(parameter.numel() for parameter in own) >= GROUP_ELEMENTS:
            blocks.append(block)
            taken |= {id(parameter) for parameter in own}
    return blocks


def _uses_of_parameters(module: nn.Module) -> Counter[int]:
    return Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))


def _candidates(template: nn.Module) -> list[nn.Module]:
    """What `nn.Sequential` and `nn.ModuleList` hold and can be called, inner ones first."""
    holders = [module for module in template.modules() if isinstance(module, (nn.Sequential, nn.ModuleList))]
    members = dict.fromkeys(child for holder in holders for child in holder.children())
    return [member for member in reversed(list(members)) if not _is_mere_container(member)]


def _is_mere_container(module: nn.Module) -> bool:
    return isinstance(module, (nn.ModuleList, nn.ModuleDict)) and type(module).forward is nn.Module.forward


def _check_shardable(template: nn.Module, groups: Iterable[nn.Module]) -> None:
    for name, parameter in template.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"model must have values to be sharded, got {name} on the meta device")
        if parameter.ndim == 0:
            raise ValueError(f"parameters must have an axis to be sharded, got 0-d {name}; give it shape (1,)")
    for name, buffer in template.named_buffers():
        if buffer.requires_grad:
            raise ValueError(f"buffers must not require grad to be sharded, got {name}; make it a parameter")
    taken: set[int] = set()
    for group in groups:
        own = {name: p for name, p in group.named_parameters() if id(p) not in taken and not hasattr(p, "full_tensor")}
        taken |= {id(parameter) for parameter in own.values()}
        _check_one_dtype(own)


def _check_one_dtype(parameters: Mapping[str, nn.Parameter]) -> None:
    dtypes = {parameter.dtype: name for name, parameter in parameters.items() if parameter.requires_grad}
    if len(dtypes) > 1:
        found = ", ".join(f"{name} in {dtype}" for dtype, name in dtypes.items())
        raise ValueError(
            f"trained parameters must have one dtype to be sharded together, got {found}; convert them, or apply "
            "torch.distributed.fsdp.fully_shard to the parts first"
        )
