"""HDF5Matrix against `array[start:end]`, whatever the storage, the key and the process."""

from __future__ import annotations

import http.server
import multiprocessing
import pathlib
import pickle
import threading

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, StackDataset

import tests.data.hdf5_files as files
import torchkutils
from torchkutils import HDF5Matrix
from torchkutils.errors import DatasetNotFoundError


def stored(folder: pathlib.Path, array: np.ndarray, storage: str = "contiguous") -> str:
    path = folder / f"{storage}.h5"
    files.write(path, storage, array)
    return str(path)


def half(piece):
    return piece / 2


def keys(length: int):
    inside = st.integers(-length, length - 1) if length else st.nothing()
    bound = st.none() | st.integers(-length - 3, length + 3)
    step = st.none() | st.integers(-4, 4).filter(bool)
    lists = st.lists(inside, max_size=12 if length else 0)
    masks = st.lists(st.booleans(), min_size=length, max_size=length)
    return st.one_of(
        *([inside, inside.map(np.int16), inside.map(torch.tensor)] if length else []),
        st.builds(slice, bound, bound, step),
        lists,
        lists.map(lambda rows: np.array(rows, dtype=np.int32)),
        lists.map(lambda rows: torch.tensor(rows, dtype=torch.int64)),
        masks.map(lambda mask: np.array(mask, dtype=bool)),
        masks.map(lambda mask: torch.tensor(mask, dtype=torch.bool)),
        st.integers(0, length).flatmap(lambda stop: st.builds(range, st.integers(0, stop), st.just(stop))),
    )


def for_numpy(key):
    if isinstance(key, torch.Tensor):
        return key.numpy() if key.ndim else int(key)
    return list(key) if isinstance(key, range) and len(key) == 0 else key


@pytest.mark.parametrize("storage", files.STORAGES)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_reading_equals_numpy_in_the_window(storage, tmp_path_factory, data):
    shape = data.draw(st.sampled_from([(0,), (1,), (30,), (30, 3), (0, 2), (29, 2, 3), (15, 2, 1, 2), (5, 0)]))
    array = files.some_values(data.draw(st.sampled_from(files.DTYPES)), shape)
    path = stored(tmp_path_factory.mktemp("h5"), array, storage)
    start = data.draw(st.integers(0, len(array)))
    end = data.draw(st.none() | st.integers(start, len(array)))
    expected = array[start:end]
    key = data.draw(keys(len(expected)))
    if isinstance(key, range):
        wanted = expected[np.arange(key.start, key.stop, key.step)]
    else:
        empty_list = isinstance(key, list) and not key
        wanted = expected[np.array([], dtype=int) if empty_list else for_numpy(key)]
    rows = HDF5Matrix(path, "x", start, end)
    got = rows[key]
    assert isinstance(got, torch.Tensor)
    assert got.dtype == rows.dtype
    assert tuple(got.shape) == wanted.shape
    np.testing.assert_array_equal(got.numpy(), wanted)
    plain = HDF5Matrix(path, "x", start, end, as_tensor=False)
    assert (plain.shape, plain.ndim, plain.size, plain.dtype, len(plain)) == (
        expected.shape,
        expected.ndim,
        expected.size,
        expected.dtype,
        len(expected),
    )
    again = plain[key]
    assert np.asarray(again).dtype == wanted.dtype
    np.testing.assert_array_equal(again, wanted)
    if np.ndim(again):
        assert again.flags.writeable
        assert again.flags.owndata or again.base.flags.owndata


@pytest.mark.parametrize("storage", files.STORAGES)
def test_whole_iteration_and_batches_agree(storage, tmp_path):
    array = files.some_values("f4", (50, 3))
    rows = HDF5Matrix(stored(tmp_path, array, storage), "x", 4, 47)
    np.testing.assert_array_equal(np.asarray(rows), array[4:47])
    np.testing.assert_array_equal(torch.stack(list(rows)).numpy(), array[4:47])
    batch = rows.__getitems__([5, 2, 5, -1])
    np.testing.assert_array_equal(torch.stack(batch).numpy(), array[4:47][[5, 2, 5, -1]])
    assert np.asarray(rows, dtype="f8").dtype == np.float64
    assert rows.__getitems__([]) == []
    np.testing.assert_array_equal(rows[np.array([[0, 1], [2, 3]])].numpy(), array[4:47][[[0, 1], [2, 3]]])


