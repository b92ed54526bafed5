"""Where rows may come from: many files, groups, links, URLs, open files, writers that append; and what errors say."""

from __future__ import annotations

import gc
import http.server
import io
import multiprocessing
import pathlib
import pickle
import re
import subprocess
import sys
import threading
import time
import zipfile

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, StackDataset, Subset, random_split

import tests.data.hdf5_files as files
from torchkutils import ChunkShuffleSampler, HDF5Matrix
from torchkutils.data.remote_bytes import RemoteBytes

ARRAY = np.arange(400, dtype="f4").reshape(100, 4)


def parts(folder: pathlib.Path, lengths=(7, 1, 12, 5), storage: str = "gzip") -> tuple[list[str], np.ndarray]:
    """Files part_0.h5, part_1.h5, … and what they hold together."""
    whole = np.arange(sum(lengths) * 3, dtype="f4").reshape(-1, 3)
    paths, first = [], 0
    for number, length in enumerate(lengths):
        path = folder / f"part_{number}.h5"
        files.write(path, storage, whole[first : first + length], chunk_rows=4)
        paths.append(str(path))
        first += length
    return paths, whole


@pytest.mark.parametrize("storage", ["contiguous", "chunked", "gzip"])
@pytest.mark.parametrize("window", [(0, None), (3, 22), (8, 8), (7, 8)])
def test_many_files_are_read_as_one(storage, window, tmp_path):
    paths, whole = parts(tmp_path, storage=storage)
    expected = whole[slice(*window)]
    rows = HDF5Matrix(paths, "x", *window, threads=2)
    assert rows.shape == expected.shape
    generator = np.random.default_rng(0)
    keys = [slice(None), slice(None, None, -1), slice(1, 15, 4), []]
    if len(expected):
        keys += [0, -1, generator.integers(0, len(expected), 30), generator.permutation(len(expected)).tolist()]
    for key in keys:
        wanted = expected[np.array(key, dtype=int) if isinstance(key, list) else key]
        np.testing.assert_array_equal(rows[key].numpy(), wanted)
    assert [row.tolist() for row in rows] == expected.tolist()
    again = pickle.loads(pickle.dumps(rows))
    np.testing.assert_array_equal(again[:].numpy(), expected)


def test_a_glob_is_sorted_with_numbers_as_numbers(tmp_path):
    for number in (10, 2, 1):
        files.write(tmp_path / f"demo_{number}.h5", "contiguous", np.full(2, float(number)))
    assert HDF5Matrix(tmp_path / "demo_*.h5", "x")[:].tolist() == [1, 1, 2, 2, 10, 10]
    assert HDF5Matrix((tmp_path / "demo_*.h5").as_uri().replace("%2A", "*"), "x")[::2].tolist() == [1, 2, 10]
    # A list keeps its order; a file whose name looks like a glob is that file.
    assert HDF5Matrix([tmp_path / "demo_10.h5", tmp_path / "demo_2.h5"], "x")[::2].tolist() == [10, 2]
    files.write(tmp_path / "odd[1].h5", "contiguous", np.array([7.0]))
    assert HDF5Matrix(tmp_path / "odd[1].h5", "x")[:].tolist() == [7]


