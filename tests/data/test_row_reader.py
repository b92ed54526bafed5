"""Which plan reads which storage, and what becomes of files that change."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

import tests.data.hdf5_files as files
from torchkutils import HDF5Matrix
from torchkutils.data import file_bytes, hdf5_file
from torchkutils.data.chunk_filters import ChunkDecoder

GZIP = {"chunks": (4,), "compression": "gzip"}


@pytest.mark.parametrize(
    ("array", "options", "plan"),
    [
        (np.arange(20.0), {}, "OffsetRows"),
        (np.arange(20) > 3, {}, "OffsetRows"),
        (np.ones((4, 3), "c8"), {}, "OffsetRows"),
        (np.arange(20, dtype="f2"), {}, "OffsetRows"),
        (np.arange(20, dtype=">f4"), {}, "OffsetRows"),
        (np.empty((0, 4)), {}, "SelectedRows"),
        (np.arange(20.0), {"chunks": (4,)}, "OffsetRows"),
        (np.ones((8, 6)), {"chunks": (4, 2)}, "ChunkedRows"),
        (np.arange(20.0), GZIP, "ChunkedRows"),
        (np.arange(20, dtype=">f4"), GZIP, "ChunkedRows"),
    ],
)
@pytest.mark.parametrize("userblock", [0, 1024])
def test_the_storage_decides_the_plan(array, options, plan, userblock, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=userblock) as file:
        file.create_dataset("x", data=array, **options)
    rows = HDF5Matrix(tmp_path / "a.h5", "x")
    np.testing.assert_array_equal(rows[:].numpy(), array)
    found = type(rows._reading().open_part(0).rows).__name__
    # Offsets of chunks behind a user block depend on HDF5's version.
    assert found == ("ChunkedRows" if userblock and "chunks" in options else plan)


def odd_files(folder):
    """Data sets that must not be mapped as they lie, with the file to open."""
    path = folder / "odd.h5"
    with h5py.File(folder / "other.h5", "w") as other:
        other["padding"] = np.arange(999)
        other["x"] = np.arange(50.0)
    layout = h5py.VirtualLayout((50,), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (50,))
    with h5py.File(path, "w", userblock_size=512) as file:
        file["padding"] = np.arange(77)
        file.create_dataset("never written", (50,), "f8", fillvalue=3.0)
        file["linked"] = h5py.ExternalLink("other.h5", "x")
        file.create_dataset("external", data=np.arange(50.0), external=[(str(folder / "raw"), 0, 4000)])
        file.create_virtual_dataset("virtual", layout)
        imaginary_first = h5py.h5t.create(h5py.h5t.COMPOUND, 8)
        imaginary_first.insert(b"i", 0, h5py.h5t.IEEE_F32LE)
        imaginary_first.insert(b"r", 4, h5py.h5t.IEEE_F32LE)
        h5py.h5d.create(file.id, b"turned", imaginary_first, h5py.h5s.create_simple((3,)))
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        h5py.h5d.create(file.id, b"compact", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((5,)), compact)
        file["compact"][:] = np.arange(5.0)
    return path


@pytest.mark.parametrize("name", ["never written", "linked", "external", "virtual", "compact"])
def test_odd_storages_give_what_h5py_gives(name, tmp_path):
    path = odd_files(tmp_path)
    with h5py.File(path) as file:
        expected = file[name][:]
    rows = HDF5Matrix(path, name)
    np.testing.assert_array_equal(rows[:].numpy(), expected)
    np.testing.assert_array_equal(rows[[4, 0, 4]].numpy(), expected[[4, 0, 4]])
    np.testing.assert_array_equal(rows[::3].numpy(), expected[::3])


def test_complex_numbers_with_their_parts_turned_are_not_taken_as_they_lie(tmp_path):
    path = odd_files(tmp_path)
    with h5py.File(path) as file:
        expected = file["turned"][:]
    np.testing.assert_array_equal(HDF5Matrix(path, "turned", as_tensor=False)[:], expected)


@pytest.mark.parametrize("storage", ["contiguous", "gzip"])
def test_a_file_that_is_replaced_is_read_anew(storage, tmp_path):
    path, new = tmp_path / "a.h5", tmp_path / "new.h5"
    files.write(path, storage, np.arange(10.0))
    rows = HDF5Matrix(path, "x", 2)
    assert rows[0] == 2
    files.write(new, storage, np.arange(10.0) * 3)
    os.replace(new, path)
    assert rows[0] == 6
    files.write(new, storage, np.arange(30.0))
    os.replace(new, path)
    assert rows[:].tolist() == list(range(2, 10))


@pytest.mark.parametrize("storage", ["contiguous", "gzip"])
@pytest.mark.parametrize("array", [np.arange(3.0), np.ones((10, 2)), np.arange(10)])
def test_a_file_that_is_replaced_by_other_data_is_an_error(storage, array, tmp_path):
    path, new = tmp_path / "a.h5", tmp_path / "new.h5"
    files.write(path, storage, np.arange(10.0))
    rows = HDF5Matrix(path, "x")
    rows[0]
    files.write(new, storage, array)
    os.replace(new, path)
    with pytest.raises(
        RuntimeError, match=r"changed: it was float64 of shape \(10,\) and is .* make the HDF5Matrix anew"
    ):
        rows[0]


@pytest.mark.parametrize("storage", ["contiguous", "chunked", "gzip"])
@pytest.mark.parametrize("behind", ["nothing", "a soft link", "an external link", "a symlink"])
def test_a_file_behind_a_link_that_is_replaced_is_read_anew(storage, behind, tmp_path):
    data, new = tmp_path / "data.h5", tmp_path / "new.h5"
    files.write(data, storage, np.arange(1000.0))
    path, name = data, "x"
    if behind == "a soft link":
        with h5py.File(data, "r+") as file:
            file["link"] = h5py.SoftLink("/x")
        name = "link"
    elif behind == "an external link":
        path = tmp_path / "main.h5"
        with h5py.File(path, "w") as file:
            file["x"] = h5py.ExternalLink("data.h5", "/x")
    elif behind == "a symlink":
        path = tmp_path / "main.h5"
        path.symlink_to(data)
    rows = HDF5Matrix(path, name)
    assert rows[5] == 5
    files.write(new, storage, np.arange(1000.0) * 3)
    if behind == "a soft link":
        with h5py.File(new, "r+") as file:
            file["link"] = h5py.SoftLink("/x")
    os.replace(new, data)
    assert rows[5] == 15
    assert rows[[7, 900]].tolist() == [21, 2700]


@pytest.mark.parametrize("storage", ["contiguous", "chunked", "gzip"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_is_cut_short_is_an_error_and_no_crash(storage, linked, tmp_path):
    path = tmp_path / "data.h5"
    files.write(path, storage, np.random.default_rng(0).random(100_000), chunk_rows=1000)
    if linked:
        with h5py.File(tmp_path / "main.h5", "w") as file:
            file["x"] = h5py.ExternalLink("data.h5", "/x")
    rows = HDF5Matrix(tmp_path / "main.h5" if linked else path, "x")
    rows[5]
    os.truncate(path, 3000)
    with pytest.raises(OSError, match=r"cannot be read|cannot be opened|no dataset"):
        rows[90_000]


@pytest.mark.parametrize("storage", ["contiguous", "chunked"])
def test_a_file_that_is_cut_in_the_moment_of_reading_is_an_error(storage, tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    files.write(path, storage, np.arange(100_000.0), chunk_rows=1000)
    rows = HDF5Matrix(path, "x")
    rows[[5, 90_000]]
    # As if the cut came after the look at the file's size.
    stamp = hdf5_file.Location.stamp(rows._parts[0].location)
    monkeypatch.setattr(hdf5_file.Location, "stamp", lambda self, watched=(): stamp)
    os.truncate(path, 3000)
    for key in (90_000, slice(80_000, 90_000), [70_000, 3]):
        with pytest.raises(OSError, match=r"dataset 'x' in .*: rows .* cannot be read.*it was cut short"):
            rows[key]


@pytest.mark.parametrize("storage", files.STORAGES)
def test_what_this_process_writes_is_seen(storage, tmp_path):
    path = tmp_path / "a.h5"
    files.write(path, storage, np.zeros(100))
    before = HDF5Matrix(path, "x")
    assert before[3] == 0
    # HDF5 itself refuses to open a file for writing while it is open for reading.
    before.close()
    with h5py.File(path, "r+") as writer:
        during = HDF5Matrix(path, "x")
        for value in (12.0, 13.0):
            writer["x"][3:6] = value
            assert [before[3], during[3], before[[5, 3]].sum()] == [value, value, 2 * value]
        writer["x"][3:6] = 14.0
    assert [before[3], during[3]] == [14, 14]


def test_a_handle_that_hdf5_does_not_need_locks_nothing(tmp_path):
    path = tmp_path / "a.h5"
    files.write(path, "contiguous", np.arange(9.0))
    rows = HDF5Matrix(path, "x")
    assert rows[0] == 0
    with h5py.File(path, "r+", locking=True) as file:
        file["x"][0] = 5
    assert rows[0] == 5


def test_an_address_space_smaller_than_the_file_is_enough(tmp_path):
    program = f"""
