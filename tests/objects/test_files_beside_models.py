"""What else a file holds or gives: several optimizers and schedulers, single tensors, dtypes, devices, maps."""

from __future__ import annotations

import random
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from torchkutils import (
    deserialize_keras_object,
    load_model,
    load_optimizer,
    load_scheduler,
    load_weights,
    open_model_file,
    read_metadata,
    save_model,
    save_weights,
    serialize_keras_object,
)
from torchkutils.objects.describe import describe_model_file

Score = namedtuple("Score", "name value")
Schedule = torch.optim.lr_scheduler


def test_several_optimizers_and_schedulers_stand_in_one_file(tmp_path):
    model = nn.ModuleDict({"g": nn.Linear(2, 2), "d": nn.Linear(2, 2)})
    optimizers = {key: torch.optim.Adam(one.parameters(), lr=0.1) for key, one in model.items()}
    schedulers = {key: Schedule.StepLR(one, 2, gamma=0.5) for key, one in optimizers.items()}
    for key, one in model.items():
        one(torch.ones(1, 2)).sum().backward()
        optimizers[key].step()
    for _ in range(3):
        schedulers["g"].step()
    save_model(model, tmp_path / "m.h5", optimizer=optimizers, scheduler=schedulers)
    again = load_model(tmp_path / "m.h5")
    for key, one in again.items():
        optimizer = torch.optim.Adam(one.parameters())
        scheduler = Schedule.StepLR(optimizer, 7)
        load_optimizer(tmp_path / "m.h5", optimizer, name=key)
        load_scheduler(tmp_path / "m.h5", scheduler, name=key)
        assert optimizer.param_groups[0]["lr"] == optimizers[key].param_groups[0]["lr"]
        assert scheduler.state_dict() == schedulers[key].state_dict()
        first = next(iter(optimizer.state.values()))
        assert torch.equal(first["exp_avg"], next(iter(optimizers[key].state.values()))["exp_avg"])
    with pytest.raises(ValueError, match=r"name must be one of \['d', 'g'\]"):
        load_optimizer(tmp_path / "m.h5", optimizer)
    with pytest.raises(ValueError, match="holds no optimizer 'x'"):
        load_optimizer(tmp_path / "m.h5", optimizer, name="x")
    with pytest.raises(ValueError, match="scheduler must be a StepLR"):
        load_scheduler(tmp_path / "m.h5", Schedule.ExponentialLR(optimizer, 0.5), name="g")
    with pytest.raises(TypeError, match="optimizer must be"):
        save_model(model, tmp_path / "m.h5", optimizer={"g": model})


def every_scheduler(optimizer):
    return [
        Schedule.StepLR(optimizer, 3),
        Schedule.MultiStepLR(optimizer, [2, 2, 5]),
        Schedule.OneCycleLR(optimizer, 0.1, total_steps=10),
        Schedule.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
        Schedule.ReduceLROnPlateau(optimizer),
        Schedule.CosineAnnealingWarmRestarts(optimizer, 3),
        Schedule.CyclicLR(optimizer, 0.1, 0.2, cycle_momentum=False),
        Schedule.SequentialLR(optimizer, [Schedule.ConstantLR(optimizer), Schedule.ExponentialLR(optimizer, 0.9)], [2]),
    ]


@pytest.mark.filterwarnings("ignore")
def test_every_scheduler_comes_back(tmp_path):
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    fresh = every_scheduler(torch.optim.SGD(model.parameters(), 0.1))
    for one, other in zip(every_scheduler(optimizer), fresh, strict=True):
        one.step(*([1.0] if isinstance(one, Schedule.ReduceLROnPlateau) else []))
        save_model(model, tmp_path / "m.h5", scheduler=one)
        load_scheduler(tmp_path / "m.h5", other)
        assert str(other.state_dict()) == str(one.state_dict())


def test_metadata_takes_what_a_training_has(tmp_path):
    metadata = {
        "accuracy": np.mean([0.5, 1.0]),
        "n": np.int64(3),
        "loss": torch.tensor(0.5),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "score": Score("f1", 0.5),
        "scores": [Score("f1", torch.tensor([1, 2]))],
    }
    save_model(nn.ReLU(), tmp_path / "m.h5", metadata=metadata)
    found = read_metadata(tmp_path / "m.h5")
    assert (found["accuracy"], found["n"], found["loss"].item()) == (0.75, 3, 0.5)
    assert found["score"] == metadata["score"]
    torch.set_rng_state(found["torch"])
    random.setstate(found["python"])
    np.random.set_state(found["numpy"])
    assert found["scores"][0][1].tolist() == [1, 2]


