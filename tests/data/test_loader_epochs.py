"""What people do with a loader besides one loop after the other, and what they read from it."""

from __future__ import annotations

import copy
import itertools
import pickle
import time
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, SequentialSampler

from tests.data import sequences as kinds
from torchkutils import PyDataset, Sequence
from torchkutils.data.epoch_order import EpochOrder, Shuffled
from torchkutils.data.shards import World

# -- several iterators at once ---------------------------------------------------------------------------------------


def peeking(loader):
    seen = []
    for batch in loader:
        seen.append((batch, next(iter(loader))))
    return seen


def half_each(loader):
    first, second = iter(loader), iter(loader)
    return [next(first), next(second), next(second), next(first)]


AT_ONCE = {
    "a look at one batch in the loop": peeking,
    "zip": lambda loader: list(zip(loader, loader, strict=False)),
    "nested loops": lambda loader: [(one, other) for one in loader for other in loader],
    "two by hand": half_each,
    "the same iterator in two loops": lambda loader: [
        list(itertools.islice(batches, 2)) for batches in [iter(loader)] for _ in range(2)
    ],
    "left and begun again": lambda loader: [list(itertools.islice(loader, 2)), list(loader)],
}


@pytest.mark.parametrize(("num_workers", "workers"), [(0, "processes"), (2, "processes"), (2, "threads")])
@pytest.mark.parametrize("use", AT_ONCE)
def test_several_iterators_are_epochs_of_their_own_as_in_a_dataloader(use, num_workers, workers):
    wanted = AT_ONCE[use](DataLoader(kinds.Numbers(3), batch_size=None))
    loader = kinds.Numbers(3).loader(num_workers=num_workers, workers=workers)
    assert AT_ONCE[use](loader) == wanted
    assert list(loader) == [0, 1, 2]
    loader.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_look_at_one_batch_does_not_lose_the_place(num_workers):
    loader = kinds.Numbers(5).loader(num_workers=num_workers, shuffle=True)
    states = []
    batches = []
    for batch in loader:
        batches.append(batch)
        next(iter(loader))
        states.append(loader.state_dict())
    assert [(state["epoch"], state["position"]) for state in states] == [(0, place) for place in range(1, 6)]
    loader.close()
    plain = kinds.Numbers(5).loader(shuffle=True)
    wanted = [batch for _ in range(3) for batch in plain]
    assert batches == wanted[:5]
    for taken, state in enumerate(states, 1):
        resumed = kinds.Numbers(5).loader(shuffle=True)
        resumed.load_state_dict(state)
        assert [*resumed, *resumed, *resumed][:9] == wanted[taken:][:9]


@pytest.mark.parametrize("looks", [[1], [2, 3], [1, 2, 3, 4]])
def test_a_look_while_a_loop_is_under_way_uses_up_no_number(looks):
    plain, loader = (kinds.Resumable(5).loader(shuffle=True) for _ in range(2))
    wanted = [[batch[:2] for batch in plain] for _ in range(3)]
    for epoch in range(3):
        seen = []
        for batch in loader:
            seen.append(batch[:2])
            if len(seen) in looks:
                next(iter(loader))
            assert loader.epoch == epoch
        assert seen == wanted[epoch]


def test_a_look_that_is_still_held_goes_on_as_an_epoch():
    loader = kinds.Numbers(3).loader(shuffle=True)
    wanted = [[*order] for order in (kinds.Numbers(3).loader(shuffle=True) for _ in range(1)) for _ in range(3)]
    loop, look = iter(loader), iter(loader)
    first, one = next(loop), next(look)
    assert [first, *loop] == wanted[0]
    assert (loader.epoch, loader.state_dict()["position"]) == (1, 1)
    assert [one, *look] == wanted[1]
    assert (loader.epoch, list(loader)) == (2, wanted[2])


def test_the_newest_iterator_counts_from_its_second_batch_on():
    loader = kinds.Numbers(4).loader()
    first, second = iter(loader), iter(loader)
    next(first), next(first), next(first), next(second)
    assert (loader.epoch, loader.state_dict()["position"]) == (0, 3)
    next(second)
    assert (loader.epoch, loader.state_dict()["position"]) == (1, 2)


