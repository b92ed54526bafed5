"""Epochs over a Sequence: each batch once, hooks that arrive, faults that end in errors, resuming."""

from __future__ import annotations

import gc
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.data import sequences as kinds
from torchkutils import Sequence

METHODS = multiprocessing.get_all_start_methods()


@pytest.fixture
def no_process_left():
    """Whatever the test did, the workers are gone when their loader is."""
    before = set(multiprocessing.active_children())
    yield
    deadline = time.monotonic() + 6
    # A caught exception and the frame that caught it hold each other, and through it the loader.
    gc.collect()
    while left := set(multiprocessing.active_children()) - before:
        assert time.monotonic() < deadline, left
        for process in left:
            process.join(0.2)


pytestmark = pytest.mark.usefixtures("no_process_left")


def test_a_sequence_works_in_a_plain_dataloader_and_by_itself():
    class Arrays(Sequence):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"x": np.full(2, index), "y": [np.float32(index), "name"]}

        def on_epoch_end(self):
            raise AssertionError("iterating runs no hook")

    sequence = Arrays()
    assert [batch["x"].tolist() for batch in sequence] == [[0, 0], [1, 1], [2, 2]]
    plain = list(DataLoader(sequence, batch_size=None))
    assert torch.equal(plain[1]["x"], torch.tensor([1, 1]))
    for num_workers in (0, 1):
        loader = sequence.loader(num_workers=num_workers)
        for number, batch in enumerate(iter(loader)):
            assert torch.equal(batch["x"], plain[number]["x"])
            assert batch["y"] == plain[number]["y"]
            if number == 2:
                break


def test_the_methods_that_are_missing_are_named():
    with pytest.raises(NotImplementedError, match="Sequence must implement __len__"):
        Sequence().loader()
    with pytest.raises(NotImplementedError, match=r"Sequence must implement __getitem__\(index\)"):
        Sequence()[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs_are_whole_in_order_and_counted(num_workers):
    loader = kinds.Hooked(5).loader(num_workers=num_workers)
    for epoch in range(4):
        assert (loader.epoch, len(loader)) == (epoch, 5)
        assert [(value, hooks) for value, hooks, _ in loader] == [(value, epoch) for value in range(5)]


@pytest.mark.parametrize("method", [None, *(pytest.param(method, marks=pytest.mark.slow) for method in METHODS)])
@pytest.mark.parametrize("kind", kinds.HOOKS)
def test_what_the_hook_did_is_what_the_workers_use_next(kind, method):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    sequence = kind()
    loader = sequence.loader(num_workers=2, multiprocessing_context=method)
    for epoch in range(4):
        order = [int(value) for value in sequence.order]
        assert len(loader) == len(order)
        batches = list(loader)
        assert [int(value) for value, _, _ in batches] == order
        assert {hooks for _, hooks, _ in batches} <= {epoch}
        assert os.getpid() not in {process for _, _, process in batches}
        assert sequence.hooks == epoch + 1
        if kind is kinds.InSharedMemory:
            assert sequence.dial.is_shared()


def test_what_cannot_be_pickled_is_seen_by_forked_workers():
    sequence = kinds.Unpicklable()
    loader = sequence.loader(num_workers=2, multiprocessing_context="fork")
    for _ in range(3):
        order = list(sequence.order)
        assert [value for value, _, _ in loader] == order


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        (kinds.Hooked, True),
        (kinds.Growing, True),
        (kinds.Nested, True),
        (kinds.Large, False),
        (kinds.LargeBeside, True),
        (kinds.Unpicklable, False),
    ],
)
def test_workers_stay_alive_where_the_state_can_be_sent(kind, kept):
    loader = kind().loader(num_workers=2, multiprocessing_context="fork")
    crews = [{process for _, _, process in loader} for _ in range(3)]
    assert (crews[0] == crews[1] == crews[2]) is kept


def test_a_tensor_of_the_callers_stays_as_it_was_when_workers_are_spawned():
    sequence = kinds.ShufflingATensor()
    iter(sequence.loader(num_workers=1, multiprocessing_context="spawn"))
    assert not sequence.order.is_shared()