import resource, h5py, torch, torchkutils
storages = {{"x": {{}}, "y": {{"chunks": (2**20,)}}, "z": {{"chunks": (2**20,), "compression": 1}}}}
with h5py.File({str(tmp_path / "a.h5")!r}, "w") as file:
    for name, options in storages.items():
        data = file.create_dataset(name, (2 * 10**9,), "f4", **options)
        data[-1] = 3.5
resource.setrlimit(resource.RLIMIT_AS, (5 * 2**30, 5 * 2**30))
print([float(torchkutils.HDF5Matrix({str(tmp_path / "a.h5")!r}, name)[-1]) for name in "xyz"])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert result.stdout.strip() == "[3.5, 3.5, 3.5]", result.stderr


@pytest.mark.parametrize("storage", files.STORAGES)
def test_rows_from_a_slow_disk_are_asked_for_at_once(storage, tmp_path, monkeypatch):
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("needs posix_fadvise")
    array = files.some_values("f4", (500, 2000))
    files.write(tmp_path / "a.h5", storage, array)
    asked, advise = [], os.posix_fadvise
    monkeypatch.setattr(file_bytes, "_DISK_SECONDS", 0.0)
    monkeypatch.setattr(os, "posix_fadvise", lambda *a: asked.append(a[1:3]) or advise(*a))
    rows = HDF5Matrix(tmp_path / "a.h5", "x")
    picked = np.random.default_rng(0).permutation(500)[:20]
    np.testing.assert_array_equal(rows[picked].numpy(), array[picked])
    size = os.stat(tmp_path / "a.h5").st_size
    assert all(0 < offset < offset + length <= size for offset, length in asked)
    by_hdf5 = storage == "checksummed" or (storage == "lzf" and importlib.util.find_spec("imagecodecs") is None)
    assert (len(asked) >= 15) == (not by_hdf5)


