"""Devices that are only claimed: tensors that say meta:0, meta:1, … and hold their values on the CPU.

Inside `SimulatedDevices()` a copy to such a device gives a `Claimed` tensor; an operation on tensors of two devices
raises, as on real ones, and every copy between devices is counted.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map


class Claimed(torch.Tensor):
    @staticmethod
    def __new__(cls, held, device):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=device, requires_grad=False
        )

    def __init__(self, held, device):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {}, None)


class SimulatedDevices(TorchDispatchMode):
    """Counts copies between devices in `copies[(from, to)]`, and their bytes in `bytes`.

    `events` holds the copies and the products of matrices ("mm") in the order in which they happened.
    """

    def __init__(self):
        super().__init__()
        self.copies = Counter()
        self.bytes = Counter()
        self.events = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.mm.default:
            self.events.append("mm")
        return _run(func, args, kwargs or {}, self)

    def count(self, source, target, tensor):
        self.events.append((str(source), str(target)))
        self.copies[str(source), str(target)] += 1
        self.bytes[str(source), str(target)] += tensor.numel() * tensor.element_size()

    def forget(self):
        self.copies.clear()
        self.bytes.clear()
        self.events.clear()


def _run(func, args, kwargs, mode):
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    devices = {tensor.device for tensor in tensors}
    if func._schema.name == "aten::to" and mode is not None:
        with mode:
            return func.decompose(*args, **kwargs)
    if func is torch.ops.aten._to_copy.default:
        return _copy(args[0], kwargs, mode)
    if func is torch.ops.aten.copy_.default and len(devices) == 2:
        mode.count(args[1].device, args[0].device, args[1])
        plain(args[0]).copy_(plain(args[1]))
        return args[0]
    simulated = {device for device in devices if device.type == "meta"}
    asked = kwargs.get("device")
    if asked is not None and torch.device(asked).type == "meta":
        # What makes a tensor anew on a device (empty_like) may be told of one on another.
        held = func(*tree_map(plain, args), **{**tree_map(plain, kwargs), "device": torch.device("cpu")})
        return tree_map(lambda value: claim(value, torch.device(asked)), held)
    if not simulated:
        return func(*args, **kwargs)
    # As on a GPU, a CPU scalar may join.
    if len(simulated) > 1 or any(t.device.type == "cpu" and t.ndim for t in tensors):
        raise RuntimeError(f"{func}: tensors on {sorted(map(str, devices))}")
    device = simulated.pop()
    held = func(*tree_map(plain, args), **tree_map(plain, kwargs))
    if func._schema.is_mutable and isinstance(held, torch.Tensor):
        return next((t for t in tensors if isinstance(t, Claimed) and t.held is held), claim(held, device))
    return tree_map(lambda value: claim(value, device), held)


def _copy(source, options, mode):
    target = torch.device(options.get("device") or source.device)
    held = torch.ops.aten._to_copy.default(plain(source), **{**options, "device": torch.device("cpu")})
    if target != source.device and mode is not None:
        mode.count(source.device, target, source)
    return claim(held, target) if target.type == "meta" else held


def plain(value):
    return value.held if isinstance(value, Claimed) else value


def claim(value, device):
    return Claimed(value, device) if isinstance(value, torch.Tensor) and not isinstance(value, Claimed) else value