def test_the_caller_may_change_the_sequence_between_epochs():
    sequence = kinds.Numbers(4)
    loader = sequence.loader(num_workers=2)
    assert list(loader) == [0, 1, 2, 3]
    sequence.length = 1
    assert (len(loader), list(loader)) == (1, [0])
    sequence.length = 6
    assert list(loader) == list(range(6))


def test_worker_init_fn_works_on_the_users_sequence_also_after_a_change():
    loader = kinds.InitSeen(4).loader(num_workers=2, worker_init_fn=kinds.mark_sequence)
    for epoch in range(3):
        assert list(loader) == [[index, 10 + index % 2, epoch] for index in range(4)]


def test_the_hook_runs_once_and_not_after_an_epoch_that_was_left():
    sequence = kinds.Hooked(3)
    loader = sequence.loader()
    for batch in loader:
        break
    assert (sequence.hooks, loader.epoch) == (0, 0)
    epoch = iter(loader)
    assert loader.epoch == 1
    assert len([next(epoch) for _ in range(3)]) == 3
    assert sequence.hooks == 0
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(epoch)
    assert (sequence.hooks, loader.epoch) == (1, 2)


@pytest.mark.parametrize(("num_workers", "workers"), [(0, "processes"), (1, "processes"), (1, "threads")])
@pytest.mark.parametrize("stop", ["close", "load_state_dict"])
def test_an_iterator_that_cannot_go_on_says_so(stop, num_workers, workers):
    loader = kinds.Numbers().loader(num_workers=num_workers, workers=workers)
    old = iter(loader)
    next(old)
    if stop == "close":
        loader.close()
    else:
        loader.load_state_dict(loader.state_dict())
    if stop == "close" and not num_workers:
        assert next(old) == 1
        return
    says = "its loader was closed" if stop == "close" else "its loader was given another state"
    with pytest.raises(RuntimeError, match=f"{says}; start another"):
        next(old)
    assert list(loader)[-1] == 6


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_processs_random_state_is_left_alone(num_workers):
    class Quiet(kinds.Numbers):
        pass

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    list(kinds.Numbers().loader(num_workers=num_workers, shuffle=True))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1], before[2]) == (np.random.get_state()[1].tolist(), random.getstate())


def test_what_batches_draw_is_fixed_by_seed_epoch_and_index_for_any_number_of_workers():
    def epochs(num_workers, seed=0):
        loader = kinds.Drawing().loader(num_workers=num_workers, seed=seed)
        return [list(loader) for _ in range(2)]

    first, again, other = epochs(1), epochs(3), epochs(2, seed=1)
    assert first == again
    assert len({draw for epoch in (*first, *other) for batch in epoch for draw in batch[1:]}) == 9 * 3 * 4
    shuffled = {batch[0]: batch for batch in kinds.Drawing().loader(num_workers=2, shuffle=True)}
    assert [shuffled[index] for index in range(9)] == first[0]


def test_without_workers_the_processs_generators_are_used():
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    wanted = [[index, random.random(), float(np.random.random()), float(torch.rand(()))] for index in range(9)]
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    assert list(kinds.Drawing().loader()) == wanted


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shuffled_epochs_differ_and_are_fixed_by_the_seed(num_workers):
    def epochs(seed):
        loader = kinds.Numbers(20).loader(shuffle=True, seed=seed, num_workers=num_workers)
        return [list(loader) for _ in range(3)]

    mine = epochs(4)
    assert mine == epochs(4)
    assert len({tuple(epoch) for epoch in (*mine, *epochs(5))}) == 6
    assert all(sorted(epoch) == list(range(20)) for epoch in mine)


@settings(deadline=None, max_examples=100)
@given(
    length=st.integers(0, 30),
    size=st.integers(1, 5),
    shard=st.sampled_from(["pad", "drop", "uneven"]),
    shuffle=st.booleans(),
)
def test_shards_part_the_batches(length, size, shard, shuffle):
    sequence = kinds.Numbers(length)
    parts = []
    for rank in range(size):
        loader = sequence.loader(rank=rank, world_size=size, shard=shard, shuffle=shuffle)
        part = list(loader)
        assert len(part) == len(loader) or not part
        parts.append(part)
    together = [batch for part in parts for batch in part]
    if shard == "uneven":
        assert sorted(together) == list(range(length))
    else:
        assert len({len(part) for part in parts}) == 1
    if shard == "pad":
        assert set(together) == set(range(length))
        assert len(together) < length + size
    if shard == "drop":
        assert len(set(together)) == len(together) == length // size * size


