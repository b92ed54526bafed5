"""Sequences whose hooks change themselves in the ways that people's hooks do; importable by spawned workers."""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np
import torch

from torchkutils import Sequence


class Numbers(Sequence):
    """Batch i is the number i."""

    def __init__(self, length=7):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index


class Hooked(Sequence):
    """Batch i is (order[i], the number of hooks so far, the worker's process)."""

    def __init__(self, length=7):
        self.order = list(range(length))
        self.hooks = 0

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        return self.order[index], self.hooks, os.getpid()

    def on_epoch_end(self):
        self.hooks += 1
        self.change()

    def change(self):
        pass


class Rebinding(Hooked):
    def change(self):
        self.order = self.order[::-1]


class ShufflingInPlace(Hooked):
    def change(self):
        random.shuffle(self.order)


class ShufflingAnArray(Hooked):
    def __init__(self, length=7):
        super().__init__(length)
        self.order = np.arange(length)

    def change(self):
        np.random.shuffle(self.order)


class ShufflingATensor(Hooked):
    def __init__(self, length=7):
        super().__init__(length)
        self.order = torch.arange(length)

    def change(self):
        self.order[:] = self.order[torch.randperm(len(self.order))]


class Growing(Hooked):
    def change(self):
        self.order.append(100 + self.hooks)


class EmptyingAndFilling(Hooked):
    def change(self):
        self.order = [] if self.order else [5, 6]


class Nested(Hooked):
    def __init__(self, length=7):
        super().__init__(length)
        self.plan = {"rows": [list(range(length))]}

    def __getitem__(self, index):
        return self.plan["rows"][0][index], self.hooks, os.getpid()

    def change(self):
        self.plan["rows"][0].reverse()
        self.order = list(self.plan["rows"][0])


class OnTheClass(Hooked):
    shared_order = list(range(7))

    def __init__(self, length=7):
        self.hooks = 0
        type(self).shared_order[:] = range(length)

    @property
    def order(self):
        return self.shared_order

    def change(self):
        self.shared_order.reverse()


class Unpicklable(Hooked):
    def __init__(self, length=7):
        super().__init__(length)
        self.reading = lambda value: value

    def change(self):
        self.order.reverse()


class Large(Hooked):
    def __init__(self, length=7):
        super().__init__(length)
        self.ballast = np.zeros(50 * 2**20 // 8)

    def __getitem__(self, index):
        return self.order[index], int(self.ballast[-1]), os.getpid()

    def change(self):
        self.order.reverse()
        self.ballast[-1] = self.hooks


class LargeBeside(Hooked):
    """Much in memory that does not change beside little that does."""

    def __init__(self, length=7):
        super().__init__(length)
        self.ballast = np.arange(50 * 2**20 // 8)
        self.tensor = torch.arange(2**18)

    def __getitem__(self, index):
        return self.order[index], self.hooks, os.getpid()

    def change(self):
        self.order.reverse()


class InSharedMemory(Hooked):
    """The caller edits it while an epoch runs, and workers are to see that."""

    def __init__(self, length=7):
        super().__init__(length)
        self.dial = torch.zeros(1).share_memory_()

    def change(self):
        self.dial += 1


HOOKS = (
    Rebinding,
    ShufflingInPlace,
    ShufflingAnArray,
    ShufflingATensor,
    Growing,
    EmptyingAndFilling,
    Nested,
    OnTheClass,
    Large,
    LargeBeside,
    InSharedMemory,
)


class Drawing(Sequence):
    """Batches that draw from each of the three generators."""

    def __init__(self, length=9):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index, random.random(), float(np.random.random()), float(torch.rand(()))


class Resumable(Hooked):
    """Its hook draws from a generator of its own, which its state holds."""

    def __init__(self, length=11):
        super().__init__(length)
        self.generator = random.Random(3)

    def __getitem__(self, index):
        return self.order[index], self.hooks, random.random()

    def change(self):
        self.generator.shuffle(self.order)

    def state_dict(self):
        return {"order": list(self.order), "hooks": self.hooks, "generator": self.generator.getstate()}

    def load_state_dict(self, state):
        self.order, self.hooks = list(state["order"]), state["hooks"]
        self.generator.setstate(state["generator"])


class OddError(Exception):
    """An exception with arguments of its own that survive a pickle."""

    def __init__(self, code, detail):
        super().__init__(code, detail)
        self.code = code


class BrokenError(Exception):
    """An exception that a pickle cannot bring back."""

    def __init__(self, code, *, detail):
        super().__init__(f"{code}: {detail}")


class Failing(Numbers):
    """Batch 3 raises."""

    def __init__(self, error, length=7):
        super().__init__(length)
        self.error = error

    def __getitem__(self, index):
        if index == 3 and self.error == "stop":
            raise StopIteration
        if index == 3 and self.error == "broken":
            raise BrokenError(7, detail="lost")
        if index == 3 and isinstance(self.error, Exception):
            raise self.error
        if index == 3 and self.error == "none":
            return None
        if index == 3 and self.error == "generator":
            return (number for number in range(3))
        return index


def _raise(error):
    raise error


ENDINGS = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "os._exit(0)": lambda: os._exit(0),
    "os._exit(3)": lambda: os._exit(3),
    "SystemExit: 3": lambda: _raise(SystemExit(3)),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt),
}


class Killing(Hooked):
    """A batch ends its process where a file says so, once; those before are made at once."""

    def __init__(self, flag, length=7, at=3, how="SIGKILL"):
        super().__init__(length)
        self.flag, self.at, self.how = flag, at, how

    def __getitem__(self, index):
        if index == self.at and os.path.exists(self.flag):
            os.remove(self.flag)
            ENDINGS[self.how]()
        return super().__getitem__(index)


class Endless(Numbers):
    """Batch 3 takes longer than anyone waits."""

    def __getitem__(self, index):
        if index == 3:
            time.sleep(600)
        return index


class InitSeen(Numbers):
    """What worker_init_fn put on the worker's Sequence."""

    def __init__(self, length=7):
        super().__init__(length)
        self.hooks = 0

    def __getitem__(self, index):
        return index, self.mark, self.hooks

    def on_epoch_end(self):
        self.hooks += 1


def mark_sequence(worker):
    """A worker_init_fn that works on the user's own dataset, as in torch's documentation."""
    info = torch.utils.data.get_worker_info()
    info.dataset.mark = 10 + worker