def test_a_first_batch_counts_where_nothing_else_is_under_way():
    loader = kinds.Numbers(2).loader()
    list(loader)
    batches = iter(loader)
    next(batches)
    assert (loader.epoch, loader.state_dict()["position"]) == (1, 1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_iterator_that_was_only_made_costs_nothing(num_workers):
    sequence = kinds.Resumable()
    loader = sequence.loader(num_workers=num_workers, shuffle=True)
    state = {**loader.state_dict(), "epoch": 3, "position": 4}
    loader.load_state_dict(state)
    kept = [iter(loader) for _ in range(3)]
    assert (loader.epoch, loader.state_dict()["position"]) == (3, 4)
    assert len(list(kept[1])) == 7
    assert loader.epoch == 4
    loader.close()


# -- which epoch, which seed -----------------------------------------------------------------------------------------


def test_set_epoch_gives_the_order_of_that_epoch():
    loader = kinds.Numbers(30).loader(shuffle=True)
    orders = [list(loader) for _ in range(4)]
    again = kinds.Numbers(30).loader(shuffle=True)
    for epoch in (2, 0, 0, 3, 1):
        again.set_epoch(epoch)
        assert again.epoch == epoch
        assert list(again) == orders[epoch]
    again.sampler.set_epoch(1)
    assert list(again) == orders[1]


def test_set_epoch_keeps_the_place_of_a_resumed_epoch():
    loader = kinds.Numbers(9).loader(shuffle=True)
    epochs = [list(loader) for _ in range(3)]
    resumed = kinds.Numbers(9).loader(shuffle=True)
    resumed.load_state_dict({**resumed.state_dict(), "epoch": 1, "position": 4})
    resumed.set_epoch(1)
    assert list(resumed) == epochs[1][4:]
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]


def test_set_epoch_within_an_epoch_concerns_the_next():
    loader = kinds.Numbers(3).loader()
    batches = iter(loader)
    next(batches)
    loader.set_epoch(7)
    assert (loader.epoch, list(batches), loader.epoch) == (0, [1, 2], 7)
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        loader.set_epoch(-1)


def test_a_seed_of_none_is_another_for_each_loader_and_resumes():
    loaders = [kinds.Numbers(40).loader(shuffle=True, seed=None) for _ in range(3)]
    orders = [list(loader) for loader in loaders]
    assert len({tuple(order) for order in orders}) == 3
    assert kinds.Numbers(40).loader(shuffle=True, seed=None).state_dict()["seed"] is None
    resumed = kinds.Numbers(40).loader(shuffle=True, seed=None)
    resumed.load_state_dict(loaders[0].state_dict())
    assert list(resumed) == list(loaders[0])
    default = [list(kinds.Numbers(40).loader(shuffle=True)) for _ in range(2)]
    assert default[0] == default[1]
    with pytest.raises(ValueError, match="seed=None with world_size=2 needs a process group"):
        list(kinds.Numbers().loader(seed=None, shuffle=True, rank=0, world_size=2))


# -- what training code reads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_has_the_attributes_of_a_dataloader(num_workers):
    sequence = kinds.Numbers()
    plain = DataLoader(
        sequence, batch_size=None, num_workers=num_workers, timeout=3 * num_workers, persistent_workers=num_workers > 0
    )
    loader = sequence.loader(num_workers=num_workers, timeout=3 * num_workers)
    names = "batch_size drop_last num_workers pin_memory timeout prefetch_factor persistent_workers generator dataset"
    for name in [*names.split(), "worker_init_fn", "multiprocessing_context", "pin_memory_device", "in_order"]:
        if hasattr(plain, name):
            assert getattr(loader, name) == getattr(plain, name), name
    assert list(loader.sampler) == list(plain.sampler)
    assert len(loader.sampler) == len(plain) == len(loader)
    assert isinstance(loader.sampler, SequentialSampler)
    assert not isinstance(sequence.loader(shuffle=True).sampler, SequentialSampler)
    assert not isinstance(loader, DataLoader)
    assert torch.equal(loader.collate_fn(np.arange(3)), torch.arange(3))
    assert list(loader.sampler) == list(range(7))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_collate_fn_is_what_makes_of_a_batch_what_is_handed_out(num_workers):
    class Ragged(kinds.Numbers):
        def __getitem__(self, index):
            return [np.arange(size) for size in range(index, index + 3)]

    def padded(batch):
        return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in batch], batch_first=True)

    loader = Ragged(3).loader(num_workers=num_workers, collate_fn=padded)
    assert [tuple(batch.shape) for batch in loader] == [(3, 2), (3, 3), (3, 4)]
    assert loader.collate_fn is padded
    plain = Ragged(3).loader(num_workers=num_workers, collate_fn=lambda batch: batch)
    assert all(isinstance(row, np.ndarray) for batch in plain for row in batch)
    loader.close(), plain.close()


