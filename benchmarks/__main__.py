"""Run benchmarks, each in a process of its own, then draw docs/benchmarks.md: `python -m benchmarks [subject …]`."""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import time

from benchmarks import make_page

FOLDER = pathlib.Path(__file__).parent


def main() -> int:
    known = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("subjects", nargs="*", metavar="subject", help=f"any of {', '.join(known)}; none: all")
    subjects = parser.parse_args().subjects or known
    if unknown := sorted(set(subjects) - set(known)):
        parser.error(f"no benchmarks/bench_{unknown[0]}.py; there are {', '.join(known)}")
    failed, begin = [], time.perf_counter()
    for subject in subjects:
        print(f"== {subject}", flush=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.bench_{subject}"], cwd=FOLDER.parent)
        print(f"-- {subject}: {time.perf_counter() - start:.0f} s", flush=True)
        if done.returncode:
            failed.append(subject)
    make_page.write()
    print(f"{len(subjects)} subjects in {(time.perf_counter() - begin) / 60:.1f} minutes; docs/benchmarks.md is drawn")
    if failed:
        print(f"failed, their stored results are as before: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