@pytest.mark.parametrize("threads", [1, 3])
def test_many_rows_are_read_as_numpy_does_without_keeping_chunks(threads, tmp_path):
    array = files.some_values("i8", (500, 4))
    rows = HDF5Matrix(stored(tmp_path, array, "gzip"), "x", cache_bytes=0, threads=threads)
    generator = np.random.default_rng(0)
    runs = np.concatenate([np.arange(100, 180), np.arange(20, 60), [100, 101]])
    for key in (generator.permutation(500)[:90], generator.integers(0, 500, 300), runs, slice(3, 400, 9)):
        np.testing.assert_array_equal(rows[key].numpy(), array[key])


@pytest.mark.parametrize("storage", ["contiguous", "gzip"])
def test_what_is_read_is_the_callers_own(storage, tmp_path):
    array = files.some_values("f4", (20, 2))
    rows = HDF5Matrix(stored(tmp_path, array, storage), "x")
    for key in (3, slice(2, 9), slice(9, 2, -2), [1, 1, 4]):
        rows[key].fill_(-1)
    for batch in rows.__getitems__([0, 1]):
        batch.fill_(-1)
    np.testing.assert_array_equal(np.asarray(rows), array)


@pytest.mark.parametrize("key", [None, "a", 1.5, (1, 2), ..., True, [1.0], [[1], [2, 3]], np.zeros((2, 2), bool), {1}])
def test_keys_that_are_no_rows_are_type_errors(key, tmp_path):
    rows = HDF5Matrix(stored(tmp_path, np.arange(6)), "x")
    with pytest.raises(TypeError, match=r"rows|mask"):
        rows[key]