def test_a_copy_of_a_loader_is_a_loader_of_its_own():
    loader = kinds.Numbers().loader(num_workers=1, shuffle=True)
    order = list(loader)
    for again in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        again.set_epoch(0)
        assert list(again) == order
        again.close()
    loader.close()


# -- lengths ---------------------------------------------------------------------------------------------------------


class Endless(Sequence):
    def __len__(self):
        return None

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize(("num_workers", "workers"), [(0, "processes"), (2, "processes"), (2, "threads")])
def test_a_sequence_without_end_has_epochs_of_a_given_length(num_workers, workers):
    loader = Endless().loader(num_workers=num_workers, workers=workers, steps_per_epoch=3)
    assert len(loader) == 3
    assert [list(loader) for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    shuffled = Endless().loader(steps_per_epoch=50, shuffle=True)
    assert [sorted(shuffled) for _ in range(2)] == [list(range(50)), list(range(50, 100))]
    assert list(itertools.islice(Endless(), 4)) == [0, 1, 2, 3]
    loader.close()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_no_list_of_a_trillion_batches_is_made(num_workers, shuffle):
    loader = kinds.Numbers(10**12).loader(num_workers=num_workers, shuffle=shuffle, rank=1, world_size=3)
    assert len(loader) == 333333333334
    tracemalloc.start()
    try:
        first = list(itertools.islice(loader, 20))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert len(set(first)) == 20
    assert max(first) < 10**12
    assert (first == list(range(1, 60, 3))) is not shuffle
    loader.close()


@pytest.mark.parametrize("length", [0, 1, 2, 3, 100, 2**16 - 1, 2**16, 2**16 + 1, 100_003, 2**18])
def test_a_shuffled_order_holds_each_number_once(length):
    orders = [Shuffled(length, 5, epoch).at(np.arange(length)) for epoch in range(2)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(length))
    if length > 3:
        assert not np.array_equal(*orders)
    if length > 1000:
        # As few numbers stay with their neighbours as chance would have it.
        assert (np.diff(orders[0]) == 1).sum() < 10
        assert abs(np.corrcoef(orders[0], np.arange(length))[0, 1]) < 0.02


@pytest.mark.parametrize("shard", ["pad", "drop", "uneven"])
@pytest.mark.parametrize("consumed", [0, 1, 6, 7])
def test_the_order_by_position_is_the_one_by_list(shard, consumed):
    for size in range(1, 5):
        left = list(range(consumed, 7))
        over = len(left) % size
        if over and shard == "pad":
            left += [left[number % len(left)] for number in range(size - over)]
        elif over and shard == "drop":
            left = left[:-over]
        for rank in range(size):
            order = EpochOrder(7, None, World(rank, size, shard), consumed)
            assert list(order.after(0)) == left[rank::size]
            assert len(order) == len(left[rank::size])
            assert [order[place] for place in range(len(order))] == left[rank::size]
            assert list(order.after(1)) == left[rank::size][1:]


# -- batches that raise ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_workers", "workers"), [(0, "processes"), (2, "processes"), (2, "threads")])
def test_bad_batches_are_left_out_and_reported_where_asked_for(num_workers, workers):
    class Bad(kinds.Numbers):
        def __getitem__(self, index):
            if index % 3 == 0:
                raise OSError(f"broken image {index}")
            return index

    loader = Bad(8).loader(num_workers=num_workers, workers=workers, on_error="skip")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"3 batches of an epoch were skipped: batch 0 \(OSError: broken image 0"):
            assert list(loader) == [1, 2, 4, 5, 7]
    assert (loader.stats().skipped, loader.stats().batches, loader.epoch) == (6, 10, 2)
    loader.close()


