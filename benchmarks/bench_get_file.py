"""How fast is a checked download, and how cheap is a file that is there already?

500 MB over loopback with SHA-256, against requests with the same hash in its loop (synced to disk as we do) and
against pooch; the memory it takes; how much a cut download asks for again; cached calls.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import logging
import multiprocessing
import os
import pathlib
import shutil
import tempfile

import pooch
import requests

from benchmarks._harness import clocked, compare, figure, store
from torchkutils import get_file

SIZE = int(os.environ.get("BENCH_BYTES", 500_000_000))
PIECE = 1 << 20


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file; /cut breaks off in the middle of the first answer, /asked says how much was asked again."""

    protocol_version = "HTTP/1.1"
    again = 0
    count = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        if self.path == "/asked":
            body = str(Handler.again).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        first, length = 0, SIZE
        if self.path == "/cut":
            Handler.count += 1
            if asked := self.headers.get("Range"):
                first = int(asked.removeprefix("bytes=").rstrip("-"))
                Handler.again = SIZE - first
            elif Handler.count == 1:
                length = SIZE // 2
        self.send_response(206 if first else 200)
        self.send_header("ETag", '"v1"')
        if first:
            self.send_header("Content-Range", f"bytes {first}-{SIZE - 1}/{SIZE}")
        self.send_header("Content-Length", str(SIZE - first))
        self.end_headers()
        with open(SOURCE, "rb") as file, contextlib.suppress(OSError):
            self.wfile.flush()
            sent = first
            while sent < length:
                sent += os.sendfile(self.connection.fileno(), file.fileno(), sent, length - sent)


SOURCE = pathlib.Path(tempfile.gettempdir()) / f"bench-get-file-{os.getpid()}"


def serve(ready, source: pathlib.Path) -> None:
    global SOURCE
    SOURCE = source
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ready.send(server.server_port)
    server.serve_forever()


def plain_requests(url: str, path: pathlib.Path) -> None:
    running = hashlib.sha256()
    with requests.get(url, stream=True, timeout=30) as response, open(path, "wb") as file:
        for piece in response.iter_content(PIECE):
            file.write(piece)
            running.update(piece)
        file.flush()
        os.fsync(file.fileno())
    running.hexdigest()


def pooch_retrieve(url: str, digest: str, folder: pathlib.Path, chunk_size: int = 1024) -> None:
    by = pooch.HTTPDownloader(chunk_size=chunk_size)
    pooch.retrieve(url, f"sha256:{digest}", fname="pooch.bin", path=folder, downloader=by)
    with open(folder / "pooch.bin", "rb") as file:
        os.fsync(file.fileno())


def peak_memory() -> int:
    """KiB of the largest resident memory since the peak was last reset; Linux only."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def memory_growth(url: str, folder: pathlib.Path, answer) -> None:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    get_file("memory.bin", url, cache_dir=folder, progress=False, force=True)
    answer.send((peak_memory() - before) / 1024)


def main() -> None:
    logging.getLogger("pooch").setLevel(logging.ERROR)
    pooch.get_logger().setLevel("ERROR")
    context = multiprocessing.get_context("fork")
    folder = pathlib.Path(tempfile.mkdtemp())
    with open(SOURCE, "wb") as file:
        for _ in range(SIZE // PIECE + 1):
            file.write(os.urandom(PIECE))
        file.truncate(SIZE)
    with open(SOURCE, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs, SOURCE), daemon=True)
    server.start()
    root = f"http://127.0.0.1:{ours.recv()}"
    rows = []

    def clean() -> None:
        for path in folder.rglob("*.bin"):
            path.unlink()

    def download() -> None:
        get_file("ours.bin", f"{root}/file", cache_dir=folder, file_hash=digest, progress=False)

    try:
        rows.append(
            compare(
                f"{SIZE // 10**6} MB over loopback with sha256",
                download,
                {
                    "requests": lambda: plain_requests(f"{root}/file", folder / "requests.bin"),
                    "pooch": lambda: pooch_retrieve(f"{root}/file", digest, folder),
                    "pooch, chunks of 1 MiB": lambda: pooch_retrieve(f"{root}/file", digest, folder, PIECE),
                },
                target={"requests": 1.25, "pooch": 1 / 3},
                repeats=5,
                warmup=1,
                setup=clean,
                note="All sync to disk. pooch reads 1 KiB at a time unless it is told otherwise.",
            )
        )
        clean()
        child = multiprocessing.get_context("spawn").Process(
            target=memory_growth, args=(f"{root}/file", folder, theirs)
        )
        child.start()
        rows.append(figure("growth of the resident memory", ours.recv(), "MiB", target=16))
        child.join()
        get_file("cut.bin", f"{root}/cut", cache_dir=folder, file_hash=digest, progress=False)
        again = int(requests.get(f"{root}/asked", timeout=30).text) / SIZE
        rows.append(figure("asked again after a cut at half", again, "of the file", target=0.51))
        clean()
        download()

        def file_digest() -> None:
            with open(folder / "datasets/ours.bin", "rb") as file:
                hashlib.file_digest(file, "sha256")

        pooch_retrieve(f"{root}/file", digest, folder, PIECE)
        rows.append(
            compare(
                "a cached call with a hash",
                download,
                {"pooch": lambda: pooch_retrieve(f"{root}/file", digest, folder)},
                floor={"file_digest": file_digest},
                target={"file_digest": 1.1},
                repeats=7,
                warmup=1,
            )
        )
        cached = functools.partial(get_file, "ours.bin", f"{root}/file", cache_dir=folder, progress=False)
        rows.append(clocked("a cached call without a hash", cached, "ms", target=1.0, calls=200))
    finally:
        server.terminate()
        server.join()
        shutil.rmtree(folder)
        SOURCE.unlink()
    store("get_file", rows)


if __name__ == "__main__":
    main()