def test_files_whose_rows_differ_are_refused_by_their_metadata(tmp_path):
    files.write(tmp_path / "a.h5", "gzip", np.ones((4, 2), "f4"))
    for number, other in enumerate([np.ones((4, 3), "f4"), np.ones((4, 2), "f8"), np.ones(4, "f4")]):
        files.write(tmp_path / f"b{number}.h5", "gzip", other)
        with pytest.raises(ValueError, match=rf"one shape and dtype: .*a.h5.* holds float32.*b{number}.h5"):
            HDF5Matrix([tmp_path / "a.h5", tmp_path / f"b{number}.h5"], "x")


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/fd").exists(), reason="needs /proc")
def test_few_of_many_files_are_open(tmp_path):
    program = f"""
import resource, os, sys, h5py, numpy as np, torch, pathlib
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
from torchkutils import ChunkShuffleSampler, HDF5Matrix
from torchkutils.data.remote_bytes import RemoteBytes
folder = pathlib.Path({str(tmp_path)!r})
for number in range(120):
    with h5py.File(folder / f"f{{number}}.h5", "w") as file:
        file.create_dataset("x", data=np.arange(8.0) + 8 * number, chunks=(2,), compression="gzip")
        file["y"] = np.arange(8) + 8 * number
x, y = HDF5Matrix(folder / "f*.h5", "x"), HDF5Matrix(folder / "f*.h5", "y")
assert len(x) == 960
order = np.random.default_rng(0).permutation(960)
assert x[order].tolist() == y[order].tolist() == order.tolist()
assert sorted(x[i].item() for i in ChunkShuffleSampler(x)) == list(range(960))
kept = [open(os.devnull) for _ in range(30)]
assert x[order].tolist() == y[order].tolist()
print(len(os.listdir("/proc/self/fd")) < 100)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert result.stdout.strip() == "True", result.stderr


@pytest.mark.parametrize("shapes", [[(3,), (3,), (3,)], [(1,), (3,), (2,)], [(2, 2), (1, 2), (4, 2)]])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_a_group_holds_a_row_a_data_set(shapes, as_tensor, tmp_path):
    arrays = [np.random.default_rng(0).random(shape).astype(">f4") for shape in shapes]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number, array in zip((1, 2, 10), arrays, strict=True):
            file[f"data/demo_{number}"] = array
            file[f"nested/demo_{number}/actions"] = array
            file[f"nested/demo_{number}/other"] = 1.0
        file["data"].create_group("no row")
    for name in ("data", "nested/demo_*/actions"):
        rows = HDF5Matrix(tmp_path / "a.h5", name, as_tensor=as_tensor)
        equal = len(set(shapes)) == 1
        assert rows.shape == ((3, *shapes[0]) if equal else (3,))
        assert rows.dtype == (torch.float32 if as_tensor else np.dtype(">f4") if equal else np.dtype(object))
        for key in (slice(None), [2, 0, 2], slice(None, None, -1)):
            wanted = [arrays[index] for index in np.arange(3)[key]]
            got = rows[key]
            assert len(got) == len(wanted)
            for one, other in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(np.asarray(one), other)
        np.testing.assert_array_equal(np.asarray(rows[-1]), arrays[2])
        assert [len(row) for row in rows] == [len(array) for array in arrays]
        assert len(rows.__getitems__([1, 1])) == 2


def test_ragged_rows_go_through_a_normalizer_and_a_loader(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(4):
            file[f"data/{number}"] = np.arange(number + 1.0)
    padded = HDF5Matrix(tmp_path / "a.h5", "data", normalizer=pad)
    assert padded.shape == (4, 5)
    assert padded[[3, 0]].tolist() == [[0, 1, 2, 3, 0], [0, 0, 0, 0, 0]]
    rows = HDF5Matrix(tmp_path / "a.h5", "data", normalizer=halves)
    batch = next(iter(DataLoader(rows, batch_size=3, collate_fn=list)))
    assert [row.tolist() for row in batch] == [[0], [0, 0.5], [0, 0.5, 1]]
    with pytest.raises(TypeError, match="ragged rows are chosen along one axis"):
        rows[np.array([[0, 1]])]


def pad(piece):
    return np.stack([np.pad(row, (0, 5 - len(row))) for row in piece])


def halves(piece):
    return [row / 2 for row in piece]


def test_group_rows_of_several_dtypes_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data/a"], file["data/b"] = np.ones(2, "f4"), np.ones(2, "f8")
    with pytest.raises(ValueError, match="must have one dtype: '/data/a' holds float32, '/data/b' holds float64"):
        HDF5Matrix(tmp_path / "a.h5", "data")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("external", r"'/external' is an external link to '/x' in the file 'gone.h5', which cannot be opened"),
        ("no object", r"'/no object' is an external link to '/nothing' in the file 'there.h5'"),
        ("soft", r"'/soft' is a soft link to '/nowhere', which leads nowhere"),
        ("group/soft", r"'/group/soft' is a soft link to '/nowhere'"),
        ("external/deep", r"'/external' is an external link to '/x' in the file 'gone.h5'"),
        ("circle", r"'/circle' is a soft link to '/circle', which leads nowhere"),
        ("no file", r"'/no file' is an external link to '/x' in the file 'text.h5'"),
        ("links/2", r"'/links/2' is a soft link to '/nowhere'"),
        ("links", r"'/links/2' is a soft link to '/nowhere'"),
        ("absent", r"holds \['good', .*'ok'\]"),
        ("ok/deep", r"holds \['good', .*'ok'\]"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(name, says, tmp_path):
    files.write(tmp_path / "there.h5", "contiguous", np.arange(3.0))
    (tmp_path / "text.h5").write_text("no HDF5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["ok"] = [1, 2]
        file["external"] = h5py.ExternalLink("gone.h5", "/x")
        file["no object"] = h5py.ExternalLink("there.h5", "/nothing")
        file["soft"] = h5py.SoftLink("/nowhere")
        file["group/soft"] = h5py.SoftLink("/nowhere")
        file["circle"] = h5py.SoftLink("/circle")
        file["no file"] = h5py.ExternalLink("text.h5", "/x")
        file["links/1"], file["links/2"] = 1.0, h5py.SoftLink("/nowhere")
        file["good"] = h5py.SoftLink("/ok")
    with pytest.raises(FileNotFoundError, match=rf"no dataset '.*{name}.*' in .*{says}"):
        HDF5Matrix(tmp_path / "a.h5", name)
    assert HDF5Matrix(tmp_path / "a.h5", "good")[:].tolist() == [1, 2]


def test_a_misspelt_name_is_answered_from_a_look_at_a_few_objects(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(3000):
            file[f"g{number // 1000}/s{number}"] = number
    opened = []
    get = h5py.Group.__getitem__
    monkeypatch.setattr(h5py.Group, "__getitem__", lambda self, name: opened.append(name) or get(self, name))
    with pytest.raises(KeyError, match=r"no dataset 'nope' in .*'g0/s0'.* and more"):
        HDF5Matrix(tmp_path / "a.h5", "nope")
    assert len(opened) < 600


def virtual(folder: pathlib.Path) -> pathlib.Path:
    layout = h5py.VirtualLayout((30,), "f8")
    for number in range(3):
        files.write(folder / f"s{number}.h5", "contiguous", np.arange(10.0) + 10 * number)
        layout[10 * number : 10 * number + 10] = h5py.VirtualSource(f"s{number}.h5", "x", (10,))
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    return folder / "v.h5"


def test_a_virtual_data_set_lacks_no_source(tmp_path):
    path = virtual(tmp_path)
    opened = HDF5Matrix(path, "x")
    assert opened[8:22].tolist() == list(range(8, 22))
    (tmp_path / "s1.h5").rename(tmp_path / "moved.h5")
    says = "is virtual, and the file 's1.h5' with its rows 10 to 19 is missing"
    with pytest.raises(FileNotFoundError, match=says):
        HDF5Matrix(path, "x")[:]
    with pytest.raises(FileNotFoundError, match=r"s1\.h5"):
        opened[12]
    # Rows that need no missing file can be read.
    assert HDF5Matrix(path, "x", 20)[:].tolist() == list(range(20, 30))
    (tmp_path / "moved.h5").rename(tmp_path / "s1.h5")
    files.write(tmp_path / "new.h5", "contiguous", np.arange(10.0) * -1)
    (tmp_path / "new.h5").replace(tmp_path / "s1.h5")
    assert opened[12] == -2


@pytest.mark.parametrize("name", ["my däta.h5", "a%20b.h5", "co:lon::two.h5", "plus+.h5", "100%.h5", "q?.h5", "h#.h5"])
def test_a_path_and_its_uri_name_the_same_file(name, tmp_path):
    files.write(tmp_path / name, "contiguous", np.arange(5.0))
    for address in (tmp_path / name, str(tmp_path / name), (tmp_path / name).as_uri()):
        assert HDF5Matrix(address, "x")[1:].tolist() == [1, 2, 3, 4]


def test_a_colon_in_a_relative_name_is_no_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write("zip::a.h5", "contiguous", np.arange(3.0))
    assert HDF5Matrix("zip::a.h5", "x")[:].tolist() == [0, 1, 2]


@pytest.mark.parametrize("storage", ["contiguous", "gzip"])
def test_a_file_in_an_archive_is_read(storage, tmp_path, monkeypatch):
    files.write(tmp_path / "a.h5", storage, ARRAY)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(tmp_path / "a.h5", "in/a.h5")
    rows = HDF5Matrix(f"zip://in/a.h5::{tmp_path / 'z.zip'}", "x")
    np.testing.assert_array_equal(rows[[5, 90, 5]].numpy(), ARRAY[[5, 90, 5]])
    rows.close()
    np.testing.assert_array_equal(rows[2:50].numpy(), ARRAY[2:50])
    monkeypatch.chdir(tmp_path)
    relative = HDF5Matrix("zip://in/a.h5::z.zip", "x")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(relative[7].numpy(), ARRAY[7])


@pytest.mark.parametrize("storage", ["contiguous", "gzip", "growing"])
def test_open_files_are_read(storage, tmp_path):
    import fsspec

    path = tmp_path / "a.h5"
    files.write(path, storage, ARRAY)
    memory = io.BytesIO(path.read_bytes())
    in_memory = h5py.File("core.h5", "w", driver="core", backing_store=False)
    in_memory["x"] = ARRAY
    with open(path, "rb") as file, h5py.File(path) as opened, fsspec.open(str(path)) as remote:
        sources = {"BytesIO": memory, "file": file, "h5py": opened, "fsspec": remote, "core": in_memory}
        matrices = {name: HDF5Matrix(source, "x") for name, source in sources.items()}
        for name, rows in matrices.items():
            np.testing.assert_array_equal(rows[[5, 90, 5]].numpy(), ARRAY[[5, 90, 5]], err_msg=name)
            np.testing.assert_array_equal(rows[3:50].numpy(), ARRAY[3:50], err_msg=name)
        for name in ("BytesIO", "file", "h5py", "fsspec"):
            again = pickle.loads(pickle.dumps(matrices[name]))
            np.testing.assert_array_equal(again[:].numpy(), ARRAY, err_msg=name)
            batches = list(DataLoader(matrices[name], batch_size=30, num_workers=2, multiprocessing_context="fork"))
            np.testing.assert_array_equal(torch.cat(batches).numpy(), ARRAY, err_msg=name)
        # The caller's file stays open, and ours are closed.
        matrices["core"].close()
        assert in_memory["x"].shape == (100, 4)
    in_memory.close()


def test_an_open_file_without_a_path_is_refused_in_another_process(tmp_path):
    with h5py.File("core.h5", "w", driver="core", backing_store=False) as file:
        file["x"] = ARRAY
        loader = DataLoader(HDF5Matrix(file, "x"), batch_size=10, num_workers=1, multiprocessing_context="fork")
        with pytest.raises(RuntimeError, match="was opened by another process; give its path"):
            list(loader)


class Server(http.server.ThreadingHTTPServer):
    """Serves one file in ways that the first part of the path names, and counts round trips."""

    request_queue_size = 128
    latency = 0.0

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.lock = threading.Lock()
        self.under_way = self.round_trips = 0
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, mode: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{mode}/a.h5"

    def wait(self) -> None:
        """The way there and back: a request that comes while none is under way waited for those before it."""
        with self.lock:
            self.round_trips += self.under_way == 0
            self.under_way += 1
        time.sleep(self.latency)
        with self.lock:
            self.under_way -= 1


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(b"")

    def do_GET(self):
        self.answer(self.server.data)

    def answer(self, data):
        mode = self.path.split("/")[1]
        self.server.wait()
        if mode in ("unauthorised", "broken", "absent"):
            self.send_response({"unauthorised": 401, "broken": 500, "absent": 404}[mode])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if mode == "secret" and self.headers.get("X-Token") != "open sesame":
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = len(self.server.data)
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        first, last = 0, size - 1
        if asked and mode in ("range", "secret"):
            first, last = int(asked[1]), min(int(asked[2] or last), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Accept-Ranges", "bytes")
        else:
            self.send_response(200)
        if mode == "nolen":
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])


@pytest.fixture
def serve():
    servers = []

    def serving(data: bytes) -> Server:
        servers.append(Server(data))
        return servers[-1]

    pytest.importorskip("aiohttp")
    yield serving
    for server in servers:
        server.shutdown()
        server.server_close()


def file_bytes(array, **options) -> bytes:
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.create_dataset("x", data=array, **options)
    return memory.getvalue()


@pytest.mark.parametrize("options", [{}, {"chunks": (16, 4)}, {"chunks": (16, 2), "compression": "gzip"}], ids=str)
@pytest.mark.parametrize("mode", ["range", "plain"])
@pytest.mark.parametrize("chained", ["", "simplecache::"])
def test_servers_with_and_without_ranges_give_the_rows(options, mode, chained, serve):
    server = serve(file_bytes(ARRAY, **options))
    rows = HDF5Matrix(chained + server.url(mode), "x")
    for key in ([5, 90, 5], slice(3, 50), 7, slice(None, None, -3)):
        np.testing.assert_array_equal(rows[key].numpy(), ARRAY[key])


def test_no_garbage_is_collected_while_hdf5_waits_for_a_server(serve, monkeypatch):
    # A thread of fsspec's that finds an object of h5py in it waits for the lock that the reader holds: for ever.
    collecting, cat_ranges = [], RemoteBytes._fetched

    def noted(self, missing):
        collecting.append(gc.isenabled())
        return cat_ranges(self, missing)

    monkeypatch.setattr(RemoteBytes, "_fetched", noted)
    HDF5Matrix(serve(file_bytes(ARRAY)).url("range"), "x")
    assert collecting
    assert not any(collecting)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("mode", "error", "says"),
    [
        ("nolen", OSError, "put simplecache:: before the URL"),
        ("unauthorised", OSError, "the server answers 401"),
        ("broken", OSError, "the server answers 500"),
        ("secret", OSError, "the server answers 403"),
        ("absent", FileNotFoundError, "datapath: no file 'http://127"),
    ],
)
def test_what_a_server_answers_is_said(mode, error, says, serve):
    with pytest.raises(error, match=says) as caught:
        HDF5Matrix(serve(file_bytes(ARRAY)).url(mode), "x")
    assert isinstance(caught.value, FileNotFoundError) == (error is FileNotFoundError)


def test_a_refused_connection_is_said_without_the_password():
    pytest.importorskip("aiohttp")
    with pytest.raises(OSError, match=r"'http://127.0.0.1:9/a.h5' cannot be read: .*[Cc]onnect") as caught:
        HDF5Matrix("http://me:secret@127.0.0.1:9/a.h5", "x")
    assert "secret" not in str(caught.value)


def test_storage_options_reach_the_file_system_in_workers_too(serve):
    server = serve(file_bytes(ARRAY))
    rows = HDF5Matrix(server.url("secret"), "x", storage_options={"headers": {"X-Token": "open sesame"}})
    loader = DataLoader(rows, batch_size=25, num_workers=1, multiprocessing_context="fork")
    np.testing.assert_array_equal(torch.cat(list(loader)).numpy(), ARRAY)


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (20, 500)}, {"chunks": (20, 500), "compression": "gzip"}],
    ids=["plain", "chunked", "gzip"],
)
def test_random_rows_behind_a_network_cost_a_round_trip_or_two(options, serve):
    array = np.random.default_rng(0).random((4000, 500)).astype("f4")
    server = serve(file_bytes(array, **options))
    rows = HDF5Matrix(server.url("range"), "x")
    rows[0]
    server.latency, server.round_trips = 0.05, 0
    picked = np.random.default_rng(1).permutation(4000)[:64]
    np.testing.assert_array_equal(rows[picked].numpy(), array[picked])
    assert 1 <= server.round_trips <= 3
    server.round_trips = 0
    # What was fetched is kept.
    rows[picked]
    assert server.round_trips == 0


def test_rows_of_a_growing_file_are_seen_after_refresh(tmp_path):
    program = f"""
