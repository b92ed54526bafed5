"""Chunks decoded here are equal to HDF5's bit for bit, whatever the filters, shapes and threads; damage is an error."""

from __future__ import annotations

import builtins
import importlib.util
import threading
import zlib

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from torchkutils import ChunkShuffleSampler, HDF5Matrix
from torchkutils.data import chunk_filters, chunk_rows
from torchkutils.data.chunk_filters import ChunkDecoder, decoder_of, fletcher32

DTYPES = ["f4", "f8", "f2", "i1", "u2", "i8", "?", "c8", "c16", ">f4", ">i2", ">f8", ">c8", "(3,)f4", "(2,2)>i2"]
RECORD = np.dtype([("flag", "u1"), ("value", ">f8"), ("pair", "f4", (2,))])


def plugin(name: str) -> dict:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    return dict(getattr(hdf5plugin, name)())


PIPELINES = {
    "gzip": {"compression": "gzip", "compression_opts": 4},
    "shuffled gzip": {"compression": "gzip", "shuffle": True},
    "checked gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "none": {},
    "shuffle alone": {"shuffle": True},
    "checksum alone": {"fletcher32": True},
    "lzf": {"compression": "lzf", "shuffle": True},
    "checked lzf": {"compression": "lzf", "fletcher32": True},
    "scaled": {"scaleoffset": 0},
}

OURS = {"gzip", "shuffled gzip", "checked gzip", "none"}
if importlib.util.find_spec("imagecodecs") is not None:
    OURS |= {"lzf", "checked lzf"}

PLUGINS = ["Zstd", "Blosc", "LZ4", "Bitshuffle", "Blosc2", "BZip2"]


