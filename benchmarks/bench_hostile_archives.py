"""How long does an archive keep get_file busy that was made to do so?

Every hostile archive of the tests (names, links and sizes that lie, and few bytes that ask for much work) is unpacked
once. Each must be refused or unpacked in at most five seconds; the figure is that of the slowest one.
"""

from __future__ import annotations

import pathlib
import shutil
import tempfile
import time
import warnings

from benchmarks._harness import figure, store
from tests.files.hostile_archives import HOSTILE
from torchkutils import ArchiveError, get_file
from torchkutils.files import archive

TARGET_SECONDS = 5.0


def seconds_for(case: str, folder: pathlib.Path) -> tuple[float, str]:
    name = "v.tar" if case.startswith("tar") else "v.zip"
    (folder / "far").write_bytes(HOSTILE[case](name))
    started = time.perf_counter()
    try:
        get_file(name, (folder / "far").as_uri(), extract=True, cache_dir=folder / "c", cache_subdir="", progress=False)
        outcome = "unpacked"
    except ArchiveError as error:
        outcome = str(error)[-60:]
    seconds = time.perf_counter() - started
    shutil.rmtree(folder / "c")
    return seconds, outcome


def main() -> None:
    warnings.simplefilter("ignore")
    archive.MAX_MEMBERS = 2_000  # as in the tests, which hold archives with more
    times: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as text:
        for case in sorted(HOSTILE):
            times[case], outcome = seconds_for(case, pathlib.Path(text))
            print(f"{times[case]:7.2f} s  {case}: {outcome}")
    slowest = max(times, key=lambda case: times[case])
    store(
        "hostile_archives",
        [
            figure(
                f"hostile archives refused, of {len(times)}: the slowest", times[slowest], "s", target=TARGET_SECONDS
            ),
        ],
    )
    print(f"slowest: {slowest}; over {TARGET_SECONDS:g} s: {[case for case in times if times[case] > TARGET_SECONDS]}")


if __name__ == "__main__":
    main()