import h5py, sys, numpy as np
file = h5py.File({str(tmp_path / "a.h5")!r}, "w", libver="latest")
data = file.create_dataset("x", data=np.arange(10.0), maxshape=(None,), chunks=(4,))
file.swmr_mode = True
for length in (10, 13):
    data.resize((length,))
    data[:] = np.arange(length) * 1.0
    data.flush()
    print("written", flush=True)
    sys.stdin.readline()
"""
    writer = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "written\n"
        with pytest.raises(OSError, match="swmr=True"):
            HDF5Matrix(tmp_path / "a.h5", "x")
        rows = HDF5Matrix(tmp_path / "a.h5", "x", swmr=True)
        assert rows[:].tolist() == list(range(10))
        print(file=writer.stdin, flush=True)
        assert writer.stdout.readline() == "written\n"
        assert len(rows) == 10
        rows.refresh()
        assert rows[:].tolist() == list(range(13))
    finally:
        writer.kill()
        writer.wait()
        writer.stdin.close(), writer.stdout.close()


def test_refresh_follows_a_file_that_grew_and_refuses_one_that_shrank(tmp_path):
    def become(array):
        files.write(tmp_path / "new.h5", "gzip", array)
        (tmp_path / "new.h5").replace(tmp_path / "a.h5")

    become(np.arange(9.0))
    rows, fixed = HDF5Matrix(tmp_path / "a.h5", "x", 3), HDF5Matrix(tmp_path / "a.h5", "x", 3, 9)
    become(np.arange(30.0))
    rows.refresh(), fixed.refresh()
    assert (rows[:].tolist(), fixed[:].tolist()) == (list(range(3, 30)), list(range(3, 9)))
    become(np.arange(8.0))
    rows.refresh()
    assert rows[:].tolist() == list(range(3, 8))
    with pytest.raises(RuntimeError, match="only 8 rows are left"):
        fixed.refresh()
    become(np.ones((9, 2)))
    with pytest.raises(RuntimeError, match="changed: it was float64"):
        rows.refresh()


def test_a_lock_error_says_how_to_go_on(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    files.write(tmp_path / "a.h5", "gzip", np.arange(9.0))
    with open(tmp_path / "a.h5", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"Pass locking=False .*HDF5_USE_FILE_LOCKING=FALSE"):
            HDF5Matrix(tmp_path / "a.h5", "x", locking=True)
        assert HDF5Matrix(tmp_path / "a.h5", "x", locking=False)[2] == 2


@pytest.mark.slow
@pytest.mark.parametrize("filter_name", ["Blosc", "Bitshuffle", "Zstd"])
def test_a_missing_filter_is_named_with_what_brings_it(filter_name, tmp_path):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    options = dict(getattr(hdf5plugin, filter_name)())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.zeros((2000, 100), "f4"), chunks=(500, 100), **options)
    program = f"""
