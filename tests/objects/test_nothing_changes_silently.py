"""What forward can see is compared by value: a model comes back equal, or is refused before a byte is written."""

from __future__ import annotations

import functools
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchkutils import load_model, load_weights, register_keras_serializable, save_model, save_weights

known = register_keras_serializable("Silent")


class Scale:
    __slots__ = ("by",)

    def __init__(self, by):
        self.by = by


class Options:
    def __init__(self):
        self.gain = 1.0


class Helper(nn.Module):
    def __init__(self):
        super().__init__()
        self.t, self.act = 1.0, torch.relu

    def forward(self, x):
        return self.act(x) / self.t


@known
class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.helper, self.layer = Helper(), nn.Linear(2, 2)
        self.slots, self.options, self.array = Scale(1.0), Options(), np.ones(2)
        self.register_buffer("table", torch.ones(2), persistent=False)
        self.plain = torch.ones(2)
        self.numbers = {"a": [1.0]}
        self.set_scale(1.0)
        self.partial = functools.partial(torch.mul, other=torch.ones(2))
        self.default = self.made_default(1.0)
        self.bound = Options().__init__
        self.hook = self.layer.register_forward_hook(lambda module, args, output: output + 1)

    def set_scale(self, scale):
        self.act = lambda x: x * scale

    @staticmethod
    def made_default(value):
        def function(x, by=value):
            return x * by

        return function

    def forward(self, x):
        x = self.helper(self.layer(x)) * self.slots.by * self.options.gain
        x = x * self.table * self.plain * self.numbers["a"][0] + torch.from_numpy(self.array).float()
        return self.default(self.partial(self.act(x)))


def set_at(path, value):
    def change(model):
        owner, _, name = path.rpartition(".")
        target = functools.reduce(getattr, owner.split("."), model) if owner else model
        setattr(target, name, value)

    return change


def exchange_hook(model):
    model.hook.remove()
    model.layer.register_forward_hook(lambda module, args, output: output - 1)


