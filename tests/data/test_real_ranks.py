"""Data shared by real gloo ranks: each row or batch once, equal lengths, and resuming on another number of ranks."""

import json
import os

import h5py
import numpy as np
import pytest
from torch import distributed
from torch.utils.data import DataLoader

from tests.data import sequences as kinds
from tests.ranks import on_ranks
from torchkutils import ChunkShuffleSampler, HDF5Matrix

pytestmark = pytest.mark.slow

ROWS = 101


def _of_everyone(mine):
    everyone = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, mine)
    return everyone


def _joined(parts):
    return [one for part in parts for one in part]


def _rows_are_shared(rank, path):
    rows = HDF5Matrix(path, "x", start=1)
    for shard, workers in (("uneven", 0), ("uneven", 2), ("pad", 0), ("drop", 0)):
        sampler = ChunkShuffleSampler(rows, buffer_chunks=3, world_size="auto", shard=shard)
        sampler.set_epoch(1)
        loader = DataLoader(rows, batch_size=8, sampler=sampler, num_workers=workers)
        parts = _of_everyone([int(value) for batch in loader for value in batch])
        values = sorted(_joined(parts))
        assert parts[0] != parts[1]
        if shard == "uneven":
            assert values == list(range(1, ROWS))
        else:
            assert len({len(part) for part in parts}) == 1
            assert len(parts[0]) == len(sampler)
            assert set(values) <= set(range(1, ROWS))
        if shard == "pad":
            assert set(values) == set(range(1, ROWS))


def _batches_are_shared(rank):
    for shard, workers in (("uneven", 0), ("pad", 2), ("drop", 0)):
        loader = kinds.Numbers(7).loader(world_size="auto", shard=shard, shuffle=True, num_workers=workers)
        for _ in range(2):
            parts = _of_everyone(list(loader))
            taken = _joined(parts)
            lengths = {"uneven": [4, 3], "pad": [4, 4], "drop": [3, 3]}[shard]
            assert [len(part) for part in parts] == lengths
            assert len(set(taken)) == min(7, sum(lengths))


def _a_new_seed_is_agreed_on(rank):
    orders = []
    for _ in range(2):
        # Made before it is known which ranks there are, for all that it knows.
        loader = kinds.Numbers(40).loader(world_size="auto", shuffle=True, seed=None)
        parts = _of_everyone(list(loader))
        assert sorted(_joined(parts)) == list(range(40))
        seeds = _of_everyone(loader.state_dict()["seed"])
        assert seeds == [seeds[0]] * len(seeds)
        orders.append(parts[0])
    assert orders[0] != orders[1]
    alone = kinds.Numbers(4).loader()
    with pytest.warns(UserWarning, match="every one of the 2 ranks reads all batches of Numbers"):
        assert list(alone) == list(range(4))
    assert list(alone) == list(range(4))


def _accelerate_shares(rank):
    import accelerate

    from torchkutils.integrations.accelerate import prepare

    # What torchrun would say.
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    accelerator = accelerate.Accelerator(cpu=True)
    assert (accelerator.process_index, accelerator.num_processes) == (rank, 2)
    with pytest.warns(UserWarning, match=r"every one of the 2 ranks .*accelerate\.prepare\(accelerator, loader\)"):
        assert list(accelerator.prepare(kinds.Numbers(7).loader())) == list(range(7))
    loader = prepare(accelerator, kinds.Numbers(7).loader(num_workers=1, shuffle=True))
    for _ in range(2):
        parts = _of_everyone(list(loader))
        assert [len(part) for part in parts] == [len(loader)] * 2 == [4, 4]
        assert set(_joined(parts)) == set(range(7))


def _take(rank, folder, shuffle):
    """Two batches on each rank, then the state goes into a file, as save_model's metadata would."""
    loader = kinds.Numbers(23).loader(world_size="auto", shard="uneven", shuffle=shuffle, seed=3)
    epoch = iter(loader)
    taken = _of_everyone([next(epoch), next(epoch)])
    states = _of_everyone(loader.state_dict())
    assert all(state == states[0] for state in states)
    if rank == 0:
        folder.joinpath("state.json").write_text(json.dumps({"taken": _joined(taken), "loader": states[0]}))


def _resume(rank, folder, shuffle):
    stored = json.loads(folder.joinpath("state.json").read_text())
    loader = kinds.Numbers(23).loader(world_size="auto", shard="uneven", shuffle=shuffle)
    loader.load_state_dict(stored["loader"])
    rest = _joined(_of_everyone(list(loader)))
    assert sorted(stored["taken"] + rest) == list(range(23))
    # The next epoch is whole again, in the order that follows from seed and number.
    following = sorted(_joined(_of_everyone(list(loader))))
    assert following == list(range(23))
    with pytest.raises(ValueError, match="taken within an epoch of 23 batches; this Sequence has 22"):
        kinds.Numbers(22).loader(world_size="auto", shard="uneven", shuffle=shuffle).load_state_dict(stored["loader"])
    with pytest.raises(ValueError, match="the state was taken with shard='uneven'"):
        kinds.Numbers(23).loader(world_size="auto", shuffle=shuffle).load_state_dict(stored["loader"])


def test_each_rank_opens_the_file_and_rows_are_shared(tmp_path):
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file.create_dataset("x", data=np.arange(ROWS), chunks=(7,), compression="gzip")
    on_ranks(_rows_are_shared, tmp_path, tmp_path / "rows.h5")


def test_batches_are_shared(tmp_path):
    on_ranks(_batches_are_shared, tmp_path)


def test_a_new_seed_is_agreed_on(tmp_path):
    on_ranks(_a_new_seed_is_agreed_on, tmp_path)


def test_accelerate_shares_a_prepared_loader_and_says_what_shares_another(tmp_path):
    pytest.importorskip("accelerate")
    on_ranks(_accelerate_shares, tmp_path)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_training_resumes_on_another_number_of_ranks(shuffle, tmp_path):
    on_ranks(_take, tmp_path, tmp_path, shuffle)
    on_ranks(_resume, tmp_path, tmp_path, shuffle, world=3)
    on_ranks(_resume, tmp_path, tmp_path, shuffle, world=1)
