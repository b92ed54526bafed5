"""Run the tests of this folder where there is a GPU, and write what they found: `python -m tests.gpu`."""

import sys

import pytest
import torch

from benchmarks._harness import store


class Outcomes:
    """Collects the outcome of every test."""

    def __init__(self):
        self.rows = []

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
            self.rows.append({"question": report.nodeid, "outcome": report.outcome, "seconds": report.duration})


def main():
    if not torch.cuda.is_available():
        print("no GPU here: nothing was run, and nothing is claimed")
        return 0
    outcomes = Outcomes()
    code = pytest.main(["-q", "-m", "gpu", "tests/gpu", *sys.argv[1:]], plugins=[outcomes])
    card = torch.cuda.get_device_name(0)
    store("gpu_tests", [{"question": "card", "name": card, "count": torch.cuda.device_count()}, *outcomes.rows])
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