def test_single_tensors_and_slices_are_read_without_a_model(tmp_path):
    tensors = {"a": torch.arange(24.0).reshape(4, 3, 2), "b": torch.ones(()), "c": torch.zeros(0, 2)}
    tensors |= {f"small{n}": torch.full((3,), n, dtype=torch.bfloat16) for n in range(300)}
    tensors["tied"] = tensors["a"].view(-1)[:6]
    tensors["sparse"] = torch.eye(3).to_sparse()
    save_weights(tensors, tmp_path / "w.h5")
    with open_model_file(tmp_path / "w.h5") as file:
        assert file.keys() == list(tensors)
        assert file.shapes["a"] == (4, 3, 2)
        assert file.dtypes["small7"] == torch.bfloat16
        assert len(file["a"]) == 4
        for key, tensor in tensors.items():
            assert torch.equal(file.read(key).to_dense(), tensor.to_dense())
        for key in (
            0,
            -1,
            slice(1, 3),
            slice(2, 99),
            slice(3, 1),
            (slice(1, 2), 0),
            (1, slice(None), 1),
            slice(None, None, 2),
            ...,
            [0, 2],
        ):
            assert torch.equal(file["a"][key], tensors["a"][key])
        assert torch.equal(file["small7"][1:], tensors["small7"][1:])
        with pytest.raises(KeyError, match="holds no tensor 'x'"):
            file["x"]
    with pytest.raises(ValueError, match="is closed"):
        file.read("a")


def test_a_model_is_loaded_in_another_dtype_and_on_another_device(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    save_model(model, tmp_path / "m.h5")
    again = load_model(tmp_path / "m.h5", dtype="bfloat16")
    assert again[0].weight.dtype == torch.bfloat16
    assert again[1].num_batches_tracked.dtype == torch.int64
    assert torch.equal(again[0].weight, model[0].weight.bfloat16())
    empty = load_model(tmp_path / "m.h5", device="meta")
    assert all(one.is_meta for one in [*empty.parameters(), *empty.buffers()])
    with pytest.raises(ValueError, match="device must be on this machine, got 'cuda:9'"):
        load_model(tmp_path / "m.h5", device="cuda:9")
    with pytest.raises(ValueError, match="device must name a torch device"):
        load_model(tmp_path / "m.h5", device="gpu")
    with pytest.raises(TypeError, match="floating-point"):
        load_model(tmp_path / "m.h5", dtype="int32")


def test_a_mapped_model_is_its_own_and_outlives_the_next_save(tmp_path):
    path = tmp_path / "m.h5"
    model = nn.Sequential(*(nn.Linear(40, 40) for _ in range(3)))
    save_model(model, path)
    mapped = load_model(path, mmap=True)
    before = path.read_bytes()
    with torch.no_grad():
        mapped[0].weight.fill_(2.0)
    assert path.read_bytes() == before
    save_model(nn.Sequential(nn.Linear(40, 40)), path)
    assert torch.equal(mapped[2].weight, model[2].weight)
    mapped(torch.ones(1, 40)).sum().backward()


def test_small_tensors_of_one_file_are_independent(tmp_path):
    model = nn.ParameterList([nn.Parameter(torch.ones(3)) for _ in range(300)])
    save_model(model, tmp_path / "m.h5")
    again = load_model(tmp_path / "m.h5")
    product = (again[0] * again[1]).sum()
    with torch.no_grad():
        again[2].add_(1)
    product.backward()
    assert again[2].untyped_storage().nbytes() == 12


def test_a_url_is_refused_before_anything_happens(tmp_path):
    with pytest.raises(ValueError, match="path must be local"):
        save_model(nn.ReLU(), "memory://models/m.h5")


def test_compiled_children_have_plain_keys(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    compiled = nn.Sequential(torch.compile(model[0], backend="eager"), nn.ReLU())
    save_weights(compiled, tmp_path / "w.h5")
    with open_model_file(tmp_path / "w.h5") as file:
        assert file.keys() == ["0.weight", "0.bias"]
    other = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    load_weights(other, tmp_path / "w.h5")
    load_weights(compiled, tmp_path / "w.h5")
    assert torch.equal(other[0].weight, model[0].weight)


class Wrapper(nn.Module):
    def __init__(self, inner, weight):
        super().__init__()
        self.inner, self.weight = inner, weight

    def get_config(self):
        return {"inner": self.inner, "weight": self.weight}


def test_modules_and_tensors_in_a_config_are_written_as_plain_values():
    import json

    wrapper = Wrapper(nn.Linear(2, 3), torch.ones(2))
    text = json.dumps(serialize_keras_object(wrapper))
    again = deserialize_keras_object(json.loads(text), custom_objects={"Wrapper": Wrapper})
    assert again.inner.out_features == 3
    assert torch.equal(again.weight, torch.ones(2))


class WithNames(nn.Module):
    @classmethod
    def from_config(cls, config, custom_objects=None):
        made = cls()
        made.names = custom_objects
        return made

    def get_config(self):
        return {}


def test_from_config_gets_the_visible_names():
    built = deserialize_keras_object({"class_name": "WithNames", "config": {}}, custom_objects={"WithNames": WithNames})
    assert built.names["WithNames"] is WithNames


def test_a_description_tells_edits_views_and_several_states(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False))
    model[1].weight.data = model[0].weight.data.t()
    model[0] = nn.utils.parametrizations.weight_norm(model[0])
    optimizers = {"a": torch.optim.SGD(model[0].parameters(), 0.1), "b": torch.optim.Adam(model[1].parameters())}
    scheduler = Schedule.StepLR(optimizers["a"], 2)
    save_model(model, tmp_path / "m.h5", optimizer=optimizers, scheduler=scheduler)
    text = describe_model_file(tmp_path / "m.h5")
    for line in ("changed: 0", "parametrized", "Optimizer a: SGD", "Optimizer b: Adam", "Scheduler: StepLR"):
        assert line in text
