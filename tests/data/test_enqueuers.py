"""Keras's queues: order, hooks, ends, faults, in threads and in processes."""

from __future__ import annotations

import itertools
import pathlib
import random
import subprocess
import sys
import threading
import time

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


class Locked:
    """As Keras asked for: an iterator that several threads may use, behind a lock that is fair to nobody."""

    def __init__(self, length, error=None):
        self.items, self.lock, self.error = iter(range(length)), threading.Lock(), error

    def __iter__(self):
        return self

    def __next__(self):
        with self.lock:
            time.sleep(0.0005)
            item = next(self.items, None)
        if item is None and self.error is not None:
            raise self.error
        if item is None:
            raise StopIteration
        return item


def yielding(length, error=None):
    for item in range(length):
        time.sleep(0.0005)
        yield item
    if error is not None:
        raise error


def drained(queue, workers, ahead=10):
    queue.start(workers=workers, max_queue_size=ahead)
    got = []
    try:
        for item in queue.get():
            got.append(item)
    finally:
        queue.stop()
    return got


@pytest.mark.parametrize("source", [Locked, yielding])
@pytest.mark.parametrize(("processes", "workers"), [(False, 1), (False, 2), (False, 4), (True, 1), (True, 3)])
def test_each_item_comes_once_in_order_and_the_exception_after_them(source, processes, workers):
    for _ in range(2 if processes else 10):
        assert drained(GeneratorEnqueuer(source(25), processes), workers) == list(range(25))
        queue = GeneratorEnqueuer(source(25, OSError("the disk is gone")), processes)
        queue.start(workers=workers, max_queue_size=4)
        items = queue.get()
        assert list(itertools.islice(items, 25)) == list(range(25))
        with pytest.raises(OSError, match="the disk is gone"):
            next(items)
        assert not queue.is_running()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_two_hundred_runs_lose_nothing(workers):
    assert all(drained(GeneratorEnqueuer(Locked(20)), workers) == list(range(20)) for _ in range(200))


@BOTH
def test_items_that_are_none_are_skipped(processes):
    assert drained(GeneratorEnqueuer(iter([1, None, 2, None]), processes), 2) == [1, 2]


def test_an_item_that_cannot_be_sent_is_an_error_and_no_end():
    queue = GeneratorEnqueuer(iter([1, lambda: 2]), use_multiprocessing=True)
    queue.start()
    items = queue.get()
    assert next(items) == 1
    with pytest.raises(TypeError, match=r"cannot be sent from its worker: batch is the function .*<lambda>"):
        next(items)


class Duck:
    def __init__(self):
        self.hooks = 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index

    def on_epoch_end(self):
        self.hooks += 1


@BOTH
@pytest.mark.parametrize("source", [Duck, lambda: [0, 1, 2], lambda: np.arange(3)], ids=["duck", "list", "array"])
def test_anything_with_a_length_and_items_will_do(source, processes):
    batches = source()
    queue = OrderedEnqueuer(batches, use_multiprocessing=processes)
    assert queue.sequence is batches
    queue.start(workers=2)
    assert [int(batch) for batch in itertools.islice(queue.get(), 7)] == [0, 1, 2, 0, 1, 2, 0]
    queue.stop()
    assert getattr(batches, "hooks", 2) == 2


ABANDONED = """
import sys, time
sys.path.insert(0, {root!r})
from torchkutils import GeneratorEnqueuer, OrderedEnqueuer, Sequence

class Slow(Sequence):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        time.sleep(60 if index else 0)
        return index

if __name__ == "__main__":
    queue = {queue}
    queue.start(workers=2, max_queue_size=10)
    assert next(queue.get()) == 0
    raise SystemExit(7)
"""


@pytest.mark.parametrize("queue", ["OrderedEnqueuer(Slow())", "GeneratorEnqueuer(iter(Slow()))"])
def test_a_program_that_ends_without_stop_ends_at_once(queue, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(ABANDONED.format(root=str(pathlib.Path(__file__).parents[2]), queue=queue))
    assert subprocess.run([sys.executable, script], timeout=40, check=False).returncode == 7


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
    with pytest.raises(TypeError, match=r"must be a torchkutils.Sequence, or have __len__ and __getitem__; got int"):
        OrderedEnqueuer(3)
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