import sys
{{hide}}
import torchkutils
print(torchkutils.HDF5Matrix({str(tmp_path / "a.h5")!r}, "x")[5].sum().item())
"""
    says = {}
    for hide in ("", "sys.modules['hdf5plugin'] = None"):
        command = [sys.executable, "-c", program.format(hide=hide)]
        says[hide] = subprocess.run(command, capture_output=True, text=True, timeout=100, env={"PATH": ""})
    assert says[""].stdout == "0.0\n"
    last = says["sys.modules['hdf5plugin'] = None"].stderr.strip().splitlines()[-1]
    assert re.search(rf"'/x' in .*a.h5' is compressed by the filter {filter_name.lower()} \(\d+\)", last)
    assert "pip install hdf5plugin" in last


@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_plugin_filters_and_many_files_reach_workers(method, tmp_path):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    for number in range(3):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file.create_dataset("x", data=ARRAY + 100 * number, chunks=(30, 4), **hdf5plugin.Blosc())
    rows = HDF5Matrix(tmp_path / "*.h5", "x")
    loader = DataLoader(rows, batch_size=64, num_workers=2, multiprocessing_context=method)
    np.testing.assert_array_equal(torch.cat(list(loader)).numpy(), np.concatenate([ARRAY, ARRAY + 100, ARRAY + 200]))


def chunked_parts(folder: pathlib.Path) -> list[HDF5Matrix]:
    for name, length in (("a", 30), ("b", 41), ("c", 5)):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file.create_dataset("x", data=np.arange(length * 2.0).reshape(-1, 2), chunks=(7 if length > 5 else 2, 2))
            file["y"] = np.arange(length)
    return [HDF5Matrix(folder / f"{name}.h5", "x") for name in "abc"]


def test_chunk_shuffling_goes_through_concatenations_subsets_and_stacks(tmp_path):
    a, b, c = chunked_parts(tmp_path)
    labels = HDF5Matrix(tmp_path / "a.h5", "y")
    together = ConcatDataset([a, b, c])
    datasets = {
        "many files": HDF5Matrix([tmp_path / f"{name}.h5" for name in "abc"], "x", 3, 70),
        "concatenated": together,
        "subset": Subset(a, range(10, 30)),
        "shuffled subset": Subset(a, np.random.default_rng(0).permutation(30)[:17].tolist()),
        "split": random_split(StackDataset(a, labels), [20, 10])[0],
        "subset of all": Subset(together, list(range(70, 2, -1))),
        "stack of subsets": StackDataset(x=Subset(a, range(5, 25)), y=Subset(labels, range(5, 25))),
        "concatenated stacks": ConcatDataset([StackDataset(a, a), StackDataset(b, b)]),
        "other data too": ConcatDataset([a, torch.utils.data.TensorDataset(torch.zeros(3, 2))]),
    }
    for name, data in datasets.items():
        for size in (1, 3):
            order = []
            for rank in range(size):
                sampler = ChunkShuffleSampler(data, buffer_chunks=3, rank=rank, world_size=size, shard="uneven")
                order += list(sampler)
            assert sorted(order) == list(range(len(data))), name


def test_a_pool_of_a_subset_draws_on_its_chunks_only(tmp_path):
    matrix = chunked_parts(tmp_path)[1]
    subset = Subset(matrix, np.random.default_rng(0).permutation(41).tolist())
    order = np.array(list(ChunkShuffleSampler(subset, buffer_chunks=1)))
    chunks = np.array(subset.indices)[order] // 7
    # With pools of one chunk, the rows of a chunk come together.
    assert np.count_nonzero(np.diff(chunks)) == 5
