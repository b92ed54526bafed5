"""SequenceLoader: epochs of a Sequence's batches, with the hooks, workers that live on, shards and resuming."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from torchkutils.data.batch_source import BatchSource, batches_in, has_hook
from torchkutils.data.conversion import ToTensors
from torchkutils.data.epoch_order import EpochOrder, Shuffled
from torchkutils.data.loader_arguments import check_choice, check_flags, check_function, check_source, check_workers
from torchkutils.data.loader_attributes import EpochBatches, EpochSampler, InOrder
from torchkutils.data.loader_epoch import Epoch, Owner, Source
from torchkutils.data.loader_state import Place, Places, check_state
from torchkutils.data.loader_stats import LoaderStats
from torchkutils.data.local_epoch import DirectEpoch, ThreadEpoch
from torchkutils.data.shards import World, check_world, process_group, shared_seed, whole_number
from torchkutils.data.worker_choice import Joined, Measured
from torchkutils.data.worker_pool import PoolOptions, WorkerPool

_KEPT_POOLS = 2


class SequenceLoader:
    """One epoch of a Sequence's batches an iteration; made by `Sequence.loader`, which lists the arguments.

    Each epoch gives every batch exactly once (of this rank's share, where there are several), in index order unless
    `shuffle`. Arrays become tensors, as from `DataLoader(sequence, batch_size=None)`. It is no subclass of DataLoader,
    and has the attributes that training code reads from one.

    **Hooks.** `on_epoch_begin` runs before an epoch's first batch is made. An epoch is finished when its last batch
    was handed out; then `on_epoch_end` runs once, in the calling process: when the iterator is asked past its last
    batch, else when the next epoch's iterator is made (trainers never ask past the last batch), or at
    `finish_epoch()`, which callbacks for trainers call. An epoch that is left early does not run it, but has used
    up its number. Several iterators at once are epochs of their own.

    **Workers** use in the next epoch whatever the hook, or the caller between epochs, changed in what the Sequence
    reaches through its attributes. They live on when nothing changed, which is told by the contents, or when what
    changed can be sent to them (4 MiB, 64 MiB where workers are not forked; large arrays that did not change are
    not counted); otherwise they are started anew. What is not reached through attributes, such as a module's global
    variables, is not followed. Large batches travel in shared memory that is used again: as much as `num_workers *
    prefetch_factor + 1` of the largest batch.

    **Random numbers.** In workers those that `__getitem__` draws from torch, NumPy or random, and from generators
    that the Sequence holds, are fixed by (seed, epoch, batch index), whatever the number of workers. Without
    workers the process's own generators are used. Threads share these, so that with `workers='threads'` only
    generators that the Sequence holds are fixed.

    **Errors.** An exception in a worker reaches the caller with its type, its attributes and a note that names the
    batch; the epoch may go on after it. A worker that is killed or exits is a RuntimeError that names the batch that
    it made (SystemExit and KeyboardInterrupt in one too: here they would end the program, or look like Ctrl-C); it
    comes when a batch is asked for, and the next epoch starts new workers.

    >>> from torchkutils import Sequence
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

    seed: int | None

    def __init__(
        self,
        sequence: Any,
        *,
        num_workers: int = 0,
        shuffle: bool = False,
        seed: int | None = 0,
        pin_memory: bool = False,
        prefetch_factor: int = 2,
        timeout: float = 0,
        multiprocessing_context: Any = None,
        worker_init_fn: Callable[[int], None] | None = None,
        rank: int | None = None,
        world_size: int | Literal["auto"] | None = None,
        shard: Literal["pad", "drop", "uneven"] = "pad",
        collate_fn: Callable[[Any], Any] | None = None,
        workers: Literal["processes", "threads", "auto"] = "processes",
        reuse: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        steps_per_epoch: int | None = None,
    ) -> None:
        check_source(sequence)
        check_flags(shuffle=shuffle, pin_memory=pin_memory, reuse=reuse)
        check_function("worker_init_fn", worker_init_fn, "the worker's number")
        check_function("collate_fn", collate_fn, "a batch")
        check_choice("workers", workers, ("processes", "threads", "auto"))
        check_choice("on_error", on_error, ("raise", "skip"))
        self.sequence: BatchSource = sequence
        self.steps_per_epoch = steps_per_epoch
        self._length()
        self.num_workers: int = whole_number("num_workers", num_workers, at_least=0)
        check_workers(self.num_workers, prefetch_factor, timeout, multiprocessing_context)
        if workers == "threads" and multiprocessing_context is not None:
            raise ValueError("multiprocessing_context needs workers='processes', got workers='threads'")
        self.shuffle: bool = bool(shuffle)
        self.seed = None if seed is None else whole_number("seed", seed, at_least=0)
        check_world(rank, world_size, shard)
        if isinstance(world_size, int):
            World.of(rank, world_size, shard)
        self._asked_world = rank, world_size, shard
        self.workers = workers
        self.on_error = on_error
        self.pin_memory: bool = bool(pin_memory)
        self._prefetch_factor = prefetch_factor
        self.timeout = timeout
        self.multiprocessing_context = multiprocessing_context
        self.worker_init_fn = worker_init_fn
        self.collate_fn: Callable[[Any], Any] = ToTensors() if collate_fn is None else collate_fn
        self._reuse = bool(reuse)
        self._places = Places(Place(0))
        self._warned_of_ranks = False
        self._at_rest()

    # What training code reads from a DataLoader.
    batch_size = None
    drop_last = False
    generator = None
    pin_memory_device = ""
    in_order = True

    @property
    def persistent_workers(self) -> bool:
        """Whether there are workers: they live on where that is safe."""
        return self.num_workers > 0

    @property
    def prefetch_factor(self) -> int | None:
        """Batches that each worker makes ahead; None without workers, as in DataLoader."""
        return self._prefetch_factor if self.num_workers else None

    @property
    def dataset(self) -> BatchSource:
        """The Sequence."""
        return self.sequence

    @property
    def sampler(self) -> EpochSampler:
        """The numbers of the batches of the epoch that comes next, with a `set_epoch`."""
        return EpochSampler(self) if self.shuffle else InOrder(self)

    @property
    def batch_sampler(self) -> EpochBatches:
        """The same in lists of one, for a DataLoader made of it; iterating it to its end counts as an epoch."""
        return EpochBatches(self)

    @property
    def world(self) -> World:
        """This process among those that share the batches, as the process group says now."""
        return World.of(*self._asked_world)

    @property
    def epoch(self) -> int:
        """The number of the epoch that is running, or that comes next."""
        return self._places.counting().epoch

    def set_epoch(self, epoch: int) -> None:
        """Give the next epoch this number, from which its order and random numbers follow.

        A place in the middle of that epoch, from `load_state_dict`, is kept.
        """
        self._places.set_epoch(whole_number("epoch", epoch, at_least=0))

    def skip(self, batches: int) -> None:
        """Let the next epoch, and only that, begin after its first `batches` batches."""
        whole_number("batches", batches, at_least=0)
        self.finish_epoch()
        self._places.make_ready()
        place = self._places.counting()
        place.first = min(place.first + batches, len(self._order(place)))

    def share(self, rank: int, world_size: int) -> None:
        """Share the batches among ranks from the next epoch on, unless the loader was made with a `world_size`."""
        if self._asked_world[1] is None:
            World.of(rank, world_size, self._asked_world[2])
            self._asked_world = rank, world_size, self._asked_world[2]

    def __len__(self) -> int:
        """How many batches this rank gets in an epoch (in a resumed one, together with those before)."""
        return len(self._order(self._places.counting()))

    def __iter__(self) -> Iterator[Any]:
        self.finish_epoch()
        self._places.make_ready()
        return Epoch(Owner(self._begin, self._due, self._end, self.on_error == "skip", self._stats))

    def finish_epoch(self) -> None:
        """Run `on_epoch_end` for an epoch whose last batch was handed out, if it has not run yet.

        For code that asks for exactly `len(loader)` batches: after the last epoch nobody else would run it.
        """
        while self._places.due:
            self._end(self._places.due[0])

    def close(self) -> None:
        """Stop the workers now, without a hook; the next epoch starts new ones."""
        for epoch in list(self._running) if self.num_workers else []:
            epoch.stop("its loader was closed")
        _dismiss(self._pools)
        self._idle[:] = self._pools

    def stats(self) -> LoaderStats:
        """Where the time of the epochs so far went; `print(loader.stats())` says it in one line."""
        return replace(self._stats, by_worker={key: replace(one) for key, one in self._stats.by_worker.items()})

    def state_dict(self) -> dict[str, Any]:
        """Give what a new loader needs to go on from here, with any number of workers from 1 on.

        Call it between two batches or after an epoch. After a loop that was left early it still names the batch that
        would have come next; it is the next loop that gives the rest of that epoch up. With several iterators it is the
        place of the newest that has handed out more than one batch, else of the one before.

        Returns:
            Plain values: the loader's position (under 1 KB) and, under 'sequence', the Sequence's own `state_dict()`.

        Warns:
            UserWarning: The Sequence has `on_epoch_end` and no `state_dict`, so that what the hook did is not in here.
        """
        place = self._places.counting()
        world = self.world
        state: dict[str, Any] = {
            "version": 1,
            "epoch": place.epoch,
            "position": place.first + place.handed_out,
            "consumed": place.consumed,
            "hooks_due": len(self._places.due),
            "length": self._length(),
            "seed": self.seed,
            "shuffle": self.shuffle,
            "world_size": world.size,
            "shard": world.shard,
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

        A state that was taken after an epoch's last batch goes on with the next epoch, hook first. A checkpoint of
        another number of ranks goes on with the batches that those ranks, in step, had not taken.

        Raises:
            ValueError: A malformed state, one taken with other settings (`shuffle`, `shard`), or in mid-epoch of a
                Sequence of another length.
        """
        world = self.world
        check_state(state, self.shuffle, world.shard)
        if "sequence" in state:
            self._load_own_state(state["sequence"])
        position, consumed, length = state["position"], state["consumed"], self._length()
        if (position or consumed) and state["length"] != length:
            raise ValueError(
                f"the state was taken within an epoch of {state['length']} batches; this Sequence has "
                f"{length}: give it the data it had, or load_state_dict of its own"
            )
        if state["world_size"] != world.size:
            consumed, position = min(consumed + position * state["world_size"], length), 0
        self.close()
        for epoch in list(self._running):
            epoch.stop("its loader was given another state")
        self.seed = state["seed"]
        self._go_on_at(Place(state["epoch"], position, consumed), state.get("hooks_due"))
        self._at_rest()

    def _go_on_at(self, place: Place, due: int | None) -> None:
        """Stand at a place, where so many hooks are due; None: that of the place's epoch, if it is finished."""
        self._places = Places(place)
        finished = bool(place.first or place.consumed) and place.first >= len(self._order(place))
        due = int(finished) if due is None else due
        place.begun, place.ended = finished, finished and due == 0
        # More hooks may be due than that of the epoch that counts: of a loader with several iterators.
        self._places.due = [Place(0) for _ in range(due - finished)] + [place] * (finished and due > 0)

    def _load_own_state(self, state: Any) -> None:
        load = getattr(self.sequence, "load_state_dict", None)
        if not callable(load):
            raise ValueError(f"the state holds a Sequence's own; {type(self.sequence).__name__} has no load_state_dict")
        load(state)

    def numbers(self) -> Iterator[int]:
        """The numbers of the batches of the epoch that is under way or comes next, from where it stands."""
        self._agree_on_seed()
        place = self._places.counting()
        return self._order(place).after(place.first + place.handed_out)

    def handed_out_elsewhere(self) -> None:
        """Count an epoch that a DataLoader made of `batch_sampler` has handed out."""
        place = self._places.counting()
        if not place.begun:
            place.begun = True
            self._places.due.append(place)

    def __getstate__(self) -> dict[str, Any]:
        runtime = ("_running", "_pools", "_idle", "_places", "_stats")
        kept = {name: value for name, value in self.__dict__.items() if name not in runtime}
        return {**kept, "_place": self._places.counting().epoch}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._places = Places(Place(state.pop("_place")))
        self.__dict__.update(state)
        self._at_rest()

    def _at_rest(self) -> None:
        """Begin without epochs under way, workers and figures."""
        # Weak, for an epoch holds its loader: a cycle would keep workers until the garbage collector comes by.
        self._running: weakref.WeakSet[Epoch] = weakref.WeakSet()
        self._pools: list[WorkerPool] = []
        self._idle: list[WorkerPool] = []
        self._stats = LoaderStats(self.workers if self.num_workers else "none", self.num_workers)
        # Where the loader is part of a cycle, the garbage collector closes the workers' queues before it ends them:
        # they would miss the signal to go.
        weakref.finalize(self, _dismiss, self._pools).atexit = False

    def _length(self) -> int:
        """The batches of an epoch, of all ranks together."""
        length = batches_in(self.sequence, endless=self.steps_per_epoch is not None)
        if self.steps_per_epoch is None:
            assert length is not None
            return length
        if length is not None:
            raise ValueError(
                f"steps_per_epoch is for batches without end (__len__ gives None); this Sequence has {length} batches"
            )
        return whole_number("steps_per_epoch", self.steps_per_epoch, at_least=1)

    def _order(self, place: Place) -> EpochOrder:
        """This rank's batches of the epoch, but for those that another number of ranks has taken."""
        length = self._length()
        shuffled = Shuffled(length, self.seed or 0, place.epoch) if self.shuffle else None
        offset = 0 if self.steps_per_epoch is None else place.epoch * length
        return EpochOrder(length, shuffled, self.world, place.consumed, offset)

    def _agree_on_seed(self) -> int:
        if self.seed is None:
            self.seed = shared_seed(self.world)
        return self.seed

    def _begin(self, epoch: Epoch) -> tuple[Place, EpochOrder, Source]:
        """Give an iterator that is asked for its first batch its place, order and source."""
        self._agree_on_seed()
        self._warn_of_ranks()
        place = self._places.take(epoch)
        if place.first == 0:
            self.sequence.on_epoch_begin()
        order = self._order(place)
        place.total = len(order) - place.first
        self._running.add(epoch)
        return place, order, self._source(place.epoch, order, place.first)

    def _warn_of_ranks(self) -> None:
        group = process_group()
        if self._asked_world[1] is None and group is not None and group[1] > 1 and not self._warned_of_ranks:
            self._warned_of_ranks = True
            way = "loader(world_size='auto')"
            if "accelerate" in sys.modules:
                way = f"torchkutils.integrations.accelerate.prepare(accelerator, loader), or {way},"
            warnings.warn(
                f"every one of the {group[1]} ranks reads all batches of {type(self.sequence).__name__}: "
                f"{way} shares them, world_size=1 says that this is meant",
                stacklevel=5,
            )

    def _source(self, epoch: int, order: EpochOrder, first: int) -> Source:
        """What makes the batches of an epoch."""
        pin = self.pin_memory and torch.accelerator.is_available()
        if self.num_workers == 0 or first >= len(order):
            return DirectEpoch(self.sequence, order.after(first), self.collate_fn, pin, self._stats)
        options = PoolOptions(
            *(self.num_workers, self._prefetch_factor, self.timeout, self.multiprocessing_context),
            init=self.worker_init_fn,
            collate=self.collate_fn,
            seed=self._agree_on_seed(),
            reuse=self._reuse,
            pin=pin,
        )
        if self.workers == "auto":
            measured = Measured(self.sequence, epoch, order.after(first), options, self._stats)
            self.workers = measured.choice
            return Joined(measured, lambda: self._source(epoch, order, first + measured.count))
        if self.workers == "threads":
            return ThreadEpoch(self.sequence, epoch, order.after(first), options, self._stats)
        if not self._idle:
            self._idle.append(WorkerPool(options))
            self._pools.append(self._idle[-1])
        pool = self._idle.pop()
        try:
            source = pool.begin(self.sequence, epoch, order, first, self._stats)
        except BaseException:
            self._idle.append(pool)
            raise
        source.give_back = self._take_back
        return source

    def _due(self, place: Place) -> None:
        self._places.due.append(place)

    def _end(self, place: Place) -> None:
        if not place.ended:
            self._places.end(place)
            self.sequence.on_epoch_end()

    def _take_back(self, pool: WorkerPool) -> None:
        if pool in self._pools and pool not in self._idle:
            self._idle.append(pool)
        if len(self._idle) > _KEPT_POOLS:
            unused = self._idle.pop(0)
            self._pools.remove(unused)
            unused.dismiss()


def _dismiss(pools: list[WorkerPool]) -> None:
    for pool in pools:
        pool.dismiss()
