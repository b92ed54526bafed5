"""SequenceLoader: epochs of batches over a DataLoader, with the hook, workers that stay alive, shards and resuming."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import GeneratorType, NoneType
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from torchkutils.data.loader_state import Place, check_state
from torchkutils.data.sequence import Sequence, batches_in, checked_batch, has_hook
from torchkutils.data.sequence_worker import Failure
from torchkutils.data.shards import World, whole_number
from torchkutils.data.worker_crew import WorkerCrew, worker_options

_NO_BATCHES = frozenset({NoneType, GeneratorType, Failure})


class SequenceLoader:
    """One epoch of a Sequence's batches an iteration; made by `Sequence.loader`, which lists the arguments.

    Each epoch gives every batch exactly once (of this rank's share, where there are several), in index order unless
    `shuffle`. Arrays become tensors, as from `DataLoader(sequence, batch_size=None)`.

    `on_epoch_end` runs once for each finished epoch, in the calling process, when the iterator is asked past its last
    batch; an epoch that is left early does not run it, but has used up its number. Whatever the hook, or the caller
    between epochs, changed in what the Sequence reaches through its attributes is what the workers use in the next
    epoch. They stay alive when nothing changed or what changed can be sent to them (a pickle of at most 4 MiB, 64 MiB
    where workers are not forked); otherwise they are started anew. What is not reached through attributes, such as a
    module's global variables, is not followed.

    In workers the random numbers that `__getitem__` draws from torch, NumPy or random are fixed by (seed, epoch, batch
    index), whatever the number of workers; without workers the process's own generators are used.

    An exception in a worker reaches the caller with its type, its attributes and a note that names the batch; the epoch
    may go on after it. A worker that is killed is a RuntimeError; the next epoch starts new workers.

    >>> class Numbers(Sequence):
    ...     def __len__(self):
    ...         return 3
    ...     def __getitem__(self, index):
    ...         return index * 10
    >>> loader = Numbers().loader()
    >>> epoch = iter(loader)
    >>> next(epoch)
    0
    >>> again = Numbers().loader()
    >>> again.load_state_dict(loader.state_dict())
    >>> list(again)
    [10, 20]
    """

    def __init__(
        self,
        sequence: Sequence,
        *,
        num_workers: int = 0,
        shuffle: bool = False,
        seed: int = 0,
        pin_memory: bool = False,
        prefetch_factor: int = 2,
        timeout: float = 0,
        multiprocessing_context: Any = None,
        worker_init_fn: Callable[[int], None] | None = None,
        rank: int | None = None,
        world_size: int | Literal["auto"] | None = None,
        shard: Literal["pad", "drop", "uneven"] = "pad",
        collate_fn: Callable[[Any], Any] | None = None,
    ) -> None:
        if not isinstance(sequence, Sequence):
            raise TypeError(f"sequence must be a torchkutils.Sequence, got {type(sequence).__name__}")
        if inspect.isgeneratorfunction(type(sequence).__getitem__):
            kind = type(sequence).__name__
            raise TypeError(f"{kind}.__getitem__ must return one whole batch, and not yield: it is a generator")
        batches_in(sequence)
        self.sequence = sequence
        self.num_workers = whole_number("num_workers", num_workers, at_least=0)
        for name, value in (("shuffle", shuffle), ("pin_memory", pin_memory)):
            if not isinstance(value, (bool, np.bool_)):
                raise TypeError(f"{name} must be True or False, got {value!r}")
        if worker_init_fn is not None and not callable(worker_init_fn):
            raise TypeError(
                f"worker_init_fn must be a function of the worker's number, or None; got {worker_init_fn!r}"
            )
        self.shuffle = bool(shuffle)
        self.seed = whole_number("seed", seed, at_least=0)
        self.world = World.of(rank, world_size, shard)
        self._options = {
            "pin_memory": pin_memory,
            "collate_fn": collate_fn,
            **worker_options(self.num_workers, prefetch_factor, timeout, multiprocessing_context),
        }
        self._worker_init_fn = worker_init_fn
        self._epoch = 0
        self._place = Place(0)
        self._consumed = 0
        # Weak, for the epoch holds the loader: a cycle would keep workers until the garbage collector comes by.
        self._running: weakref.ref[_Epoch] | None = None
        self._crew: WorkerCrew | None = None

    @property
    def epoch(self) -> int:
        """The number of the epoch that is running, or that comes next."""
        return self._epoch

    def __len__(self) -> int:
        """How many batches this rank gets in an epoch (in a resumed one, together with those before)."""
        return len(self._order())

    def __iter__(self) -> Iterator[Any]:
        if self._place.handed_out:
            self._next_epoch()
        self._stop_running("its loader has begun another epoch")
        epoch = _Epoch(self, self._order()[self._place.first :])
        self._running = weakref.ref(epoch)
        return epoch

    def close(self) -> None:
        """Stop the workers now; the next epoch starts new ones."""
        if self._crew is not None:
            self._crew.dismiss()

    def state_dict(self) -> dict[str, Any]:
        """Give what a new loader needs to go on from here, with any number of workers from 1 on.

        Call it between two batches or after an epoch. After a loop that was left early it still names the batch that
        would have come next; it is the next loop that gives the rest of that epoch up.

        Returns:
            Plain values: the loader's position (under 1 KB) and, under 'sequence', the Sequence's own `state_dict()`.

        Warns:
            UserWarning: The Sequence has `on_epoch_end` and no `state_dict`, so that what the hook did is not in here.
        """
        state: dict[str, Any] = {
            "version": 1,
            "epoch": self._epoch,
            "position": self._place.first + self._place.handed_out,
            "consumed": self._consumed,
            "length": batches_in(self.sequence),
            "seed": self.seed,
            "shuffle": self.shuffle,
            "world_size": self.world.size,
            "shard": self.world.shard,
        }
        own = getattr(self.sequence, "state_dict", None)
        if callable(own):
            state["sequence"] = own()
        elif has_hook(self.sequence):
            kind = type(self.sequence).__name__
            warnings.warn(
                f"{kind} has on_epoch_end and no state_dict: what its hook did will be missing after a resume; "
                "define state_dict and load_state_dict",
                stacklevel=2,
            )
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader stood; the seed is taken over.

        A checkpoint of another number of ranks goes on with the batches that those ranks, in step, had not taken.

        Raises:
            ValueError: A malformed state, one taken with other settings (`shuffle`, `shard`), or in mid-epoch of a
                Sequence of another length.
        """
        check_state(state, self.shuffle, self.world.shard)
        if "sequence" in state:
            load = getattr(self.sequence, "load_state_dict", None)
            if not callable(load):
                raise ValueError(
                    f"the state holds a Sequence's own; {type(self.sequence).__name__} has no load_state_dict"
                )
            load(state["sequence"])
        position, consumed = state["position"], state["consumed"]
        if (position or consumed) and state["length"] != batches_in(self.sequence):
            raise ValueError(
                f"the state was taken within an epoch of {state['length']} batches; this Sequence has "
                f"{batches_in(self.sequence)}: give it the data it had, or load_state_dict of its own"
            )
        if state["world_size"] != self.world.size:
            consumed, position = min(consumed + position * state["world_size"], state["length"]), 0
        self.seed = state["seed"]
        self._epoch, self._place, self._consumed = state["epoch"], Place(position), consumed
        self._stop_running("its loader was given another state")
        self.close()

    def _order(self) -> np.ndarray[Any, Any]:
        """This rank's batches of the epoch, in order, but for those that another number of ranks has taken."""
        length = batches_in(self.sequence)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self._epoch]).permutation(length)
        else:
            order = np.arange(length)
        return self.world.share(order[self._consumed :])

    def _next_epoch(self) -> None:
        self._epoch, self._place, self._consumed = self._epoch + 1, Place(0), 0

    def _stop_running(self, why: str) -> None:
        running = self._running() if self._running is not None else None
        if running is not None:
            running.over = why
        self._running = None

    def _batches(self, order: list[int]) -> Iterator[Any]:
        """Start making the batches of this epoch."""
        if self.num_workers == 0:
            generator = torch.Generator()
            options = {**self._options, "sampler": order, "generator": generator}
            return iter(DataLoader(self.sequence, batch_size=None, **options))
        if self._crew is None:
            self._crew = WorkerCrew(self.num_workers, self._worker_init_fn, self._options)
            # Where the loader is part of a cycle, the garbage collector closes the workers' queues before it ends them:
            # they would miss the signal to go.
            weakref.finalize(self, self._crew.dismiss).atexit = False
        return self._crew.begin(self.sequence, self.seed, self._epoch, order)


