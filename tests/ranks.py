"""Real ranks: each check runs in gloo processes of its own."""

import datetime
import tempfile
import time

import pytest
import torch
from torch import distributed, multiprocessing

# In torch 2.6 the streams of CPUs know no events.
TORCH_2_6 = not hasattr(torch.cpu.Stream, "record_event")
SHARDS = pytest.mark.skipif(TORCH_2_6, reason="this torch shards on accelerators only")

# On a busy machine gloo's processes now and then do not find each other: no check has begun then.
_NOT_CONNECTED = "Gloo connectFullMesh failed"
_ATTEMPTS = 3


def on_ranks(check, folder, *arguments, world=2):
    """Run `check(rank, *arguments)` on every rank; a failure on one fails here, what this torch lacks is skipped."""
    for attempt in range(_ATTEMPTS):
        store = tempfile.mktemp(prefix="store", dir=folder)
        try:
            multiprocessing.spawn(_on_rank, args=(world, store, check, arguments), nprocs=world)
        except multiprocessing.ProcessRaisedException as error:
            if TORCH_2_6 and "on CPUs needs a newer torch" in str(error):
                pytest.skip("this torch shards on accelerators only")
            if _NOT_CONNECTED not in str(error) or attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _on_rank(rank, world, store, check, arguments):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=60)
    )
    try:
        check(rank, *arguments)
        distributed.barrier()
        if TORCH_2_6:
            # It holds the interpreter's lock while it waits for gloo's threads, which need it to free a tensor.
            time.sleep(0.5)
    finally:
        distributed.destroy_process_group()


def same_on_all_ranks(tensor):
    everyone = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyone, tensor.contiguous())
    return all(torch.equal(one, everyone[0]) for one in everyone)


def batch(count, seed=1, width=4):
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
