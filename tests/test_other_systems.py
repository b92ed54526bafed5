"""Ways that only macOS or Windows take, taken here by hiding what they lack."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

# What Windows' `os` and Python lack. torch and the standard library are imported first: they have ways of their own.
HIDE = """
import multiprocessing, os, shutil, sys, tarfile, threading, warnings
import h5py, numpy, torch, torch.utils.data, tqdm.auto, urllib.request, zipfile
warnings.simplefilter("error", ResourceWarning)
sys.modules["fcntl"] = None
for name in (
    "pread", "preadv", "pwrite", "pwritev", "geteuid", "getuid", "fchmod", "fchown", "setxattr", "getxattr",
    "sched_getaffinity", "posix_fadvise", "posix_fallocate", "sync", "register_at_fork", "O_NOFOLLOW", "O_DIRECTORY",
    "O_CLOEXEC", "O_NONBLOCK", "getpgid", "killpg", "mkfifo",
):
    if hasattr(os, name):
        delattr(os, name)
os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks = set(), set(), set()
# What Python's own module found when it was imported, which was before.
shutil._use_fd_functions = False
import torchkutils as ku
"""

PROGRAMS = {
    "a file is saved, replaced and read": """
model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
for _ in range(2):
    ku.save_model(model, "m.h5", metadata={"epoch": 1})
again = ku.load_model("m.h5").eval()
assert torch.equal(again(torch.ones(4, 3)), model.eval()(torch.ones(4, 3)))
ku.save_weights(model, "w.safetensors"); ku.load_weights(again, "w.safetensors")
assert sorted(os.listdir()) == ["m.h5", "w.safetensors"], os.listdir()
""",
    "an archive is fetched and extracted": """
with tarfile.open("a.tar.gz", "w:gz") as archive:
    archive.addfile(tarfile.TarInfo("folder/x.txt"))
here = "file://" + os.path.abspath("a.tar.gz")
for _ in range(2):
    path = ku.get_file("b.tar.gz", here, extract=True, cache_dir=os.path.abspath("cache"), progress=False)
assert os.path.getsize(os.path.join(os.path.dirname(path), "folder", "x.txt")) == 0
assert not [name for name in os.listdir(os.path.dirname(path)) if "part" in name or "lock" in name], os.listdir("cache")
""",
    "rows are read": """
for options in ({}, {"chunks": (7, 3)}, {"chunks": (7, 3), "compression": "gzip"}):
    with h5py.File("d.h5", "w") as file:
        file.create_dataset("x", data=numpy.arange(60.0).reshape(20, 3), **options)
    with ku.HDF5Matrix("d.h5", "x") as rows:
        assert rows[[3, 1, 19]].tolist() == [[9, 10, 11], [3, 4, 5], [57, 58, 59]]
        sampler = ku.ChunkShuffleSampler(rows)
        assert sorted(sampler) == list(range(20))
""",
    "a model is drawn": """
ku.plot_model(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), "m.svg", input_size=(1, 2))
assert os.path.getsize("m.svg") > 300
""",
}


def run(program: str, folder: pathlib.Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=110, check=False
    )
    return done.stderr if done.returncode else ""


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_another_way_is_taken_where_the_system_lacks_something(program: str, tmp_path: pathlib.Path) -> None:
    assert run(HIDE + program, tmp_path) == ""


LOADER = """
import multiprocessing
import torchkutils as ku

class Batches(ku.Sequence):
    def __len__(self):
        return 5
    def __getitem__(self, index):
        return index * 10

if __name__ == "__main__":
    context = multiprocessing.context
    context._concrete_contexts.pop("fork", None); context._concrete_contexts.pop("forkserver", None)
    multiprocessing.get_all_start_methods = lambda: ["spawn"]
    context._default_context._default_context = context._concrete_contexts["spawn"]
    loader = Batches().loader(num_workers=2)
    assert [int(batch) for batch in loader] == [0, 10, 20, 30, 40]
    loader.close()
    queue = ku.OrderedEnqueuer(Batches(), use_multiprocessing=True)
    queue.start(1)
    batches = queue.get()
    assert next(batches) == 0
    queue.stop()
"""


@pytest.mark.slow
def test_workers_are_spawned_where_nothing_can_be_forked(tmp_path: pathlib.Path) -> None:
    (tmp_path / "program.py").write_text(LOADER)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
