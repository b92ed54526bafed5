"""Each row once, whatever the chunks, the window and the ranks; mixed as far as the docstring says."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, StackDataset

from torchkutils import ChunkShuffleSampler, HDF5Matrix
from torchkutils.data.chunk_rows import ChunkedRows


def chunked(folder, length, chunk, name="a.h5", width=2):
    array = np.arange(length * width, dtype="f4").reshape(length, width)
    with h5py.File(folder / name, "w") as file:
        options = {"chunks": (chunk, width), "compression": "gzip"} if chunk else {}
        file.create_dataset("x", data=array, **options)
    return folder / name


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 60),
    chunk=st.integers(0, 9),
    cut=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    buffer_chunks=st.integers(1, 5),
    size=st.integers(1, 4),
    shard=st.sampled_from(["pad", "drop", "uneven"]),
    epoch=st.integers(0, 3),
)
def test_each_row_comes_once(tmp_path_factory, length, chunk, cut, buffer_chunks, size, shard, epoch):
    start = min(cut[0], length)
    end = max(start, length - cut[1])
    path = chunked(tmp_path_factory.mktemp("h5"), length, min(chunk, length))
    rows = HDF5Matrix(path, "x", start, end)
    parts = []
    for rank in range(size):
        sampler = ChunkShuffleSampler(
            rows, buffer_chunks=buffer_chunks, seed=7, rank=rank, world_size=size, shard=shard
        )
        sampler.set_epoch(epoch)
        parts.append(list(sampler))
        assert len(parts[-1]) == len(sampler)
    together = [row for part in parts for row in part]
    count = end - start
    if shard == "uneven":
        assert sorted(together) == list(range(count))
    else:
        assert len({len(part) for part in parts}) == 1
    if shard == "pad":
        assert set(together) == set(range(count))
        assert len(together) < count + size
    if shard == "drop":
        assert len(set(together)) == len(together) == count // size * size


def test_the_order_is_fixed_by_seed_and_epoch(tmp_path):
    rows = HDF5Matrix(chunked(tmp_path, 200, 8), "x")

    def order(seed, epoch):
        sampler = ChunkShuffleSampler(rows, seed=seed, buffer_chunks=4)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    assert order(1, 0) == order(1, 0)
    assert len({order(seed, epoch) for seed in (1, 2) for epoch in range(3)}) == 6


def test_rows_travel_as_far_as_the_docstring_says(tmp_path):
    rows = HDF5Matrix(chunked(tmp_path, 64 * 160, 64, width=1), "x")
    order = np.array(list(ChunkShuffleSampler(rows)))
    place = np.argsort(order).reshape(160, 64)
    apart = np.abs(place[:, :, None] - place[:, None, :])[:, ~np.eye(64, dtype=bool)]
    assert apart.max() <= 1023
    assert 330 < apart.mean() < 354
    # The chunks themselves travel over the whole epoch: a third of it, as in a full shuffle.
    assert 0.25 < np.abs(place - np.arange(len(order)).reshape(160, 64)).mean() / len(order) < 0.42


@pytest.mark.parametrize("threads", [1, 2])
def test_an_epoch_decodes_each_chunk_once_and_reads_every_row(threads, tmp_path, monkeypatch):
    path = chunked(tmp_path, 300, 10)
    x, y = HDF5Matrix(path, "x", 5, threads=threads, cache_bytes=0), HDF5Matrix(path, "x", 5)
    read = []
    both = StackDataset(x, y)
    loader = DataLoader(both, batch_size=16, sampler=ChunkShuffleSampler(both, buffer_chunks=4))
    task = ChunkedRows._task

    def counted(self, band, tile):
        made = task(self, band, tile)
        return lambda: read.append((id(self), band)) or made()

    monkeypatch.setattr(ChunkedRows, "_task", counted)
    batches = list(loader)
    assert all(torch.equal(first, second) for first, second in batches)
    got = torch.cat([first for first, _ in batches])[:, 0]
    assert sorted(got.tolist()) == list(range(10, 600, 2))
    assert len(read) == len(set(read)) == 60


def test_ranks_of_two_processes_take_turns_in_workers(tmp_path):
    rows = HDF5Matrix(chunked(tmp_path, 90, 7), "x")
    seen = []
    for rank in range(2):
        sampler = ChunkShuffleSampler(rows, rank=rank, world_size=2, shard="uneven", buffer_chunks=3)
        seen += [int(row[0]) // 2 for batch in DataLoader(rows, 8, sampler=sampler, num_workers=1) for row in batch]
    assert sorted(seen) == list(range(90))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"buffer_chunks": 0}, ValueError, "buffer_chunks must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"shard": "x"}, ValueError, "shard must be one of"),
        ({"rank": 0}, ValueError, "needs world_size"),
        ({"data": [1, 2]}, TypeError, "must be an HDF5Matrix, or a StackDataset, ConcatDataset or Subset"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, says, tmp_path):
    rows = HDF5Matrix(chunked(tmp_path, 9, 2), "x")
    with pytest.raises(error, match=says):
        ChunkShuffleSampler(**{"data": rows, **arguments})
    with pytest.raises(ValueError, match="epoch must be at least 0"):
        ChunkShuffleSampler(rows).set_epoch(-1)


def read_as(way, rows, sampler, array):
    """Read an epoch in some way; give how many rows came, each of which was compared."""
    numbers, count, batch = iter(sampler), 0, 7
    for place in range(1000):
        wanted = [number for _, number in zip(range(batch), numbers, strict=False)]
        if not wanted or (way == "left early" and place == 9):
            break
        if way == "skipping" and place % 3:
            continue
        if way == "with other reads":
            assert np.array_equal(rows[[place, 0]], array[[place, 0]])
        if way == "one by one":
            assert np.array_equal(np.stack([rows[number] for number in wanted]), array[wanted])
        elif way == "backwards":
            assert np.array_equal(rows[wanted[::-1]], array[wanted[::-1]])
        else:
            assert np.array_equal(rows[wanted], array[wanted])
        if way == "closed between" and place % 4 == 2:
            rows.close()
        count += len(wanted)
    return count


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "way",
    ["in order", "left early", "skipping", "with other reads", "one by one", "backwards", "closed between"],
)
def test_what_the_sampler_announces_is_read_rightly_however_it_is_read(way, threads, tmp_path):
    array = np.random.default_rng(0).integers(0, 100, (201, 10)).astype(">i4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", array.shape, ">i4", chunks=(8, 6), compression="gzip", fillvalue=3)
        # The last chunks are never written.
        dataset[:160] = array[:160]
        array = dataset[()]
    rows = HDF5Matrix(tmp_path / "a.h5", "x", as_tensor=False, threads=threads, cache_bytes=2**13)
    sampler = ChunkShuffleSampler(rows, buffer_chunks=5)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        count = read_as(way, rows, sampler, array)
        assert count == {"left early": 63, "skipping": 70}.get(way, 201)
        cache = rows._reading().cache
        assert cache.kept_bytes + cache.lent_bytes <= cache.limit


@pytest.mark.parametrize("threads", [1, 2])
def test_a_damaged_chunk_costs_only_the_batches_that_need_it(threads, tmp_path):
    path = chunked(tmp_path, 400, 10, width=100)
    with h5py.File(path) as file:
        info = file["x"].id.get_chunk_info_by_coord((50, 0))
    with open(path, "r+b") as file:
        file.seek(info.byte_offset + info.size // 2)
        file.write(bytes(64))
    rows = HDF5Matrix(path, "x", threads=threads)
    sampler = list(ChunkShuffleSampler(rows, buffer_chunks=4))
    failed = set()
    numbers = iter(ChunkShuffleSampler(rows, buffer_chunks=4))
    for _ in range(100):
        wanted = [number for _, number in zip(range(4), numbers, strict=False)]
        try:
            got = rows[wanted][:, 0].tolist()
        except OSError:
            failed.update(wanted)
        else:
            assert got == [100.0 * number for number in wanted]
    needing = {number for at in range(0, 400, 4) for number in sampler[at : at + 4] if damaged(sampler[at : at + 4])}
    assert failed == needing


def damaged(numbers):
    return any(50 <= number < 60 for number in numbers)
