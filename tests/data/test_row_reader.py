"""Which plan reads which storage, and what becomes of files that change."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

import tests.data.hdf5_files as files
from torchkutils import HDF5Matrix
from torchkutils.data import row_reader


@pytest.mark.parametrize(
    ("array", "options", "plan"),
    [
        (np.arange(20.0), {}, "MappedRows"),
        (np.arange(20) > 3, {}, "MappedRows"),
        (np.ones((4, 3), "c8"), {}, "MappedRows"),
        (np.arange(20, dtype="f2"), {}, "MappedRows"),
        (np.arange(20, dtype=">f4"), {}, "SelectedRows"),
        (np.empty((0, 4)), {}, "SelectedRows"),
        (np.arange(20.0), {"chunks": (4,)}, "ChunkedRows"),
        (np.arange(20.0), {"chunks": (4,), "compression": "gzip"}, "ChunkedRows"),
        (np.arange(20, dtype=">f4"), {"chunks": (4,)}, "ChunkedRows"),
    ],
)
def test_the_storage_decides_the_plan(array, options, plan, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=1024) as file:
        file.create_dataset("x", data=array, **options)
    rows = HDF5Matrix(tmp_path / "a.h5", "x")
    np.testing.assert_array_equal(rows[:].numpy(), array)
    assert type(rows._rows()).__name__ == plan


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


def test_a_file_that_is_cut_short_is_an_error_and_no_crash(tmp_path):
    path = tmp_path / "a.h5"
    files.write(path, "contiguous", np.arange(100_000.0))
    rows = HDF5Matrix(path, "x")
    rows[5]
    os.truncate(path, 3000)
    with pytest.raises(OSError, match="cannot be read as an HDF5 file"):
        rows[90_000]


def test_each_chunk_is_decoded_once_while_it_is_kept(tmp_path, monkeypatch):
    files.write(tmp_path / "a.h5", "gzip", np.arange(70.0), chunk_rows=7)
    rows = HDF5Matrix(tmp_path / "a.h5", "x")
    reader = rows._rows()
    read = []

    class Counting:
        def __init__(self, view):
            self._view = view

        def __getitem__(self, key):
            read.append((key.start, key.stop))
            return self._view[key]

    reader._view = Counting(reader._view)
    for index in range(70):
        rows[index]
    assert read == [(first, first + 7) for first in range(0, 70, 7)]
    read.clear()
    assert rows[3:40].tolist() == list(range(3, 40))
    assert read == [(7, 35)]


def test_the_memory_of_kept_chunks_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(row_reader, "CACHE_BYTES", 3 * 7 * 8)
    files.write(tmp_path / "a.h5", "gzip", np.arange(70.0), chunk_rows=7)
    rows = HDF5Matrix(tmp_path / "a.h5", "x")
    rows[np.random.default_rng(0).permutation(70)]
    assert len(rows._rows()._cache) == 3
    rows.keep_chunks(8)
    rows[np.random.default_rng(0).permutation(70)]
    assert len(rows._rows()._cache) == 8
