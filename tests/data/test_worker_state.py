"""What workers hold: their copy of the Sequence, brought up to date or left alone; and what cannot be sent."""

from __future__ import annotations

import collections
import functools
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from tests.data import sequences as kinds
from torchkutils import Sequence
from torchkutils._torch_versions import TORCH_VERSION
from torchkutils.data.sequence_state import LEAF_BYTES, State, glance, state_of

LARGE = LEAF_BYTES // 8


class Counting(Sequence):
    """Batch i is how many batches this copy of the Sequence has made, and its process."""

    def __init__(self, **attributes):
        self.calls = 0
        self.length = 3
        self.__dict__.update(attributes)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.calls += 1
        return self.calls, os.getpid()


class Slotted:
    __slots__ = ("inner", "other")

    def __init__(self):
        self.inner = np.arange(LARGE)


def linear():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 4)


def shared_views():
    rows = torch.arange(100.0)
    return [rows, rows[10:], rows.view(10, 10).T]


UNCHANGED = {
    "a torch generator": lambda: torch.Generator().manual_seed(0),
    "a numpy generator": lambda: np.random.default_rng(0),
    "a tensor": lambda: torch.arange(10),
    "a large tensor": lambda: torch.arange(LARGE + 1),
    "a transposed tensor": lambda: torch.arange(12).view(3, 4).T,
    "views of one memory": shared_views,
    "a module": linear,
    "an array": lambda: np.arange(10),
    "a large array": lambda: np.arange(LARGE + 1),
    "two equal large arrays": lambda: [np.arange(LARGE), np.arange(LARGE)],
    "a large array of Fortran's order": lambda: np.asfortranarray(np.ones((LARGE, 2))),
    "an object with slots": Slotted,
    "text": lambda: {"names": ["a", "b"], "deep": ("x", {"y"}, frozenset([1]))},
    "a random.Random": lambda: random.Random(3),
}


def stirred():
    """Memory that is given out in another order than before."""
    return [torch.rand(size) for size in range(1, 400, 7)][::2]


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_nothing_changed_keeps_its_workers_and_their_copy(name):
    loader = Counting(held=UNCHANGED[name]()).loader(num_workers=1, multiprocessing_context="fork")
    kept = []
    seen = []
    for _ in range(4):
        seen += list(loader)
        kept.append(stirred())
    assert [calls for calls, _ in seen] == list(range(1, 13))
    assert len({process for _, process in seen}) == 1
    loader.close()


def swapped(array):
    array[[0, 5]] = array[[5, 0]]


def stepped(module):
    with torch.no_grad():
        module.weight[0, 0] += 1


