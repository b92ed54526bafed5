"""Run the tests of this folder where there is a GPU, and write what they found: `python -m tests.gpu`."""

import sys

import pytest
import torch

from benchmarks._harness import store


class Outcomes:
    """Collects the outcome of every test, and writes them down after each: a fault in CUDA may end the process."""

    def __init__(self):
        cards = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
        self.rows = [{"question": "cards", "names": cards, "count": len(cards)}]

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            row = {"question": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
            self.rows.append(row | ({"error": report.longreprtext[-2000:]} if report.outcome == "failed" else {}))
            store("gpu_tests", self.rows)


def main():
    if not torch.cuda.is_available():
        print("no GPU here: nothing was run, and nothing is claimed")
        return 0
    return int(pytest.main(["-q", "-m", "gpu", "tests/gpu", *sys.argv[1:]], plugins=[Outcomes()]))


if __name__ == "__main__":
    sys.exit(main())