CHANGES = {
    "nothing": lambda model: None,
    "helper's attribute": set_at("helper.t", 4.0),
    "helper's function": set_at("helper.act", torch.tanh),
    "helper's lambda": set_at("helper.act", lambda x: x + 3),
    "helper's forward": lambda m: setattr(m.helper, "forward", types.MethodType(lambda self, x: x, m.helper)),
    "forward": lambda m: setattr(m, "forward", lambda x: x),
    "slots": set_at("slots", Scale(2.0)),
    "slots in place": set_at("slots.by", 2.0),
    "object": set_at("options.gain", 3.0),
    "array": lambda m: m.array.__setitem__(0, 5.0),
    "buffer outside the state dict": lambda m: m.table.fill_(2.0),
    "plain tensor": lambda m: m.plain.mul_(3.0),
    "nested number": lambda m: m.numbers["a"].__setitem__(0, 9.0),
    "closure": lambda m: m.set_scale(3.0),
    "partial": set_at("partial", functools.partial(torch.mul, other=torch.full((2,), 3.0))),
    "default": lambda m: setattr(m, "default", m.made_default(7.0)),
    "hook": exchange_hook,
    "hook added": lambda m: m.helper.register_forward_pre_hook(lambda module, args: (args[0] * 2,)),
    "child": set_at("helper", nn.Tanh()),
    "class attribute": set_at("dump_patches", True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_model_comes_back_equal_or_is_refused(name, tmp_path):
    model = Everything()
    CHANGES[name](model)
    path, data = tmp_path / "m.h5", torch.tensor([[0.5, -2.0]])
    wanted = model(data)
    try:
        save_model(model, path)
    except ValueError as error:
        assert name != "nothing"
        assert not path.exists()
        assert "the model" in str(error) or str(error).startswith(("helper", "layer"))  # noqa: PT017
    else:
        assert torch.equal(load_model(path)(data), wanted)


@known
class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(2, 2)]


@known
class Renamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self._register_state_dict_hook(
            lambda module, state, prefix, _: (
                [state.__setitem__(key[6:], state.pop(key)) for key in list(state)] and None
            )
        )

    def state_dict(self, *args, **kwargs):
        return {key: value for key, value in super().state_dict(*args, **kwargs).items() if "bias" in key}


@known
class Seeded(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.seed = seed


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


def nested_modules(levels):
    model = nn.ReLU()
    for _ in range(levels):
        model = nn.Sequential(model)
    return model


@pytest.mark.parametrize(
    ("make", "keywords", "message"),
    [
        (Listed, {}, "keep the modules in an nn.ModuleList"),
        (lambda: Seeded(0xDEADBEEF), {}, "within ±2"),
        (lambda: Seeded("x" * (1 << 20)), {}, "the architecture must be at most"),
        (nn.ReLU, {"metadata": "x" * (70 << 20)}, "the metadata must be at most"),
        (nn.ReLU, {"metadata": nested(500)}, "at most 100 levels"),
        (nn.ReLU, {"metadata": nested(5000)}, "at most 100 levels"),
        (lambda: Seeded(nested(200)), {}, "at most 100 levels"),
        (nn.ReLU, {"metadata": [[] for _ in range(600_000)]}, "must hold fewer values"),
        (nn.ReLU, {"metadata": torch.zeros(1 << 20)}, "at most 1 MiB together"),
        (nn.ReLU, {"metadata": {"x": object()}}, r"metadata\['x'\] must be a plain value"),
        (lambda: Seeded(np.zeros(1 << 20)), {}, "make it a buffer"),
        (lambda: nested_modules(400), {}, "at most 100 levels"),
    ],
)
def test_what_a_reader_would_refuse_is_refused_before_it_is_written(make, keywords, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_model(make(), tmp_path / "m.h5", **keywords)
    assert not list(tmp_path.iterdir())


def test_text_with_lone_surrogates_comes_back(tmp_path):
    save_model(Seeded("a\ud800"), tmp_path / "m.h5")
    assert load_model(tmp_path / "m.h5").seed == "a\ud800"


def test_renamed_and_left_out_keys_do_not_matter_for_a_model(tmp_path):
    model = Renamed()
    save_model(model, tmp_path / "m.h5")
    assert torch.equal(load_model(tmp_path / "m.h5").inner.weight, model.inner.weight)


def test_views_of_one_memory_are_views_again(tmp_path):
    model = nn.ModuleDict({"encode": nn.Linear(4, 2, bias=False), "decode": nn.Linear(2, 4, bias=False)})
    model["decode"].weight.data = model["encode"].weight.data.t()
    save_model(model, tmp_path / "m.h5")
    again = load_model(tmp_path / "m.h5")
    again["encode"].weight.data.fill_(3.0)
    assert bool((again["decode"].weight == 3).all())
    assert again["encode"].weight is not again["decode"].weight


def test_one_warning_lists_what_is_not_stored(tmp_path):
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last, self.calls = nn.Linear(2, 2), None, 0

        def forward(self, x):
            self.last, self.seen, self.calls = self.layer(x), x, self.calls + 1
            return self.last

    known(Running)
    model = Running()
    model(torch.ones(1, 2))
    with pytest.warns(UserWarning, match=r"did not make it: seen.*constructor makes: last") as found:
        save_model(model, tmp_path / "m.h5")
    assert len(found) == 1
    assert found[0].filename == __file__
    again = load_model(tmp_path / "m.h5")
    assert (again.last, again.calls) == (None, 1)


# -- load_weights: everything is checked before the first value is changed ---------------------------------------------


def expanded():
    model = nn.Linear(2, 3)
    model.bias = nn.Parameter(torch.ones(1).expand(3))
    return model


@pytest.mark.parametrize(
    ("model", "keywords", "message"),
    [
        (expanded, {}, "'bias' is expanded"),
        (lambda: nn.LazyLinear(3), {}, "'weight' has no shape yet; call the model once"),
        (lambda: nn.Linear(2, 4), {}, "skip_mismatch=True"),
        (lambda: nn.Linear(2, 4), {"strict": False}, "must have shape"),
        (lambda: nn.Sequential(nn.Linear(2, 3)), {}, "strict=False"),
        (lambda: nn.Sequential(nn.Linear(2, 3)), {"skip_mismatch": True}, "strict=False"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(model, keywords, message, tmp_path):
    save_weights(nn.Linear(2, 3), tmp_path / "w.h5")
    target = model()
    before = {key: value.clone() for key, value in target.state_dict().items() if not is_lazy(value)}
    with pytest.raises(ValueError, match=message):
        load_weights(target, tmp_path / "w.h5", **keywords)
    assert all(torch.equal(target.state_dict()[key], value) for key, value in before.items())


def test_load_weights_says_what_it_did_not_read(tmp_path):
    save_weights(nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(2, 2)}), tmp_path / "w.h5")
    model = nn.ModuleDict({"a": nn.Linear(2, 4), "b": nn.Linear(2, 2), "c": nn.ReLU(), "d": nn.PReLU()})
    found = load_weights(model, tmp_path / "w.h5", strict=False, skip_mismatch=True)
    assert found == (["d.weight"], [], ["a.weight", "a.bias"])
    with pytest.warns(UserWarning, match="read nothing"):
        load_weights(nn.Sequential(nn.Linear(2, 2)), tmp_path / "w.h5", strict=False)


def test_a_model_on_the_meta_device_gets_real_tensors(tmp_path):
    source = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    save_weights(source, tmp_path / "w.h5")
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    load_weights(model, tmp_path / "w.h5")
    assert all(map(torch.equal, model.state_dict().values(), source.state_dict().values()))
    assert model[0].weight.requires_grad