@pytest.mark.parametrize("saved_with", [0, 1, 3])
@pytest.mark.parametrize("resumed_with", [1, 2])
@pytest.mark.parametrize("taken", [0, 1, 4, 10, 11, 13, 22, 27])
def test_what_follows_a_resume_is_what_would_have_followed(saved_with, resumed_with, taken):
    def run(loader):
        while True:
            yield from loader

    original = kinds.Resumable().loader(num_workers=saved_with, shuffle=True, seed=2)
    source = run(original)
    for _ in range(taken):
        next(source)
    state = json.loads(json.dumps(original.state_dict()))
    assert len(json.dumps({**state, "sequence": None})) < 1024
    state["sequence"]["generator"][1] = tuple(state["sequence"]["generator"][1])
    state["sequence"]["generator"] = tuple(state["sequence"]["generator"])
    resumed = kinds.Resumable().loader(num_workers=resumed_with, shuffle=True, seed=99)
    resumed.load_state_dict(state)
    follows = run(resumed)
    columns = slice(0, 3) if saved_with else slice(0, 2)
    assert [next(follows)[columns] for _ in range(25)] == [next(source)[columns] for _ in range(25)]


def test_a_resumed_epoch_makes_no_batch_twice(tmp_path):
    made = []

    class Noting(kinds.Numbers):
        def __getitem__(self, index):
            made.append(index)
            return index

    loader = Noting().loader()
    epoch = iter(loader)
    next(epoch), next(epoch)
    made.clear()
    resumed = Noting().loader()
    resumed.load_state_dict(loader.state_dict())
    assert (len(resumed), list(resumed), made) == (7, [2, 3, 4, 5, 6], [2, 3, 4, 5, 6])
    assert list(resumed) == list(range(7))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (4, 2), (2, 2)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_checkpoint_of_another_number_of_ranks_loses_and_repeats_nothing(before, after, shuffle):
    def loaders(size):
        return [kinds.Numbers(24).loader(rank=r, world_size=size, shuffle=shuffle, shard="uneven") for r in range(size)]

    seen = []
    old, new = loaders(before), loaders(after)
    states = []
    for loader in old:
        epoch = iter(loader)
        seen += [next(epoch) for _ in range(3)]
        states.append(loader.state_dict())
    for rank, loader in enumerate(new):
        loader.load_state_dict(states[rank % before])
        seen += list(loader)
    assert sorted(seen) == list(range(24))
    assert sorted(batch for loader in new for batch in loader) == list(range(24))


def test_an_epoch_that_was_left_can_be_resumed_and_the_next_has_the_next_number():
    loader = kinds.Numbers().loader(shuffle=True)
    for number, _ in enumerate(loader):
        if number == 2:
            break
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (0, 3)
    list(loader)
    assert loader.epoch == 2