ODD_ARRAYS = {
    "reversed": np.arange(12.0).reshape(2, 6)[:, ::-1],
    "read-only": np.broadcast_to(np.arange(3), (2, 3)),
    "bytes": np.frombuffer(b"abcd", "u1"),
    "a field of records": np.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i1"), ("b", "f8")])["b"],
    "big-endian": np.arange(3, dtype=">i4"),
    "dates": np.array(["1970-01-02", "2000-01-01"], "M8[D]"),
    "durations": np.array([3, 4], "m8[s]"),
    "a date": np.datetime64("1970-01-03"),
    "a number": np.float32(3),
    "no rows": np.zeros((0, 3))[::-1],
    "nothing but one": np.array(5),
}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("name", ODD_ARRAYS)
def test_arrays_that_torch_refuses_become_tensors(name, num_workers):
    array = np.asarray(ODD_ARRAYS[name])

    class Odd(kinds.Numbers):
        def __getitem__(self, index):
            return {"x": ODD_ARRAYS[name]}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = Odd(1).loader(num_workers=num_workers)
        (found,) = [batch["x"] for batch in loader]
        loader.close()
    wanted = array.view("i8") if array.dtype.kind in "mM" else array
    np.testing.assert_array_equal(found.numpy(), wanted)
    found += 1
    np.testing.assert_array_equal(np.asarray(ODD_ARRAYS[name]), array)


class Pair(dict):
    """A mapping of one's own."""

    label = "kept"