@pytest.mark.parametrize("key", [5, -6, [0, 5], [2**70], np.array([-6]), torch.tensor(9), range(3, 7), [True] * 4])
def test_rows_outside_the_window_are_index_errors(key, tmp_path):
    rows = HDF5Matrix(stored(tmp_path, np.arange(10)), "x", 2, 7)
    with pytest.raises(IndexError, match=r"out of range for 5 rows|must have 5 values"):
        rows[key]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"start": -1}, ValueError, "start=-1"),
        ({"end": -2}, ValueError, "end=-2"),
        ({"end": 11}, ValueError, "10 rows, got 11"),
        ({"start": 5, "end": 3}, ValueError, "start=5, end=3"),
        ({"start": 11}, ValueError, "start=11"),
        ({"start": 1.0}, TypeError, "start must be an int, got 1.0"),
        (
            {"dataset": "y"},
            DatasetNotFoundError,
            r"no dataset 'y' in .* holds \['group/deep', 'nothing', 'one', 'table', 'x'\]",
        ),
        ({"dataset": "y"}, KeyError, "no dataset 'y'"),
        ({"dataset": "empty group"}, FileNotFoundError, "a group, not a dataset"),
        ({"dataset": "type"}, FileNotFoundError, "a type, not a dataset"),
        ({"field": "a"}, ValueError, "field must be None for dataset"),
        ({"field": 3}, TypeError, "field must be the name of a field"),
        ({"dataset": "table", "field": "c"}, ValueError, r"field must be one of \['a', 'b'\].*got 'c'"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"cache_bytes": -1}, ValueError, "cache_bytes must be at least 0"),
        ({"normalizer": "other"}, TypeError, "normalizer must be a function of an array, 'netcdf' or None"),
        ({"datapath": []}, ValueError, "datapath must name at least one file"),
        ({"datapath": "none_*.h5"}, FileNotFoundError, r"no file matches 'none_\*.h5'"),
        ({"dataset": "one"}, ValueError, "no axis of rows"),
        ({"dataset": "nothing"}, ValueError, "no axis of rows"),
        ({"dataset": 3}, TypeError, "dataset must be the name"),
        ({"normalizer": 3}, TypeError, "normalizer must be a function"),
        ({"datapath": "absent.h5"}, FileNotFoundError, "no file .*absent.h5"),
        ({"datapath": "memory://absent.h5"}, FileNotFoundError, "no file 'memory://absent.h5'"),
        ({"datapath": 7}, TypeError, "datapath must be a path or URL"),
        ({"datapath": __file__}, OSError, "cannot be read as an HDF5 file"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, error, says, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(10)
        file["group/deep"] = np.arange(10)
        file["one"] = 3.0
        file["nothing"] = h5py.Empty("f4")
        file.create_group("empty group")
        file["type"] = np.dtype("f4")
        file["table"] = np.zeros(3, [("a", "i4"), ("b", "f4")])
    with pytest.raises(error, match=says):
        HDF5Matrix(**{"datapath": tmp_path / "a.h5", "dataset": "x", **arguments})


def test_text_and_compound_data_are_refused_or_given_as_arrays(tmp_path):
    folder = pathlib.Path(h5py.__file__).parent / "tests" / "data_files"
    with pytest.raises(TypeError, match=r"holds text.*as_tensor=False"):
        HDF5Matrix(folder / "vlen_string_dset.h5", "DS1")
    assert len(HDF5Matrix(folder / "vlen_string_dset.h5", "DS1", as_tensor=False)[:]) > 0
    pair = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i4"), ("b", "f4")])
    path = stored(tmp_path, pair)
    with pytest.raises(TypeError, match=r"a compound of the fields \['a', 'b'\]"):
        HDF5Matrix(path, "x")
    assert HDF5Matrix(path, "x", as_tensor=False)[1] == pair[1]
    assert HDF5Matrix(path, "x", normalizer=lambda piece: piece["b"])[:].tolist() == [2.5, 4.5]
    with pytest.raises(TypeError, match="no tensor can hold"):
        HDF5Matrix(stored(tmp_path, np.array([1, 2], dtype=np.longdouble)), "x")


@pytest.mark.parametrize(
    "path",
    sorted((pathlib.Path(h5py.__file__).parent / "tests" / "data_files").glob("*.h5")),
    ids=lambda path: path.stem,
)
def test_a_file_written_by_somebody_else_is_read(path):
    with h5py.File(path) as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        arrays = {name: file[name][()] for name in names if file[name].shape}
    assert arrays
    for name, array in arrays.items():
        np.testing.assert_array_equal(HDF5Matrix(path, name, as_tensor=False)[:], array)


def test_the_normalizer_gets_each_piece_and_decides_shape_and_dtype(tmp_path):
    seen = []

    def normalizer(piece):
        seen.append(piece.shape)
        return (piece[..., :2] / 4).astype("f4")

    array = files.some_values("u1", (12, 3))
    rows = HDF5Matrix(stored(tmp_path, array), "x", 2, 10, normalizer)
    assert (rows.shape, rows.dtype, rows.ndim, rows.size) == ((8, 2), torch.float32, 2, 16)
    assert rows.normalizer is normalizer
    seen.clear()
    torch.testing.assert_close(rows[1], torch.from_numpy(array[3, :2] / 4).float())
    rows[2:5], rows.__getitems__([1, 2])
    assert seen == [(1, 3), (3, 3), (2, 3)]
    assert len(HDF5Matrix(stored(tmp_path, array), "x", 5, 5, normalizer)) == 0
    assert HDF5Matrix(stored(tmp_path, array), "x", 5, 5, normalizer).shape == (0, 2)


def test_the_normalizer_is_probed_on_the_windows_first_row(tmp_path):
    seen = []
    HDF5Matrix(stored(tmp_path, np.arange(10)), "x", 4, normalizer=lambda piece: seen.append(piece.tolist()) or piece)
    assert seen == [[4]]


@pytest.mark.parametrize(
    ("normalizer", "row_shape"),
    [
        (lambda rows: rows[:, ::2], (3, 4)),
        (lambda rows: rows.transpose(0, 2, 1), (4, 5)),
        (lambda rows: rows.reshape(len(rows), -1), (20,)),
        (lambda rows: rows[:, ::-1], (5, 4)),
        (lambda rows: rows.mean((1, 2)), ()),
        (lambda rows: torch.from_numpy(rows).double() / 255, (5, 4)),
        (lambda rows: rows.tolist(), (5, 4)),
    ],
    ids=["every second", "transposed", "flat", "flipped", "one number", "tensor", "list"],
)
@pytest.mark.parametrize("as_tensor", [True, False])
@pytest.mark.parametrize("storage", ["contiguous", "gzip"])
def test_one_row_is_that_row_of_all_rows(normalizer, row_shape, as_tensor, storage, tmp_path):
    array = files.some_values("f4", (12, 5, 4))
    rows = HDF5Matrix(stored(tmp_path, array, storage), "x", 1, 11, normalizer, as_tensor=as_tensor)
    assert rows.shape == (10, *row_shape)
    whole = rows[:]
    assert (tuple(whole.shape), whole.dtype) == (rows.shape, rows.dtype)
    np.testing.assert_array_equal(np.asarray(whole), np.asarray(normalizer(array[1:11])))
    for index in (0, 7, -1):
        np.testing.assert_array_equal(rows[index], whole[index])
    np.testing.assert_array_equal(rows[[3, 1]], whole[[3, 1]])
    np.testing.assert_array_equal(np.stack([np.asarray(row) for row in rows]), whole)


@pytest.mark.parametrize(
    ("normalizer", "error", "says"),
    [
        (lambda piece: piece[:1], ValueError, "made 1 rows of 3"),
        (lambda piece: piece.sum(), ValueError, "made 0 rows of 1"),
        (lambda piece: None, TypeError, "it returns None"),
        (lambda piece: piece.astype("S3"), TypeError, "gives text.*no tensor can hold"),
        (lambda piece: [[1], [1, 2]], ValueError, "normalizer on dataset 'x' in"),
    ],
)
def test_a_normalizer_that_gives_no_row_for_each_row_is_refused(normalizer, error, says, tmp_path):
    path = stored(tmp_path, np.ones((9, 2)))
    with pytest.raises(error, match=says):
        HDF5Matrix(path, "x", normalizer=normalizer).__getitems__([0, 1, 2])


def test_what_a_normalizer_raises_comes_through(tmp_path):
    class OwnError(ValueError):
        def __init__(self, one, two):
            super().__init__(f"{one} {two}")

    def normalizer(piece):
        raise OwnError("of its", "own")

    with pytest.raises(OwnError, match="of its own"):
        HDF5Matrix(stored(tmp_path, np.ones(3)), "x", normalizer=normalizer)


def test_closing_and_pickling_lose_nothing(tmp_path):
    array = files.some_values("f8", (9, 2))
    with HDF5Matrix(stored(tmp_path, array, "gzip"), "x", 1, normalizer=half) as rows:
        assert rows[0].tolist() == (array[1] / 2).tolist()
    rows.close()
    np.testing.assert_array_equal(rows[:].numpy(), array[1:] / 2)
    again = pickle.loads(pickle.dumps(rows))
    np.testing.assert_array_equal(again[:].numpy(), array[1:] / 2)
    assert "HDF5Matrix" in repr(again)


def test_relative_paths_survive_a_change_of_folder(tmp_path, monkeypatch):
    stored(tmp_path, np.arange(5))
    monkeypatch.chdir(tmp_path)
    rows = HDF5Matrix("contiguous.h5", "x")
    monkeypatch.chdir("/")
    assert rows[:].tolist() == [0, 1, 2, 3, 4]


def test_nothing_stays_open_after_construction_and_closing(tmp_path):
    def open_files():
        return sum(
            "contiguous.h5" in str(link.readlink())
            for link in pathlib.Path("/proc/self/fd").iterdir()
            if link.is_symlink()
        )

    if not pathlib.Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    rows = HDF5Matrix(stored(tmp_path, np.arange(5)), "x")
    assert open_files() == 0
    rows[0]
    rows.close()
    assert open_files() == 0


def test_memory_urls_are_read(tmp_path):
    import fsspec

    array = files.some_values("f4", (20, 2))
    data = pathlib.Path(stored(tmp_path, array, "gzip")).read_bytes()
    with fsspec.open("memory://folder/a.h5", "wb") as file:
        file.write(data)
    np.testing.assert_array_equal(HDF5Matrix("memory://folder/a.h5", "x", 3)[::2].numpy(), array[3::2])


@pytest.fixture
def served(tmp_path):
    """A folder and the address that serves it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def read_in_workers(address: str, array: np.ndarray, method: str | None) -> None:
    rows = HDF5Matrix(address, "x", 5)
    rows[0]  # a handle is open before the workers start
    loader = DataLoader(StackDataset(rows, rows), batch_size=16, num_workers=2, multiprocessing_context=method)
    read = torch.cat([first for first, second in loader if torch.equal(first, second)])
    np.testing.assert_array_equal(read.numpy(), array[5:])


@pytest.mark.parametrize("storage", ["contiguous", "gzip"])
def test_forked_workers_read_no_wrong_row(storage, tmp_path):
    array = files.some_values("f4", (400, 30))
    read_in_workers(stored(tmp_path, array, storage), array, "fork")


@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.parametrize("source", ["path", "file://", "http", "simplecache::http"])
def test_workers_read_no_wrong_row_from_any_source_by_any_start_method(method, source, tmp_path, served):
    pytest.importorskip("aiohttp")
    array = files.some_values("f4", (300, 30))
    path = stored(tmp_path, array, "gzip")
    address = {
        "path": path,
        "file://": f"file://{path}",
        "http": f"{served}/gzip.h5",
        "simplecache::http": f"simplecache::{served}/gzip.h5",
    }[source]
    read_in_workers(address, array, method)


def test_file_urls_are_read_as_paths(tmp_path):
    path = stored(tmp_path, np.arange(5))
    assert HDF5Matrix(f"file://{path}", "x")[1:].tolist() == [1, 2, 3, 4]


def first_rows(rows, count):
    return [rows[i] for i in range(count)]


def test_tensors_leave_workers_with_memory_of_their_own(tmp_path):
    array = files.some_values("f4", (64, 4))
    rows = HDF5Matrix(stored(tmp_path, array), "x")
    loader = DataLoader(rows, batch_size=8, num_workers=1, collate_fn=list)
    kept = [row for batch in loader for row in batch]
    np.testing.assert_array_equal(torch.stack(kept).numpy(), array)


def test_keras_attributes_are_there(tmp_path):
    rows = torchkutils.HDF5Matrix(stored(tmp_path, np.arange(9)), "x", 2)
    assert (rows.start, rows.end, rows.normalizer) == (2, 9, None)


@pytest.mark.parametrize("storage", files.STORAGES)
@pytest.mark.parametrize(
    "indices", [[2, 3, 4], [0], [9], [3, 2], [3, 3], [8, 9, -10], [-2, -1], range(2, 5), [*range(10)]], ids=str
)
def test_a_batch_of_rows_comes_in_its_order(storage, indices, tmp_path):
    array = np.arange(24, dtype="f4").reshape(12, 2)
    rows = HDF5Matrix(stored(tmp_path, array, storage), "x", start=1, end=11)
    batch = rows.__getitems__(indices)
    assert [row.tolist() for row in batch] == array[1:11][list(indices)].tolist()


@pytest.mark.parametrize(
    ("indices", "error", "says"),
    [
        ([8, 9, 10], IndexError, "index 10 is out of range for 10 rows"),
        ([-11, -10], IndexError, "index -11 is out of range"),
        ([2, 3.0, 4], TypeError, "not by float64 values"),
        ([0, True, 2.0], TypeError, "not by float64 values"),
        ([0, "1"], TypeError, "rows are chosen by"),
    ],
    ids=str,
)
def test_a_batch_of_what_are_no_rows_is_refused(indices, error, says, tmp_path):
    rows = HDF5Matrix(stored(tmp_path, np.arange(10.0)), "x")
    with pytest.raises(error, match=says):
        rows.__getitems__(indices)