def values(dtype: np.dtype, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Any bits, but for bools: those of NaNs too."""
    generator = np.random.default_rng(seed)
    if dtype == np.bool_:
        return generator.random(shape) < 0.5
    raw = generator.integers(0, 256, int(np.prod(shape)) * dtype.itemsize, dtype="u1") * (seed % 3 > 0)
    base, inner = (dtype.subdtype or (dtype, ()))[0], dtype.shape
    return raw.view(base).reshape(*shape, *inner)


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.shape, one.dtype) == (other.shape, other.dtype) and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("threads", [1, 2])
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_decoded_rows_are_hdf5_s(threads, tmp_path_factory, data):
    pipeline = data.draw(st.sampled_from(sorted(PIPELINES)))
    dtype = RECORD if data.draw(st.integers(0, 9)) == 0 else np.dtype(data.draw(st.sampled_from(DTYPES)))
    if pipeline == "scaled":
        dtype = np.dtype("i4")
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    shape = (shape[0] * 3, *shape[1:])
    chunks = tuple(data.draw(st.integers(1, length + (axis > 0))) for axis, length in enumerate(shape))
    chunks = tuple(min(chunk, length) for chunk, length in zip(chunks, shape, strict=True))
    path = tmp_path_factory.mktemp("h5") / "a.h5"
    array = values(dtype, shape, data.draw(st.integers(0, 99)))
    with h5py.File(path, "w", userblock_size=data.draw(st.sampled_from([0, 512]))) as file:
        fill = 1 if dtype.kind in "iuf" and not dtype.subdtype else None
        dataset = file.create_dataset(
            "x", shape, dtype, chunks=chunks, maxshape=(None, *shape[1:]), fillvalue=fill, **PIPELINES[pipeline]
        )
        # Chunks that nobody writes hold the fill value.
        written = data.draw(st.integers(0, shape[0]))
        dataset[written // 3 : written] = array[written // 3 : written]
        if data.draw(st.booleans()) and "gzip" in pipeline:
            skip_a_filter(dataset, data.draw(st.integers(0, 7)))
    with h5py.File(path) as file:
        try:
            expected = file["x"][()]
        except OSError:
            # HDF5 of h5py 3.12 cannot read every scaled chunk that it wrote.
            assert pipeline == "scaled"
            reject()
        assert (decoder_of(file["x"]) is not None) == (pipeline in OURS)
    matrix = HDF5Matrix(path, "x", as_tensor=False, threads=threads, cache_bytes=data.draw(st.sampled_from([0, 2**20])))
    assert same_bits(matrix[:], expected)
    rows = data.draw(st.lists(st.integers(0, shape[0] - 1), min_size=1, max_size=20))
    assert same_bits(matrix[rows], expected[rows])
    for first in range(0, shape[0], 4):
        assert same_bits(matrix[first : first + 4], expected[first : first + 4])


def skip_a_filter(dataset: h5py.Dataset, mask: int) -> None:
    """Store the first chunk anew, without the filters whose bit is set: each chunk says which it passed."""
    creation = dataset.id.get_create_plist()
    codes = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    chunk = np.ones(dataset.chunks, dataset.dtype.subdtype[0] if dataset.dtype.subdtype else dataset.dtype)
    stored = np.ones((*dataset.chunks, *dataset.dtype.shape), chunk.dtype).tobytes()
    mask &= 2 ** len(codes) - 1
    for bit, code in enumerate(codes):
        if mask >> bit & 1:
            continue
        if code == 2:
            size = dataset.dtype.itemsize
            stored = np.frombuffer(stored, "u1").reshape(-1, size).T.tobytes()
        elif code == 1:
            stored = zlib.compress(stored, 1)
        elif code == 3:
            stored += fletcher32(stored).to_bytes(4, "little")
    dataset.id.write_direct_chunk((0,) * dataset.ndim, stored, mask)


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize("threads", [1, 2])
def test_plugin_filters_give_hdf5_s_rows(name, threads, tmp_path):
    array = np.random.default_rng(0).integers(0, 50, (200, 30)).astype(">f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=(30, 20), **plugin(name))
    matrix = HDF5Matrix(tmp_path / "a.h5", "x", threads=threads, as_tensor=False)
    assert same_bits(matrix[:], array)
    assert same_bits(matrix[[150, 3, 3]], array[[150, 3, 3]])


@pytest.mark.parametrize("name", ["Zstd", "Blosc", "LZ4"])
def test_plugin_filters_with_a_library_of_their_own_pass_hdf5_by(name, tmp_path):
    pytest.importorskip("numcodecs")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", data=np.arange(3000.0), chunks=(1000,), **plugin(name))
        decoder = decoder_of(dataset)
        mask, raw = dataset.id.read_direct_chunk((1000,))
        assert decoder is not None
        assert decoder.decode(raw, mask).tolist() == list(range(1000, 2000))


@pytest.mark.parametrize("without", [(), ("deflate",), ("deflate", "isal"), ("deflate", "isal", "numcodecs")])
def test_any_library_for_deflate_will_do(without, tmp_path, monkeypatch):
    real = builtins.__import__

    def importing(name, *rest):
        if name.partition(".")[0] in without:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    array = np.random.default_rng(1).integers(0, 9, (100, 40)).astype("f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=(30, 40), **PIPELINES["checked gzip"])
        decoder = decoder_of(file["x"])
        mask, raw = file["x"].id.read_direct_chunk((30, 0))
        np.testing.assert_array_equal(decoder.decode(raw, mask), array[30:60])
        for damaged in (raw[: len(raw) // 2], raw + b"more", bytes([raw[0] ^ 255]) + raw[1:], b""):
            with pytest.raises(chunk_filters.DecodeError):
                decoder.decode(damaged, mask)
    np.testing.assert_array_equal(HDF5Matrix(tmp_path / "a.h5", "x")[:].numpy(), array)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 719, 720, 721, 5000, 70_001])
@pytest.mark.parametrize("kind", ["zeros", "ones", "any"])
def test_the_checksum_is_hdf5_s(size, kind, tmp_path):
    data = {"zeros": np.zeros, "ones": lambda n, t: np.full(n, 255, t)}.get(
        kind, lambda n, t: np.random.default_rng(n).integers(0, 256, n).astype(t)
    )(size, "u1")
    if not size:
        assert fletcher32(b"") == 0
        return
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", data=data, chunks=(size,), fletcher32=True)
        stored = dataset.id.read_direct_chunk((0,))[1]
    assert fletcher32(data.tobytes()) == int.from_bytes(stored[-4:], "little")


@pytest.mark.parametrize("pipeline", ["gzip", "checked gzip", "checksum alone"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("key", [25, slice(20, 30), [22, 3]], ids=str)
def test_a_damaged_chunk_is_an_error_that_names_it(pipeline, threads, key, tmp_path):
    array = np.random.default_rng(0).integers(0, 5, (40, 400)).astype("f4")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", data=array, chunks=(10, 400), **PIPELINES[pipeline])
        info = dataset.id.get_chunk_info_by_coord((20, 0))
    with open(path, "r+b") as file:
        file.seek(info.byte_offset + info.size // 2)
        file.write(bytes(64))
    matrix = HDF5Matrix(path, "x", threads=threads)
    says = r"dataset 'x' in '.*a.h5': rows \d+ to \d+ cannot be read \(filters: .*(gzip|fletcher32)"
    with pytest.raises(OSError, match=says):
        matrix[key]
    # The other chunks can be read all the same.
    np.testing.assert_array_equal(matrix[[0, 39]].numpy(), array[[0, 39]])


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", (8, 8), "f4", chunks=(8, 8), compression="gzip")
        dataset.id.write_direct_chunk((0, 0), zlib.compress(bytes(2**24), 9), 0)
        decoder = decoder_of(dataset)
        with pytest.raises(chunk_filters.DecodeError):
            decoder.decode(dataset.id.read_direct_chunk((0, 0))[1], 0)


def test_threads_that_share_a_matrix_read_no_wrong_row(tmp_path):
    array = np.arange(640 * 50, dtype="f4").reshape(640, 50)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=(20, 50), compression="gzip")
        file["y"] = array
    wrong: list[object] = []

    def read(matrix, seed, barrier):
        generator = np.random.default_rng(seed)
        try:
            barrier.wait()
            for _ in range(12):
                first = int(generator.integers(0, 600))
                if not np.array_equal(matrix[first : first + 40].numpy(), array[first : first + 40]):
                    wrong.append(first)
                rows = generator.integers(0, 640, 16)
                if not np.array_equal(matrix[rows].numpy(), array[rows]):
                    wrong.append(rows)
                if seed == 0:
                    # Another thread closes the handle while it is read.
                    matrix.close()
        except Exception as error:
            wrong.append(error)

    for name in ("x", "y"):
        for _ in range(10):
            matrix = HDF5Matrix(tmp_path / "a.h5", name, threads=2)
            barrier = threading.Barrier(4)
            readers = [threading.Thread(target=read, args=(matrix, seed, barrier)) for seed in range(4)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
    assert wrong == []


def test_the_next_buffer_is_decoded_while_this_one_is_handed_out(tmp_path, monkeypatch):
    array = np.arange(3200 * 4, dtype="f4").reshape(3200, 4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=(50, 4), compression="gzip")
    by_threads, decode = [], ChunkDecoder.decode

    def noted(self, stored, mask):
        by_threads.append(threading.current_thread() is not threading.main_thread())
        return decode(self, stored, mask)

    monkeypatch.setattr(ChunkDecoder, "decode", noted)
    matrix = HDF5Matrix(tmp_path / "a.h5", "x", threads=2, cache_bytes=0)
    sampler = ChunkShuffleSampler(matrix, buffer_chunks=4)
    got = torch.cat(list(DataLoader(matrix, batch_size=20, sampler=sampler)))
    assert sorted(got[:, 0].tolist()) == array[:, 0].tolist()
    assert len(by_threads) == 64
    assert sum(by_threads) >= 60
    cache = matrix._reading().cache
    assert cache.limit <= 2 * 5 * (50 * 16 + 2**10)
    matrix.close()
    # Nobody reads in this process: what a sampler announces for workers is not decoded here too.
    by_threads.clear()
    list(sampler)
    assert by_threads == []


def test_slices_in_order_are_decoded_ahead_and_others_are_not(tmp_path, monkeypatch):
    array = np.arange(640 * 200, dtype="f8").reshape(640, 200)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=(20, 200), compression="gzip")
    started, start = [], chunk_rows.ChunkCache.start
    monkeypatch.setattr(
        chunk_rows.ChunkCache, "start", lambda self, key, *a: started.append(key[1]) or start(self, key, *a)
    )
    matrix = HDF5Matrix(tmp_path / "a.h5", "x", threads=2)
    for first in (100, 400, 0):
        matrix[first : first + 20]
    assert started == []
    for first in range(20, 640, 20):
        np.testing.assert_array_equal(matrix[first : first + 20].numpy(), array[first : first + 20])
    # Those of the first three reads are kept already.
    assert sorted(set(started)) == sorted(set(range(2, 32)) - {5, 20})


def test_dataloader_workers_decode_by_one_thread(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(90.0), chunks=(10,), compression="gzip")
    matrix = HDF5Matrix(tmp_path / "a.h5", "x", normalizer=thread_names)
    assert set(torch.cat(list(DataLoader(matrix, batch_size=30, num_workers=1))).tolist()) == {1.0}


def thread_names(piece):
    """One row for each row: how many threads there are, but for what multiprocessing needs."""
    names = [thread.name for thread in threading.enumerate()]
    return np.full(len(piece), 1.0 + sum("torchkutils" in name for name in names))