def test_a_hook_without_a_state_is_warned_about():
    with pytest.warns(UserWarning, match="ShufflingInPlace has on_epoch_end and no state_dict"):
        kinds.ShufflingInPlace().loader().state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kinds.Numbers().loader().state_dict()
        kinds.Resumable().loader().state_dict()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "must be what SequenceLoader.state_dict"),
        ({"position": -1}, r"state\['position'\] must be an int"),
        ({"epoch": None}, r"state\['epoch'\] must be an int"),
        ({"shuffle": True}, "taken with shuffle=True, this loader has False"),
        ({"shard": "drop"}, "taken with shard='drop'"),
        ({"length": 9}, "within an epoch of 9 batches; this Sequence has 7"),
        ({"sequence": {}}, "Numbers has no load_state_dict"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, says):
    loader = kinds.Numbers().loader()
    epoch = iter(loader)
    next(epoch)
    state = loader.state_dict()
    with pytest.raises(ValueError, match=says):
        loader.load_state_dict({**state, **change})
    assert loader.state_dict() == state
    with pytest.raises(ValueError, match="must be what"):
        loader.load_state_dict([1])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    "error", [ValueError("bad row"), KeyError("k"), kinds.OddError(5, "x"), OSError(2, "none", "f")]
)
def test_an_exception_keeps_its_type_and_attributes_and_names_the_batch(error, num_workers):
    loader = kinds.Failing(error).loader(num_workers=num_workers)
    for _ in range(2):
        epoch = iter(loader)
        assert [next(epoch) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(type(error)) as caught:
            next(epoch)
        assert caught.value.args == error.args
        assert vars(caught.value).get("code") == vars(error).get("code")
        assert "batch 3" in "".join(caught.value.__notes__)
        assert list(epoch) == [4, 5, 6]


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        ("broken", kinds.BrokenError, "7: lost"),
        ("stop", RuntimeError, r"__getitem__\(3\) raised StopIteration"),
        ("none", TypeError, r"__getitem__\(3\) must return one whole batch, got None"),
        ("generator", TypeError, r"__getitem__\(3\) must return one whole batch, got a generator"),
    ],
)
def test_odd_results_of_workers_are_errors(error, kind, says):
    epoch = iter(kinds.Failing(error).loader(num_workers=2))
    assert [next(epoch) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(kind, match=says):
        next(epoch)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        ("stop", RuntimeError, r"__getitem__\(3\) raised StopIteration"),
        ("none", TypeError, r"__getitem__\(3\) must return one whole batch, got None"),
        ("generator", TypeError, r"__getitem__\(3\) must return one whole batch, got a generator"),
    ],
)
def test_odd_results_in_this_process_are_errors(error, kind, says):
    epoch = iter(kinds.Failing(error).loader())
    assert [next(epoch) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(kind, match=says):
        next(epoch)


def of_length(value):
    class Odd(kinds.Numbers):
        def __len__(self):
            return value

    return Odd()


class Yielding(kinds.Numbers):
    def __getitem__(self, index):
        yield index


@pytest.mark.parametrize(
    ("sequence", "arguments", "error", "says"),
    [
        (of_length(-1), {}, ValueError, "Odd.__len__ must not be negative, got -1"),
        (of_length(2.0), {}, TypeError, r"Odd.__len__ must give an int, got 2.0; wrap it in int\(\)"),
        (of_length(None), {}, TypeError, "must give an int, got None; give steps_per_epoch for batches without end"),
        (Yielding(), {}, TypeError, "must return one whole batch, and not yield"),
        (kinds.Numbers(), {"num_workers": -1}, ValueError, "num_workers must be at least 0, got -1"),
        (kinds.Numbers(), {"num_workers": 1.5}, TypeError, "num_workers must be an int"),
        (kinds.Numbers(), {"num_workers": 2, "prefetch_factor": 0}, ValueError, "prefetch_factor must be at least 1"),
        (kinds.Numbers(), {"num_workers": 2, "timeout": -1}, ValueError, "timeout must be a number of seconds"),
        (kinds.Numbers(), {"timeout": 5}, ValueError, "timeout=5 needs workers"),
        (kinds.Numbers(), {"multiprocessing_context": "fork"}, ValueError, "needs workers, and num_workers is 0"),
        (kinds.Numbers(), {"num_workers": 1, "multiprocessing_context": "no"}, ValueError, "multiprocessing_context"),
        (kinds.Numbers(), {"num_workers": 1, "multiprocessing_context": 3}, TypeError, "or a context; got 3"),
        (kinds.Numbers(), {"num_workers": 1, "multiprocessing_context": os}, TypeError, "or a context; got <module"),
        (
            kinds.Numbers(),
            {"num_workers": 1, "workers": "threads", "multiprocessing_context": "fork"},
            ValueError,
            "multiprocessing_context needs workers='processes'",
        ),
        (
            kinds.Numbers(),
            {"workers": "thread"},
            ValueError,
            r"workers must be one of \['processes', 'threads', 'auto'\]",
        ),
        (kinds.Numbers(), {"on_error": "pass"}, ValueError, r"on_error must be one of \['raise', 'skip'\]"),
        (kinds.Numbers(), {"reuse": 2}, TypeError, "reuse must be True or False, got 2"),
        (kinds.Numbers(), {"collate_fn": 2}, TypeError, "collate_fn must be a function of a batch, or None; got 2"),
        (kinds.Numbers(), {"steps_per_epoch": 2}, ValueError, "this Sequence has 7 batches"),
        (of_length(None), {"steps_per_epoch": 0}, ValueError, "steps_per_epoch must be at least 1, got 0"),
        (kinds.Numbers(), {"shuffle": "no"}, TypeError, "shuffle must be True or False, got 'no'"),
        (kinds.Numbers(), {"pin_memory": 1}, TypeError, "pin_memory must be True or False, got 1"),
        (kinds.Numbers(), {"worker_init_fn": 3}, TypeError, "worker_init_fn must be a function"),
        (kinds.Numbers(), {"seed": -1}, ValueError, "seed must be at least 0"),
        (kinds.Numbers(), {"shard": "cut"}, ValueError, "shard must be one of"),
        (kinds.Numbers(), {"rank": 1}, ValueError, "rank=1 needs world_size"),
        (kinds.Numbers(), {"rank": 2, "world_size": 2}, ValueError, r"rank must lie in \[0, 2\)"),
        (kinds.Numbers(), {"world_size": 2}, ValueError, "world_size=2 needs rank"),
        (kinds.Numbers(), {"world_size": 0}, ValueError, "world_size must be at least 1"),
    ],
)
def test_bad_arguments_are_refused_before_a_worker_starts(sequence, arguments, error, says):
    with pytest.raises(error, match=says):
        sequence.loader(**arguments)
    assert not multiprocessing.active_children()


def test_a_world_is_asked_for_and_missed_under_torchrun(monkeypatch):
    assert len(kinds.Numbers().loader(world_size="auto")) == 7
    monkeypatch.setenv("WORLD_SIZE", "2")
    # The group may come later than the loader: it is asked when an epoch begins.
    loader = kinds.Numbers().loader(world_size="auto")
    with pytest.raises(RuntimeError, match="call init_process_group first"):
        next(iter(loader))


def test_progress_bars_know_the_length(capsys):
    from tqdm import tqdm

    bar = tqdm(kinds.Numbers().loader(num_workers=2), disable=True)
    assert bar.total == len(bar) == 7
    assert list(bar) == list(range(7))


def test_nothing_stays_when_the_loader_is_dropped():
    loader = kinds.Hooked().loader(num_workers=2)
    next(iter(loader))
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    del loader
    assert not any(worker.is_alive() for worker in workers)


def test_close_ends_the_workers_and_the_next_epoch_starts_new_ones():
    loader = kinds.Numbers().loader(num_workers=2)
    list(loader)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    loader.close()
    assert not any(worker.is_alive() for worker in workers)
    assert list(loader) == list(range(7))


def test_a_timeout_is_an_error_and_the_next_epoch_starts_new_workers():
    sequence = kinds.Endless()
    loader = sequence.loader(num_workers=1, timeout=1, prefetch_factor=1)
    epoch = iter(loader)
    with pytest.raises(RuntimeError, match="timed out after 1"):
        [next(epoch) for _ in range(7)]
    with pytest.raises(RuntimeError, match="its workers were lost"):
        next(epoch)
    sequence.length = 3
    assert list(loader) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_worker_is_an_error_and_the_next_epochs_are_whole(method, tmp_path):
    flag = tmp_path / "kill"
    loader = kinds.Killing(str(flag)).loader(num_workers=2, multiprocessing_context=method)
    assert [value for value, _, _ in loader] == list(range(7))
    for hooks in (1, 2):
        flag.touch()
        with pytest.raises(RuntimeError, match=r"killed by signal|exited unexpectedly"):
            list(loader)
        assert [(value, number) for value, number, _ in loader] == [(value, hooks) for value in range(7)]


@pytest.mark.parametrize("at", [0, 6])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("SIGKILL", "was killed by signal 9 while it made batch {}; a system"),
        ("SIGTERM", "was killed by signal 15 while it made batch {} "),
        ("SIGSEGV", "was killed by signal 11 while it made batch {} "),
        ("os._exit(0)", r"exited unexpectedly \(status 0\) while it made batch {} "),
        ("os._exit(3)", r"exited unexpectedly \(status 3\) while it made batch {} "),
        ("SystemExit: 3", "was ended by SystemExit: 3, while it made batch {}"),
        ("KeyboardInterrupt", "was ended by KeyboardInterrupt, while it made batch {}"),
    ],
)
def test_a_worker_that_ends_is_an_error_that_names_its_batch(how, said, at, tmp_path):
    flag = tmp_path / "end"
    flag.touch()
    # With this timeout the test would take a minute if only that noticed the end.
    loader = kinds.Killing(str(flag), at=at, how=how).loader(
        num_workers=2, multiprocessing_context="fork", timeout=60, reuse=True
    )
    epoch = iter(loader)
    with pytest.raises(RuntimeError, match=rf"worker {at % 2} " + said.format(at)):
        list(epoch)
    with pytest.raises(RuntimeError, match="its workers were lost"):
        next(epoch)
    assert [value for value, _, _ in loader] == list(range(7))


