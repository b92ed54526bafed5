"""What does all-or-nothing extraction cost against tarfile.extractall, and a repeated call?

10,000 members in a tar.gz; the baseline syncs the disk once at its end, as we do.
"""

from __future__ import annotations

import functools
import io
import os
import pathlib
import shutil
import tarfile
import tempfile
import warnings

from benchmarks._harness import clocked, compare, store
from torchkutils import get_file
from torchkutils.files import archive
from torchkutils.files.extraction_options import Extraction
from torchkutils.files.folder_handle import FolderHandle

MEMBERS = 10_000


def make(path: pathlib.Path) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for number in range(MEMBERS):
            content = os.urandom(2000)
            info = tarfile.TarInfo(f"set/class{number % 100}/{number}.bin")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def main() -> None:
    warnings.simplefilter("ignore")
    folder = pathlib.Path(tempfile.mkdtemp())
    source, target = folder / "far.tar.gz", folder / "cache"
    make(source)

    def clean() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        shutil.copy(source, target / "f.tar.gz")
        os.sync()

    def ours() -> None:
        archive.extract_archive(str(target / "f.tar.gz"), str(target), Extraction(("tar",)))

    def tarfile_extractall() -> None:
        with tarfile.open(target / "f.tar.gz") as tar:
            tar.extractall(target, filter="data")
        with FolderHandle(str(target)) as handle:
            archive._sync_disk(handle)

    try:
        rows = [
            compare(
                f"extraction of {MEMBERS:,} members from a tar.gz",
                ours,
                {"tarfile": tarfile_extractall},
                target={"tarfile": 1.3},
                repeats=5,
                warmup=1,
                setup=clean,
                note="tarfile's filter refuses members that leave the folder, and leaves behind what it wrote before.",
            )
        ]
        clean()
        options = {"cache_dir": target, "cache_subdir": "", "extract": True, "progress": False}
        get_file("f.tar.gz", source.as_uri(), **options)
        again = functools.partial(get_file, "f.tar.gz", source.as_uri(), **options)
        rows.append(clocked(f"a repeated call, {MEMBERS:,} members", again, "ms", target=50))
    finally:
        shutil.rmtree(folder)
    store("archive", rows)


if __name__ == "__main__":
    main()
