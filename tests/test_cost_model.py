"""The cost model counts what it says, and its page holds what it prints."""

from __future__ import annotations

import pathlib

import pytest

pytest.importorskip("benchmarks.cost_model", reason="the benchmarks lie beside the sources, not in the wheel")

from benchmarks import cost_model
from benchmarks.counted_copies import counted

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize("sharded_loss", [False, True])
def test_the_counted_copies_follow_the_formulas(devices: int, sharded_loss: bool) -> None:
    traffic, copies = counted(devices, sharded_loss=sharded_loss)
    for phase in ("forward", "backward"):
        sent = sum(part for key, part in traffic.items() if key[:2] == (phase, "weights"))
        assert sent == pytest.approx(devices - 1)
        # Gradients to three devices and more are summed in parts, one on each device, before they come together.
        in_parts = phase == "backward" and devices > 3
        assert copies[phase, "weights"] == (devices - 1) ** (2 if in_parts else 1)
    for kind, phases in (
        ("inputs", ["forward"]),
        ("outputs", ["forward"] if sharded_loss else ["forward", "backward"]),
    ):
        sent_in = [sum(part for key, part in traffic.items() if key[:2] == (phase, kind)) for phase in phases]
        assert sent_in == pytest.approx([1.0] * len(phases))
    if sharded_loss:
        assert not any(key[:2] == ("backward", "outputs") for key in traffic)


def test_more_devices_never_take_less_time_for_the_same_batch_each() -> None:
    for job in cost_model.JOBS:
        for machine in cost_model.MACHINES:
            for seconds in (cost_model.replicate_seconds, cost_model.ddp_seconds, cost_model.fsdp_seconds):
                times = [seconds(job, machine, devices) for devices in (1, 2, 4, 8)]
                assert times == sorted(times)
                assert times[0] >= job.flops / machine.flops * (1 - 1e-9)


def test_the_page_holds_what_the_program_prints() -> None:
    page = (ROOT / "docs" / "cost-model.md").read_text(encoding="utf-8")
    tables = page.partition(cost_model.MARKS[0])[2].partition(cost_model.MARKS[1])[0]
    assert tables.strip() == cost_model.page().strip()
