"""All chunks are found where HDF5 says that they lie, and it is asked for few of them one by one."""

from __future__ import annotations

import types

import h5py
import numpy as np
import pytest

from torchkutils import HDF5Matrix
from torchkutils.data.chunk_index import ChunkIndex

GRIDS = {
    "all written": ((60,), (2,), range(30)),
    "holes": ((60,), (2,), (0, 3, 4, 29)),
    "two axes, holes and edges": ((50, 7), (3, 4), (0, 5, 6, 33)),
    "none written": ((60,), (2,), ()),
    "three axes": ((9, 5, 4), (2, 2, 3), range(30)),
}


@pytest.fixture(params=GRIDS)
def dataset(request, tmp_path):
    shape, chunks, written = GRIDS[request.param]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("x", shape, "f4", chunks=chunks, maxshape=(None, *shape[1:]), compression="gzip")
        grid = tuple(-(-length // size) for length, size in zip(shape, chunks, strict=True))
        for number in reversed(written):
            corner = [at * size for at, size in zip(np.unravel_index(number, grid), chunks, strict=True)]
            data[tuple(slice(at, at + size) for at, size in zip(corner, chunks, strict=True))] = number + 1
    with h5py.File(tmp_path / "a.h5") as file:
        yield file["x"]


def expected(dataset: h5py.Dataset) -> list:
    found = []
    for corner in np.ndindex(*[-(-length // size) for length, size in zip(dataset.shape, dataset.chunks, strict=True)]):
        info = dataset.id.get_chunk_info_by_coord(tuple(at * size for at, size in zip(corner, dataset.chunks)))
        found.append(None if info.byte_offset is None else (info.byte_offset, info.size, info.filter_mask))
    return found


@pytest.mark.parametrize("at_once", [False, True])
def test_each_chunk_is_found_where_hdf5_says(dataset, at_once):
    known, index = expected(dataset), ChunkIndex(dataset, at_once=at_once)
    assert [index.find(number) for number in range(len(known))] == known
    assert [index.find(number) for number in reversed(range(len(known)))] == known[::-1]


@pytest.mark.parametrize("count", [3, 60])
def test_many_offsets_are_found_at_once(dataset, count):
    known, index = expected(dataset), ChunkIndex(dataset)
    numbers = np.random.default_rng(count).integers(0, len(known), count)
    offsets = [-1 if known[number] is None else known[number][0] for number in numbers]
    for _ in range(8):
        assert index.offsets(numbers).tolist() == offsets


def test_hdf5_is_asked_for_few_single_chunks(dataset):
    asked = []

    def single(corner):
        asked.append(corner)
        return dataset.id.get_chunk_info_by_coord(corner)

    low_level = types.SimpleNamespace(
        get_chunk_info_by_coord=single, get_num_chunks=dataset.id.get_num_chunks, chunk_iter=dataset.id.chunk_iter
    )
    index = ChunkIndex(types.SimpleNamespace(id=low_level, chunks=dataset.chunks, shape=dataset.shape))
    for number in [*range(30)] * 3:
        index.find(number)
        index.offsets(np.arange(number))
    assert len(asked) <= 16


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}])
def test_rows_of_many_chunks_with_holes_are_hdf5_s(options, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("x", (3000, 2048), "f8", chunks=(1, 2048), fillvalue=7.0, **options)
        for row in range(0, 3000, 37):
            data[row] = row
    matrix = HDF5Matrix(tmp_path / "a.h5", "x", as_tensor=False)
    rows = np.random.default_rng(0).permutation(3000)[:200]
    wanted = np.where(rows % 37 == 0, rows, 7)
    for some in (rows[:1], rows[1:5], rows):
        np.testing.assert_array_equal(
            matrix[some][:, [0, -1]], np.stack([wanted[: len(rows)]] * 2, 1)[np.isin(rows, some)]
        )
