"""What does it cost to open a data set of 1,000 files, and to read random rows behind a network?"""

from __future__ import annotations

import http.server
import io
import pathlib
import tempfile
import threading
import time

import h5py
import numpy as np

from benchmarks._harness import clocked, figure, store, taken
from torchkutils import HDF5Matrix

FILES, LATENCY, ROWS = 1000, 0.02, 64


class Server(http.server.ThreadingHTTPServer):
    """One file, answered by ranges after a delay."""

    request_queue_size = 128
    data = b""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.under_way = self.round_trips = 0
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(0, len(self.server.data) - 1, body=False)

    def do_GET(self):
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        self.answer(int(first), min(int(last), len(self.server.data) - 1), body=True)

    def answer(self, first, last, *, body):
        # A request that comes while none is under way had to wait for the answers to those before it.
        with self.server.lock:
            self.server.round_trips += self.server.under_way == 0
            self.server.under_way += 1
        time.sleep(LATENCY)
        with self.server.lock:
            self.server.under_way -= 1
        self.send_response(206 if body else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        if body:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.server.data)}")
        self.end_headers()
        if body:
            self.wfile.write(self.server.data[first : last + 1])


def opening(folder: pathlib.Path) -> list[dict]:
    for number in range(FILES):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file.create_dataset("x", data=np.full((64, 16), number, "f4"), chunks=(16, 16), compression="gzip")
    pattern = str(folder / "*.h5")
    rows = HDF5Matrix(pattern, "x")
    picks = [np.random.default_rng(seed).integers(0, 64 * FILES, 64) for seed in range(5)]
    return [
        clocked("making an HDF5Matrix of 1,000 files", lambda: HDF5Matrix(pattern, "x"), "s", target=2.0, repeats=7),
        clocked("5 batches of 64 random rows of 1,000 files", lambda: [rows[pick] for pick in picks], "ms", repeats=7),
    ]


def behind_a_network() -> list[dict]:
    found = []
    for name, options in {"contiguous": {}, "gzip chunks": {"chunks": (20, 1024), "compression": "gzip"}}.items():
        array = np.random.default_rng(0).random((5000, 1024)).astype("f4")
        memory = io.BytesIO()
        with h5py.File(memory, "w") as file:
            file.create_dataset("x", data=array, **options)
        Server.data = memory.getvalue()
        server = Server()
        rows = HDF5Matrix(f"http://127.0.0.1:{server.server_port}/a.h5", "x")
        seconds, trips = [], []
        for seed in range(9):
            rows.close()
            rows[0]
            picked = np.random.default_rng(seed).permutation(5000)[:ROWS]
            server.round_trips = 0
            start = time.perf_counter()
            rows[picked]
            seconds.append((time.perf_counter() - start) * 1e3)
            trips.append(server.round_trips)
        question = f"{ROWS} random rows over HTTP with a delay of 20 ms, {name}"
        note = "Server and client share a process; the chunks are decoded too."
        found.append(figure(question, max(trips), "round trips at most", target=3))
        found.append(taken(question, seconds, "ms", note=note))
        rows.close()
        server.shutdown()
        server.server_close()
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store("hdf5_files", [*opening(pathlib.Path(folder)), *behind_a_network()])


if __name__ == "__main__":
    main()