class _Epoch(Iterator[Any]):
    """The batches of one epoch; asked past the last one it runs the hook.

    Attributes:
        over: Why this iterator must not be used any more; None while it may.
    """

    def __init__(self, loader: SequenceLoader, order: np.ndarray[Any, Any]) -> None:
        self._loader = loader
        self._place = loader._place
        self._order: list[int] = order.tolist()
        self._length = len(self._order)
        self._advance = (loader._batches(self._order) if self._order else iter(())).__next__
        self._finished = False
        self.over: str | None = None

    def __length_hint__(self) -> int:
        return self._length - self._place.handed_out

    def __next__(self) -> Any:
        # Every batch passes here: what is rare is left to methods.
        place = self._place
        if place.handed_out == self._length or self.over is not None:
            self._finish()
            raise StopIteration
        try:
            batch = self._advance()
        except BaseException as error:
            raise self._explained(error) from error.__cause__
        place.handed_out += 1
        if type(batch) in _NO_BATCHES:
            self._refuse(batch)
        return batch

    def _refuse(self, batch: Any) -> None:
        if not isinstance(batch, Failure):
            checked_batch(batch, self._order[self._place.handed_out - 1])
            return
        if batch.lost:
            self._give_up()
        raise batch.to_exception()

    def _explained(self, error: BaseException) -> BaseException:
        """Say what broke, and leave loader and workers such that another epoch can begin."""
        index = self._order[self._place.handed_out]
        if self._loader.num_workers == 0:
            if isinstance(error, Exception):
                self._place.handed_out += 1
            if isinstance(error, StopIteration):
                return RuntimeError(f"__getitem__({index}) raised StopIteration")
            error.add_note(f"raised while batch {index} was made")
        elif isinstance(error, Exception):
            self._give_up()
        elif self._loader._crew is not None:
            # Ctrl-C reaches the workers too, some moment later.
            self._loader._crew.distrust()
        return error

    def _give_up(self) -> None:
        self.over = "its workers were lost"
        self._loader.close()

    def _finish(self) -> None:
        if self.over is not None:
            raise RuntimeError(f"this epoch's iterator cannot go on: {self.over}; start another with iter(loader)")
        if self._finished:
            return
        self._finished = True
        self._loader._running = None
        self._loader._next_epoch()
        self._loader.sequence.on_epoch_end()