@pytest.mark.parametrize("how", ["SystemExit: 3", "KeyboardInterrupt"])
def test_a_thread_s_wish_to_end_is_an_error_and_ends_no_program(how, tmp_path):
    flag = tmp_path / "end"
    flag.touch()
    loader = kinds.Killing(str(flag), how=how).loader(num_workers=2, workers="threads")
    with pytest.raises(RuntimeError, match=f"a thread was ended by {how}, while it made batch 3"):
        list(loader)


def test_a_death_that_comes_while_the_loop_works_is_told_at_the_next_batch(tmp_path):
    flag = tmp_path / "end"
    flag.touch()
    # Both of the first worker's batches ahead are there when it is killed: neither is the one that killed it.
    loader = kinds.Killing(str(flag), length=9, at=4).loader(num_workers=2, multiprocessing_context="fork")
    epoch = iter(loader)
    next(epoch)
    workers = multiprocessing.active_children()
    # Batch 4 is asked for when batch 0 was handed out.
    multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=20)
    with pytest.raises(RuntimeError, match="worker 0 was killed by signal 9 while it made batch 4"):
        list(epoch)


def test_ctrl_c_while_a_batch_is_taken_over_loses_none(monkeypatch):
    loader = kinds.Hooked().loader(num_workers=2)
    epoch = iter(loader)
    got = [next(epoch)[0]]

    def interrupted(*_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("torchkutils.data.pickled_batch.Receiver.unpack", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        next(epoch)
    assert got + [value for value, _, _ in epoch] == list(range(7))


@pytest.mark.slow
def test_a_worker_killed_between_epochs_costs_no_batch():
    loader = kinds.Hooked().loader(num_workers=2)
    list(loader)
    victim = multiprocessing.active_children()[0]
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(10)
    assert [(value, hooks) for value, hooks, _ in loader] == [(value, 1) for value in range(7)]


@pytest.mark.slow
def test_each_batch_comes_once_over_many_epochs_with_breaks_and_exceptions():
    generator = random.Random(8)
    sequence = kinds.ShufflingInPlace(9)
    loader = sequence.loader(num_workers=2, shuffle=True)
    whole = 0
    for epoch in range(60):
        wanted = sorted(sequence.order)
        stop_after = generator.choice([None, 1, 4])
        got = []
        for value, hooks, _ in loader:
            got.append(value)
            assert (loader.epoch, hooks) == (epoch, whole)
            if len(got) == stop_after:
                break
        assert len(set(got)) == len(got)
        if stop_after is None:
            assert sorted(got) == wanted
            whole += 1
    assert sequence.hooks == whole


PROGRAM = """
import signal, sys, time
sys.path.insert(0, {root!r})
from tests.data import sequences as kinds

def main():
    # A shell that runs the tests in the background has its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loader = kinds.Hooked(1000).loader(num_workers=2, multiprocessing_context={method!r})
    epoch = iter(loader)
    processes = {{next(epoch)[2] for _ in range(4)}}
    print(*processes, flush=True)
    {then}

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("then", ["return", "raise SystemExit(3)", "input()"])
def test_no_process_is_left_when_the_program_ends(method, then, tmp_path):
    root = str(pathlib.Path(__file__).parents[2])
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(root=root, method=method, then=then))
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        processes = [int(number) for number in program.stdout.readline().split()]
        assert len(processes) == 2
        if then == "input()":
            program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=60)
    assert program.returncode == {"return": 0, "raise SystemExit(3)": 3, "input()": -signal.SIGINT}[then], errors
    for process in processes:
        wait_until_gone(process)


def wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + 20
    while pathlib.Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        if "\nState:\tZ" in pathlib.Path(f"/proc/{process}/status").read_text():
            return
        time.sleep(0.05)
    assert not pathlib.Path(f"/proc/{process}").exists()