@pytest.mark.parametrize("missing", [("preadv",), ("preadv", "pread"), ("sched_getaffinity",)])
@pytest.mark.parametrize("storage", files.STORAGES)
def test_systems_without_these_calls_read_the_same_rows(missing, storage, tmp_path, monkeypatch):
    array = files.some_values("f4", (50, 6))
    files.write(tmp_path / "a.h5", storage, array)
    for name in missing:
        monkeypatch.delattr(os, name, raising=False)
    rows = HDF5Matrix(tmp_path / "a.h5", "x", threads=None if "sched_getaffinity" in missing else 2)
    for key in (slice(None), [40, 3, 3], slice(30, 4, -5)):
        np.testing.assert_array_equal(rows[key].numpy(), array[key])


def test_each_chunk_is_decoded_once_while_it_is_kept(tmp_path, monkeypatch):
    files.write(tmp_path / "a.h5", "gzip", np.arange(70.0), chunk_rows=7)
    rows = HDF5Matrix(tmp_path / "a.h5", "x", threads=1)
    decoded = []
    decode = ChunkDecoder.decode
    monkeypatch.setattr(ChunkDecoder, "decode", lambda *a: decoded.append(1) or decode(*a))
    for index in range(70):
        assert rows[index] == index
    assert len(decoded) == 10
    assert rows[3:40].tolist() == list(range(3, 40))
    assert rows[[69, 0, 33]].tolist() == [69, 0, 33]
    assert len(decoded) == 10


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("width", [1, 50])
def test_the_memory_of_kept_chunks_is_bounded(width, threads, tmp_path):
    array = np.arange(700.0 * width).reshape(700, width)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=(1, -(-width // 2)), compression=1)
    limit = 30_000
    rows = HDF5Matrix(tmp_path / "a.h5", "x", cache_bytes=limit, threads=threads)
    order = np.random.default_rng(0).permutation(700)
    for first in range(0, 700, 50):
        np.testing.assert_array_equal(rows[order[first : first + 50]].numpy(), array[order[first : first + 50]])
        cache = rows._reading().cache
        assert 0 < cache.kept_bytes <= limit
    # Objects cost more than the values of small chunks: a bound that counts values only would be many times too large.
    assert len(cache) * 450 < limit
    rows.keep_chunks(300)
    rows[order]
    assert len(rows._reading().cache) >= 300
