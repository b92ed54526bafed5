"""Keras's queues: order, hooks, ends, faults, in threads and in processes."""

from __future__ import annotations

import itertools
import random
import threading

import numpy as np
import pytest

from tests.data import sequences as kinds
from torchkutils import GeneratorEnqueuer, OrderedEnqueuer

BOTH = pytest.mark.parametrize("processes", [False, True])


@BOTH
def test_batches_come_in_order_over_epochs_and_the_hook_arrives(processes):
    sequence = kinds.Rebinding(5)
    queue = OrderedEnqueuer(sequence, use_multiprocessing=processes)
    assert not queue.is_running()
    queue.start(workers=2, max_queue_size=4)
    assert queue.is_running()
    batches = queue.get()
    got = [tuple(next(batches)[:2]) for _ in range(12)]
    assert got == [(v, 0) for v in range(5)] + [(v, 1) for v in range(4, -1, -1)] + [(0, 2), (1, 2)]
    queue.stop()
    assert not queue.is_running()
    assert list(batches) == []


@BOTH
def test_joining_the_end_of_an_epoch_runs_the_hook_once(processes):
    sequence = kinds.Hooked(3)
    queue = OrderedEnqueuer(sequence, use_multiprocessing=processes)
    queue.start()
    batches = queue.get()
    for epoch in range(3):
        assert [next(batches)[:2] for _ in range(3)] == [(value, epoch) for value in range(3)]
        queue.join_end_of_epoch()
        assert sequence.hooks == epoch + 1
    queue.stop()


@BOTH
def test_shuffled_epochs_hold_each_batch_once(processes):
    random.seed(2)
    queue = OrderedEnqueuer(kinds.Numbers(20), use_multiprocessing=processes, shuffle=True)
    queue.start(workers=2)
    epochs = [list(itertools.islice(queue.get(), 20)) for _ in range(2)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    queue.stop()


@BOTH
def test_batches_are_not_converted(processes):
    class Arrays(kinds.Numbers):
        def __getitem__(self, index):
            return np.full(2, index)

    queue = OrderedEnqueuer(Arrays(), use_multiprocessing=processes)
    queue.start()
    assert isinstance(next(queue.get()), np.ndarray)
    queue.stop()


@BOTH
def test_an_exception_stops_the_queue_and_is_raised(processes):
    queue = OrderedEnqueuer(kinds.Failing(ValueError("bad row")), use_multiprocessing=processes)
    queue.start(workers=2)
    batches = queue.get()
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="bad row"):
        next(batches)
    assert not queue.is_running()


def test_stopping_from_another_thread_ends_a_waiting_consumer():
    made = threading.Event()
    going_on = threading.Event()

    class Waiting(kinds.Numbers):
        def __getitem__(self, index):
            made.set()
            going_on.wait(30)
            return index

    queue = OrderedEnqueuer(Waiting(20))
    queue.start(workers=1, max_queue_size=3)
    got = []
    consumer = threading.Thread(target=lambda: got.extend(queue.get()))
    consumer.start()
    assert made.wait(30)
    queue.stop()
    going_on.set()
    consumer.join(30)
    assert not consumer.is_alive()
    assert len(got) <= 1


def test_a_generator_comes_in_order_once_from_threads():
    queue = GeneratorEnqueuer(iter(range(200)))
    queue.start(workers=4)
    assert list(queue.get()) == list(range(200))
    queue.stop()


def test_each_process_runs_a_generator_of_its_own():
    queue = GeneratorEnqueuer((number for number in range(5)), use_multiprocessing=True)
    queue.start(workers=2)
    assert sorted(queue.get()) == sorted([*range(5), *range(5)])
    queue.stop()


def test_processes_draw_by_their_seed():
    def draws():
        for _ in range(3):
            yield np.random.random(), random.random()

    def run(seed):
        queue = GeneratorEnqueuer(draws(), use_multiprocessing=True, random_seed=seed)
        queue.start(workers=2)
        result = sorted(tuple(item) for item in queue.get())
        queue.stop()
        return result

    assert run(3) == run(3) != run(9)
    assert len(set(run(3))) == 6


def failing_generator():
    yield 1
    raise KeyError("gone")


@BOTH
def test_a_generators_exception_stops_and_is_raised(processes):
    queue = GeneratorEnqueuer(failing_generator(), use_multiprocessing=processes)
    queue.start()
    items = queue.get()
    assert next(items) == 1
    with pytest.raises(KeyError, match="gone"):
        next(items)
    assert not queue.is_running()


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match=r"must be a torchkutils.Sequence"):
        OrderedEnqueuer([1, 2])
    with pytest.raises(TypeError, match="must be a generator or an iterable"):
        GeneratorEnqueuer(3)
    with pytest.warns(DeprecationWarning, match="wait_time is not used"):
        queue = GeneratorEnqueuer(iter([1]), wait_time=0.1)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        queue.start(workers=0)
    with pytest.raises(ValueError, match="max_queue_size must be at least 1"):
        queue.start(max_queue_size=0)
    queue.start()
    with pytest.raises(RuntimeError, match="start was called twice"):
        queue.start()
    queue.stop()