CHANGES = {
    "a torch generator": lambda generator: torch.rand(1, generator=generator),
    "a numpy generator": lambda generator: generator.random(),
    "a tensor": swapped,
    "a large tensor": swapped,
    "a transposed tensor": lambda tensor: tensor.add_(1),
    "views of one memory": lambda views: views[1].add_(1),
    "a module": stepped,
    "an array": swapped,
    "a large array": swapped,
    "two equal large arrays": lambda arrays: swapped(arrays[1]),
    "a large array of Fortran's order": lambda array: array.__setitem__((3, 1), 7),
    "an object with slots": lambda value: setattr(value, "other", 1),
    "text": lambda value: value["names"].reverse(),
    "a random.Random": lambda generator: generator.random(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_in_place_is_seen(name):
    value = UNCHANGED[name]()
    before, again = state_of(value, 2**22), state_of(value, 2**22)
    assert isinstance(before, State)
    assert before.equals(again)
    CHANGES[name](value)
    assert not state_of(value, 2**22).equals(before)


@pytest.mark.parametrize("name", [name for name in UNCHANGED if name not in ("an object with slots",)])
@pytest.mark.parametrize("whole", [False, True])
def test_a_state_is_restored_as_it_was(name, whole):
    value = UNCHANGED[name]()
    before = state_of(value, 2**22)
    CHANGES[name](value)
    after = state_of(value, 2**22)
    parts = after.whole() if whole else after.since(set(before.leaves), 2**22)
    restored, _ = parts.restore({} if whole else UNCHANGED_LEAVES(name, before))
    assert state_of(restored, 2**22).equals(after)


def UNCHANGED_LEAVES(name, before):
    """The leaves of a worker that has the state before the change."""
    return dict(zip(before.leaves, state_of(UNCHANGED[name](), 2**22).leaves.values(), strict=True))


def test_views_of_one_memory_stay_views_of_one_memory():
    restored, _ = state_of(shared_views(), 2**22).whole().restore({})
    restored[0][10] = -1
    assert restored[1][0] == -1
    assert restored[2].stride() == (1, 10)


class Filling(kinds.Hooked):
    """Its copy in the worker writes to the large array, which the caller's process never changes."""

    def __init__(self, how):
        super().__init__(4)
        self.how, self.normalized = how, False
        self.rows = np.arange(2**16, dtype="f8")

    def __getitem__(self, index):
        if not self.normalized and self.how == "scale":
            self.rows /= 2
        elif not self.normalized:
            self.rows[:] = self.rows[::-1].copy()
        self.normalized = True
        return self.order[index], float(self.rows[2]), os.getpid()


@pytest.mark.parametrize(("how", "value"), [("scale", 1.0), ("reverse", 2.0**16 - 3)])
def test_a_leaf_that_the_worker_wrote_to_is_not_kept(how, value):
    sequence = Filling(how)
    loader = sequence.loader(num_workers=2, multiprocessing_context="fork")
    for _ in range(3):
        order = list(sequence.order)
        assert [tuple(batch[:2]) for batch in loader] == [(number, value) for number in order]
    loader.close()


def test_a_glance_sees_what_people_do_to_arrays():
    array = np.random.default_rng(0).integers(0, 9, 2**18)
    shown = glance(array)
    for change in (lambda a: a + 1, np.sort, lambda a: a[::-1].copy(), np.roll, np.random.permutation):
        assert glance(change(array, 5) if change is np.roll else change(array)) != shown
    assert glance(array.copy()) == shown


@pytest.mark.slow
def test_a_thousand_epochs_keep_memory_and_files_as_they_are():
    def held():
        memory = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return memory, len(os.listdir("/proc/self/fd")), threading.active_count()

    loader = Counting(rows=np.arange(LARGE), length=20).loader(num_workers=2, multiprocessing_context="fork")
    for _ in range(100):
        assert len(list(loader)) == 20
    memory, files, threads = held()
    for _ in range(900):
        assert len(list(loader)) == 20
    after = held()
    assert after[0] - memory < 8 * 2**20
    assert after[1:] == (files, threads)
    loader.close()


class Mapped(kinds.Hooked):
    """Rows of a file, mapped into memory."""

    def __init__(self, path, mode, piece):
        super().__init__(6)
        rows = np.memmap(path, "i8", mode, offset=16, shape=(2**16,))
        self.rows = {"all": rows, "piece": rows[100:], "array": np.asarray(rows)}[piece]

    def __getitem__(self, index):
        return self.order[index], int(self.rows[0]), os.getpid()

    def change(self):
        self.order.reverse()


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("piece", ["all", "piece", "array"])
def test_a_mapped_file_is_mapped_again_and_not_sent(piece, mode, method, tmp_path):
    np.arange(2**17).tofile(tmp_path / "rows")
    sequence = Mapped(tmp_path / "rows", mode, piece)
    assert len(state_of(sequence, 2**20).content) < 2000
    loader = sequence.loader(num_workers=1, multiprocessing_context=method)
    first = 102 if piece == "piece" else 2
    processes = set()
    for epoch in range(3):
        order = list(sequence.order)
        batches = list(loader)
        assert [tuple(batch[:2]) for batch in batches] == [(number, first) for number in order]
        processes |= {process for _, _, process in batches}
        if mode == "r+" and epoch == 1:
            first = sequence.rows[0] = 77
    assert len(processes) == 1
    loader.close()


# -- generators that the Sequence holds ------------------------------------------------------------------------------


class Drawing(Sequence):
    def __init__(self, generator, hook=False):
        self.parts = {"augment": [generator]}
        self.order = list(range(6))
        self.hook = hook

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return drawn_from(self.parts["augment"][0])

    def on_epoch_end(self):
        if self.hook:
            random.shuffle(self.order)


def drawn_from(generator):
    if isinstance(generator, torch.Generator):
        return float(torch.rand((), generator=generator))
    if isinstance(generator, np.random.BitGenerator):
        return float(np.random.Generator(generator).random())
    return float(generator.random())


GENERATORS = {
    "PCG64": lambda: np.random.default_rng(0),
    "Philox": lambda: np.random.Generator(np.random.Philox(0)),
    "MT19937": lambda: np.random.Generator(np.random.MT19937(0)),
    "a bit generator": lambda: np.random.SFC64(0),
    "RandomState": lambda: np.random.RandomState(0),
    "random.Random": lambda: random.Random(0),
    "torch": lambda: torch.Generator().manual_seed(0),
}


def stepped_on(name):
    generator = GENERATORS[name]()
    drawn_from(generator)
    return generator


@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("name", GENERATORS)
def test_what_held_generators_draw_is_fixed_by_seed_epoch_and_index(name, hook):
    def epochs(num_workers, seed=0, generator=None):
        sequence = Drawing(generator or GENERATORS[name](), hook)
        loader = sequence.loader(num_workers=num_workers, seed=seed)
        try:
            return [list(loader) for _ in range(2)]
        finally:
            loader.close()

    first = epochs(1)
    assert first == epochs(3)
    # Another seed, and another state of the generator, give other numbers.
    drawn = [draw for epoch in (*first, *epochs(2, seed=1), *epochs(2, generator=stepped_on(name))) for draw in epoch]
    assert len(set(drawn)) == len(drawn)


class Prepares(Sequence):
    """Makes its generator in the worker: with the worker's number as its seed, or all with the same."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if not hasattr(self, "generator"):
            self.generator = np.random.default_rng(0)
        return float(self.generator.random())

    def prepare(self, worker):
        self.generator = np.random.default_rng(worker)

    def on_epoch_end(self):
        self.hooked = getattr(self, "hooked", 0) + 1


@pytest.mark.parametrize("where", ["worker_init_fn", "__getitem__"])
def test_generators_that_workers_make_draw_the_same_for_any_number_of_workers(where):
    def epochs(num_workers):
        sequence = Prepares()
        init = sequence.prepare if where == "worker_init_fn" else None
        loader = sequence.loader(num_workers=num_workers, worker_init_fn=init)
        try:
            return [list(loader) for _ in range(3)]
        finally:
            loader.close()

    first = epochs(1)
    assert first == epochs(3)
    assert len({draw for epoch in first for draw in epoch}) == 24


def test_a_long_sequence_s_generator_is_found_beside_a_million_samples():
    class Long(Drawing):
        def __len__(self):
            return 10**6

        def __getitem__(self, index):
            return drawn_from(self.parts["augment"][0])

    sequence = Long(np.random.default_rng(0))
    sequence.samples = [(f"{number}.png", number) for number in range(20_000)]
    sequence.objects = [pathlib.Path() for _ in range(20_000)]
    loaders = [sequence.loader(num_workers=count, multiprocessing_context="fork") for count in (1, 2)]
    first, second = ([batch for batch, _ in zip(loader, range(6), strict=False)] for loader in loaders)
    assert first == second
    assert len(set(first)) == 6
    for loader in loaders:
        loader.close()


def test_without_workers_a_held_generator_goes_on_as_it_is():
    wanted = [float(value) for value in np.random.default_rng(0).random(12)]
    loader = Drawing(np.random.default_rng(0)).loader()
    assert [*loader, *loader] == wanted


# -- worker_init_fn --------------------------------------------------------------------------------------------------


class Prepared(Sequence):
    def __init__(self):
        self.worker, self.hooks = -1, 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.worker

    def prepare(self, worker, plus=0):
        self.worker = worker + plus

    def prepare_from(self, base, worker):
        self.worker = base + worker

    def on_epoch_end(self):
        self.hooks += 1


INITS = {
    "a method": (lambda sequence: sequence.prepare, [0, 1, 0, 1]),
    "a partial with a keyword": (lambda sequence: functools.partial(sequence.prepare, plus=5), [5, 6, 5, 6]),
    "a partial with an argument": (lambda sequence: functools.partial(sequence.prepare_from, 7), [7, 8, 7, 8]),
}


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(method, marks=pytest.mark.slow) for method in ("spawn", "forkserver"))]
)
@pytest.mark.parametrize("name", INITS)
def test_a_worker_init_fn_of_the_sequence_works_on_the_worker_s_own(name, method):
    sequence = Prepared()
    init, wanted = INITS[name]
    loader = sequence.loader(num_workers=2, worker_init_fn=init(sequence), multiprocessing_context=method)
    assert [list(loader) for _ in range(2)] == [wanted, wanted]
    assert sequence.worker == -1
    loader.close()


def test_a_worker_init_fn_of_the_sequence_also_prepares_threads():
    sequence = Prepared()
    loader = sequence.loader(num_workers=1, worker_init_fn=sequence.prepare, workers="threads")
    assert list(loader) == [0, 0, 0, 0]


# -- what cannot be sent ---------------------------------------------------------------------------------------------


def local_class():
    class Local:
        pass

    return Local()


class Opened(collections.UserDict):
    """A mapping that cannot be read through: an open file, a data base."""

    def __iter__(self):
        raise AssertionError("nobody may read it")

    def __getstate__(self):
        raise TypeError("an open file")


def test_what_a_sequence_holds_is_not_read_to_find_generators():
    loader = Counting(held=Opened(), rows=[Opened() for _ in range(3)]).loader(num_workers=1, workers="threads")
    assert len(list(loader)) == 3
    forked = Counting(held=Opened()).loader(num_workers=1, multiprocessing_context="fork")
    assert len(list(forked)) == 3
    forked.close()


UNSENDABLE = {
    r"Counting\.held is of type Opened": Opened,
    r"Counting\.held is of type lock": threading.Lock,
    r"Counting\.held is the function <lambda>": lambda: lambda: 1,
    r"Counting\.held is of type TextIOWrapper": lambda: sys.__stderr__,
    r"Counting\.held\['deep'\]\[1\] is of type lock": lambda: {"deep": [1, threading.Lock()]},
    r"Counting\.held is of type Local": local_class,
    r"Counting\.held is of type generator": lambda: (row for row in ()),
}


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("says", UNSENDABLE)
def test_what_a_new_interpreter_cannot_be_sent_is_named_before_a_process_starts(says, method):
    loader = Counting(held=UNSENDABLE[says]()).loader(num_workers=1, multiprocessing_context=method)
    with pytest.raises(TypeError, match=f"{says}.*which cannot be pickled .*; workers that are started by '{method}'"):
        list(loader)


@pytest.mark.parametrize("name", ["worker_init_fn", "collate_fn"])
def test_a_function_that_cannot_be_sent_is_named(name):
    loader = kinds.Numbers().loader(num_workers=1, multiprocessing_context="spawn", **{name: lambda value: value})
    with pytest.raises(TypeError, match=f"{name} is the function .*<lambda>, which cannot be pickled"):
        list(loader)


INTERACTIVE = """
import torchkutils as ku
class Cell(ku.Sequence):
    def __len__(self): return 4
    def __getitem__(self, i): return i
try: print(list(Cell().loader(num_workers=1, multiprocessing_context="spawn", timeout=60)))
except TypeError as error: print(error)
"""


def test_a_class_of_an_interactive_session_is_named_where_workers_are_spawned():
    done = subprocess.run([sys.executable, "-c", INTERACTIVE], capture_output=True, text=True, timeout=100, check=True)
    assert "Cell is defined in a notebook cell or an interactive session" in done.stdout
    assert "move it to a module" in done.stdout


class Unsendable(Sequence):
    def __init__(self, value):
        self.value = value

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"x": index, "y": self.value() if index == 1 else None}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (lambda: lambda: 1, r"batch\['y'\] is the function .*<lambda>"),
        (threading.Lock, r"batch\['y'\] is of type lock"),
        (lambda: [1, sys.__stdin__], r"batch\['y'\]\[1\] is of type TextIOWrapper"),
        (lambda: (row for row in ()), r"batch\['y'\] is of type generator"),
    ],
)
def test_a_batch_that_cannot_be_sent_is_an_error_of_that_batch_and_the_epoch_goes_on(value, says):
    epoch = iter(Unsendable(value).loader(num_workers=2, multiprocessing_context="fork"))
    assert next(epoch)["x"] == 0
    with pytest.raises(TypeError, match=says) as caught:
        next(epoch)
    assert "made batch 1" in "".join(caught.value.__notes__)
    assert [batch["x"] for batch in epoch] == [2, 3]


class SeveralArguments(Exception):
    """Has three arguments, one of which cannot be sent."""

    def __init__(self, code, lock, *, detail):
        super().__init__(f"{code}: {detail}")
        self.code, self.lock, self.detail = code, lock, detail


class Reduced(ValueError):
    def __init__(self, row, column):
        super().__init__(f"bad cell {row}, {column}")
        self.row, self.column = row, column


EXCEPTIONS = {
    "arguments by keyword": (kinds.BrokenError(3, detail="gone"), "3: gone", {}),
    "an attribute that cannot be sent": (
        SeveralArguments(4, threading.Lock(), detail="x"),
        "4: x",
        {"code": 4, "detail": "x"},
    ),
    "another message than arguments": (Reduced(1, 2), "bad cell 1, 2", {"row": 1, "column": 2}),
    "the system's": (FileNotFoundError(2, "no such file", "a.png"), "no such file", {"errno": 2, "filename": "a.png"}),
    "of text": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"), "bad byte", {"start": 0}),
}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_keeps_its_type_whatever_its_constructor_takes(name):
    error, says, attributes = EXCEPTIONS[name]
    loader = kinds.Failing(error).loader(num_workers=1, multiprocessing_context="fork")
    with pytest.raises(type(error), match=says) as caught:
        list(loader)
    assert type(caught.value) is type(error)
    assert {key: getattr(caught.value, key) for key in attributes} == attributes
    assert "batch 3" in "".join(caught.value.__notes__)
    loader.close()


class Dying(kinds.Numbers):
    def __init__(self, how, length=7):
        super().__init__(length)
        self.how = how

    def __getitem__(self, index):
        if index == 4:
            time.sleep(0.3)
            os._exit(3) if self.how == "exit" else os.kill(os.getpid(), self.how)
        return index


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "says"),
    [
        (signal.SIGKILL, "was killed by signal 9 while it made batch 4; a system that runs out of memory kills so"),
        (signal.SIGSEGV, "was killed by signal 11 while it made batch 4"),
        ("exit", r"exited unexpectedly \(status 3\) while it made batch 4"),
    ],
)
@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_a_worker_that_dies_is_an_error_that_names_its_batch(how, says, num_workers):
    loader = Dying(how).loader(num_workers=num_workers, multiprocessing_context="fork")
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=says):
        list(loader)
    # "Within seconds": a hang would last for ever; this says no time.
    assert time.monotonic() - start < 60
    loader.close()


class Stopped(kinds.Numbers):
    """Its worker is stopped, as a debugger or a batch system does it."""

    def __getitem__(self, index):
        if index == 4:
            os.kill(os.getpid(), signal.SIGSTOP)
        return os.getpid()


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_killed_when_the_loader_is_closed():
    loader = Stopped().loader(num_workers=1, timeout=1, multiprocessing_context="fork")
    epoch = iter(loader)
    process = next(epoch)
    with pytest.raises(RuntimeError, match="timed out"):
        list(epoch)
    loader.close()
    assert not pathlib.Path(f"/proc/{process}").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("begun", [True, False])
def test_a_forked_child_leaves_the_workers_alone_and_has_its_own(begun):
    loader = kinds.Numbers().loader(num_workers=2, multiprocessing_context="fork")
    epoch = iter(loader)
    if not begun:
        assert list(epoch) == list(range(7))
        epoch = iter(loader)
    assert next(epoch) == 0
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with pytest.raises(RuntimeError, match="belong to the process that this one was forked from"):
                next(epoch)
            code = 0 if list(loader) == list(range(7)) else 2
            loader.close()
            del epoch, loader
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(epoch) == list(range(1, 7))
    assert list(loader) == list(range(7))
    loader.close()


class WithoutRoom(Sequence):
    """Its batches need torch's shared memory: a gradient cannot be copied into a slot."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.full((2**18,), float(index), requires_grad=True)


@pytest.mark.skipif(sys.platform != "linux", reason="asks for a file system of its own")
@pytest.mark.skipif(TORCH_VERSION < (2, 13), reason="an older torch lets the worker die of a full /dev/shm")
def test_a_full_dev_shm_is_said_once_and_the_batches_arrive(tmp_path):
    program = """
import os, sys, warnings
sys.path.insert(0, {root!r})
from tests.data.test_worker_state import WithoutRoom
from tests.data import sequences as kinds
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    loader = WithoutRoom().loader(num_workers=1, multiprocessing_context="fork", timeout=30)
    for _ in range(2):
        assert [float(batch[5]) for batch in loader] == [0, 1, 2]
    loader.close()
print(sum("/dev/shm" in str(warning.message) for warning in caught), sorted(os.listdir("/dev/shm")))
"""
    script = tmp_path / "program.py"
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    script.write_text(program.format(root=root))
    mounted = f"mount -t tmpfs -o size=256k none /dev/shm && exec {sys.executable} {script}"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", mounted], capture_output=True, text=True, timeout=100
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no file system of one's own here: {done.stderr}")
    assert done.stdout.strip() == "1 []", done.stderr