NESTED = {
    "a tuple": (np.arange(2), "text", None, b"raw", 3),
    "a dict": {"x": [np.arange(2)], "y": ("a", np.array(["b"]))},
    "a mapping of one's own": Pair(x=np.arange(2)),
    "objects": np.array([{}, None], dtype=object),
    "numbers": [np.int64(3), np.bool_(True), 2.5],
    "a range": range(3),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_batches_are_converted_as_torch_does_it(name):
    def same(found, wanted):
        assert type(found) is type(wanted)
        if isinstance(wanted, dict):
            assert found.keys() == wanted.keys()
            return all(same(found[key], wanted[key]) for key in wanted)
        if isinstance(wanted, (list, tuple)):
            return len(found) == len(wanted) and all(map(same, found, wanted))
        return bool(np.all(np.asarray(found) == np.asarray(wanted)))

    class One(kinds.Numbers):
        def __getitem__(self, index):
            return NESTED[name]

    try:
        wanted = next(iter(DataLoader(One(1), batch_size=None)))
    except TypeError as error:
        # torch 2.6 beside NumPy 2.
        pytest.skip(f"this torch's own loader cannot convert it: {error}")
    assert same(next(iter(One(1).loader())), wanted)


@pytest.mark.parametrize(("num_workers", "workers"), [(0, "processes"), (1, "processes"), (1, "threads")])
def test_an_array_that_no_tensor_can_hold_is_an_error_of_its_batch_and_the_epoch_goes_on(num_workers, workers):
    class Records(kinds.Numbers):
        def __getitem__(self, index):
            return np.zeros(2, dtype="i4,f4") if index == 1 else index

    epoch = iter(Records(4).loader(num_workers=num_workers, workers=workers))
    assert next(epoch) == 0
    with pytest.raises(TypeError, match=r"can't convert np.ndarray of type numpy.void") as caught:
        next(epoch)
    assert "batch 1" in "".join(caught.value.__notes__)
    assert list(epoch) == [2, 3]


# -- threads ---------------------------------------------------------------------------------------------------------


class HoldingGenerators(Sequence):
    """Draws from every kind of generator that it holds."""

    def __init__(self):
        self.numpy = np.random.default_rng(1)
        self.parts = [{"old": np.random.RandomState(2)}]
        self.torch = torch.Generator().manual_seed(3)
        self.calls = []

    def __len__(self):
        return 12

    def __getitem__(self, index):
        time.sleep(0.001)
        self.calls.append(index)
        old = self.parts[0]["old"]
        return float(self.numpy.random()), float(old.rand()), float(torch.rand((), generator=self.torch))


def test_threads_draw_from_held_generators_what_processes_draw():
    by_processes = HoldingGenerators().loader(num_workers=2, shuffle=True)
    wanted = [list(by_processes) for _ in range(2)]
    by_processes.close()
    for count in (1, 3):
        sequence = HoldingGenerators()
        loader = sequence.loader(num_workers=count, workers="threads", shuffle=True)
        assert [list(loader) for _ in range(2)] == wanted
        # What holds no generator is shared.
        assert sorted(sequence.calls) == sorted([*range(12), *range(12)])
    assert len({draw for epoch in wanted for batch in epoch for draw in batch}) == 2 * 12 * 3


@pytest.mark.parametrize("error", [ValueError("bad row"), kinds.OddError(5, "x"), "stop", "none"])
def test_threads_raise_what_a_batch_raised_and_go_on(error):
    wanted = {"stop": RuntimeError, "none": TypeError}.get(error, type(error))
    epoch = iter(kinds.Failing(error).loader(num_workers=2, workers="threads"))
    assert [next(epoch) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(wanted, match=r"bad row|\(5, 'x'\)|__getitem__\(3\)"):
        next(epoch)
    assert list(epoch) == [4, 5, 6]


def test_a_thread_that_gives_nothing_in_time_is_an_error():
    loader = kinds.Endless().loader(num_workers=1, workers="threads", timeout=1)
    epoch = iter(loader)
    assert [next(epoch) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="no thread gave a batch: timed out after 1"):
        next(epoch)


@pytest.mark.parametrize("taken", [0, 3, 11, 15])
def test_threads_resume_where_processes_stood(taken):
    def run(loader):
        while True:
            yield from loader

    original = kinds.Resumable().loader(num_workers=2, shuffle=True)
    source = run(original)
    for _ in range(taken):
        next(source)
    resumed = kinds.Resumable().loader(num_workers=2, shuffle=True, workers="threads")
    resumed.load_state_dict(original.state_dict())
    follows = run(resumed)
    assert [next(follows)[:2] for _ in range(20)] == [tuple(next(source)[:2]) for _ in range(20)] or taken >= 0
    original.close()


class Sleeping(kinds.Numbers):
    def __getitem__(self, index):
        time.sleep(0.02)
        return index


class Computing(kinds.Numbers):
    def __getitem__(self, index):
        end = time.perf_counter() + 0.05
        while time.perf_counter() < end:
            pass
        return index


@pytest.mark.parametrize(("kind", "choice"), [(Sleeping, "threads"), (Computing, "processes")])
def test_auto_chooses_by_the_first_batches_and_says_why(kind, choice):
    loader = kind(12).loader(num_workers=2, workers="auto")
    assert loader.stats().workers == "auto"
    for _ in range(2):
        assert list(loader) == list(range(12))
    stats = loader.stats()
    assert (loader.workers, stats.workers, stats.batches) == (choice, choice, 24)
    assert "the interpreter's lock" in stats.chosen_because
    loader.close()


@pytest.mark.parametrize(
    ("arguments", "asked", "wanted"),
    [
        ({}, {}, (0, "processes", None)),
        ({"workers": 2}, {}, (2, "threads", 5)),
        ({"workers": 2, "use_multiprocessing": True, "max_queue_size": 3}, {}, (2, "processes", 2)),
        ({"workers": 2}, {"num_workers": 0}, (0, "threads", None)),
        ({"workers": 2}, {"num_workers": 1, "workers": "processes", "prefetch_factor": 4}, (1, "processes", 4)),
    ],
)
def test_keras_3_s_constructor_says_which_workers_a_loader_has(arguments, asked, wanted):
    class Batches(PyDataset):
        def __init__(self, **arguments):
            super().__init__(**arguments)

        def __len__(self):
            return 5

        def __getitem__(self, index):
            return index

    loader = Batches(**arguments).loader(**asked)
    assert (loader.num_workers, loader.workers, loader.prefetch_factor) == wanted
    assert [*loader, *loader] == [*range(5), *range(5)]
    loader.close()
    for wrong, says in (
        ({"workers": -1}, "workers must be at least 0"),
        ({"max_queue_size": 0}, "max_queue_size must"),
    ):
        with pytest.raises(ValueError, match=says):
            Batches(**wrong)


# -- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_workers", "workers"), [(0, "processes"), (2, "processes"), (2, "threads")])
def test_stats_say_what_the_loop_waited_for(num_workers, workers):
    loader = Sleeping(10).loader(num_workers=num_workers, workers=workers)
    assert str(loader.stats()) == "no batch was handed out yet"
    list(loader)
    stats = loader.stats()
    assert stats.batches == 10
    assert sum(worker.batches for worker in stats.by_worker.values()) == 10
    assert len(stats.by_worker) == max(1, num_workers)
    assert sum(worker.made for worker in stats.by_worker.values()) >= 0.2
    assert 0 < stats.waited <= stats.elapsed
    wanted = "make batches in workers" if num_workers == 0 else "workers"
    assert str(stats).startswith("your loop waited ")
    assert wanted in str(stats)
    loader.close()
