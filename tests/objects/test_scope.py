"""Scopes, registry and lookup order under threads, tasks, re-entrance and exceptions."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from torchkutils import (
    CustomObjectScope,
    custom_object_scope,
    deserialize_keras_object,
    get_custom_objects,
    get_registered_name,
    get_registered_object,
    load_model,
    register_keras_serializable,
    save_model,
    serialize_keras_object,
)
from torchkutils.objects import registry


@pytest.fixture(autouse=True)
def nothing_leaks():
    before = dict(get_custom_objects())
    yield
    assert dict(get_custom_objects()) == before


def test_a_scope_merges_and_restores_direct_edits_too():
    with custom_object_scope({"a": 1}, {"a": 2, "b": 3}):
        with custom_object_scope({"c": 4}):
            assert dict(get_custom_objects()) == {"a": 2, "b": 3, "c": 4}
            get_custom_objects()["a"] = 9
            del get_custom_objects()["b"]
        assert dict(get_custom_objects()) == {"a": 2, "b": 3}


def test_one_instance_may_be_entered_inside_itself_and_left_by_an_exception():
    scope = CustomObjectScope({"a": 1})
    with pytest.raises(KeyError, match="x"), scope, scope:
        raise KeyError("x")
    assert "a" not in get_custom_objects()


@pytest.mark.parametrize("bad", [3, [("a", 1)], {1: 2}, None])
def test_a_bad_argument_leaks_nothing(bad):
    with pytest.raises(TypeError, match="custom_objects"):
        CustomObjectScope({"a": 1}, bad)


def test_overlapping_threads_do_not_see_each_other():
    barrier, seen = threading.Barrier(2), {}

    def work(name):
        with custom_object_scope({name: name}):
            barrier.wait(30)
            seen[name] = dict(get_custom_objects())
            barrier.wait(30)

    threads = [threading.Thread(target=work, args=(name,)) for name in "mn"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"m": {"m": "m"}, "n": {"n": "n"}}


def test_a_task_inherits_its_parents_scope_and_edits_only_its_own():
    async def child():
        assert get_custom_objects()["a"] == 1
        get_custom_objects()["b"] = 2

    async def parent():
        with custom_object_scope({"a": 1}):
            await asyncio.gather(child(), child())
            assert "b" not in get_custom_objects()

    asyncio.run(parent())


def test_a_registration_inside_a_scope_survives_it_and_names_cannot_be_taken():
    with custom_object_scope({}):

        @register_keras_serializable("Tests", "kept")
        def one():
            return 1

    assert get_registered_object("Tests>kept") is one
    assert get_registered_name(one) == "Tests>kept"
    with pytest.raises(ValueError, match="already registered"):
        register_keras_serializable("Tests", "kept")(lambda: 2)


def test_the_lookup_order_is_argument_scope_modules_built_ins():
    assert get_registered_object("relu") is torch.nn.functional.relu
    assert get_registered_object("relu", None, {"relu": 1}) == 1
    with custom_object_scope({"relu": 2}):
        assert get_registered_object("relu", None, {"relu": 1}) == 2
        assert deserialize_keras_object("relu", custom_objects={"relu": 3}) == 3


def test_an_unknown_name_says_what_was_meant():
    with (
        custom_object_scope({"mae_loss": print}),
        pytest.raises(ValueError, match=r"Unknown loss: 'mae_los'\. Did you mean 'mae_loss'\?"),
    ):
        deserialize_keras_object("mae_los", printable_module_name="loss")


@pytest.mark.parametrize("bad", [{}, {"class_name": "Linear"}, {"class_name": "relu", "config": {}}, 3, {"config": {}}])
def test_a_malformed_config_is_refused(bad):
    with pytest.raises(ValueError, match="class_name"):
        deserialize_keras_object(bad)


def test_none_and_modules_round_trip():
    assert serialize_keras_object(None) is None
    assert deserialize_keras_object(None) is None
    for function in (torch.nn.functional.relu, torch.relu, len):
        assert deserialize_keras_object(function) is function
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))
    again = deserialize_keras_object(serialize_keras_object(loss))
    assert torch.equal(again.weight, loss.weight)


# -- names as Keras 3 writes them --------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    """Rebuilt from its config, as a layer of Keras is."""

    def __init__(self, units):
        super().__init__()
        self.units = units

    def get_config(self):
        return {"units": self.units}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def double(x):
    return 2 * x


@pytest.fixture
def registered(monkeypatch):
    """Both registered in the package Custom; forgotten afterwards."""
    monkeypatch.setattr(registry, "_by_name", dict(registry._by_name))
    monkeypatch.setattr(registry, "_names", dict(registry._names))
    register_keras_serializable()(Net)
    register_keras_serializable("shop")(double)


WRITTEN_BY_KERAS_3 = {"module": None, "class_name": "Net", "config": {"units": 3}, "registered_name": "Custom>Net"}


def test_a_registered_name_has_its_package_as_in_keras_3(registered):
    assert get_registered_object("Custom>Net") is Net
    assert get_registered_object("Net") is None
    assert deserialize_keras_object("shop>double") is double
    assert serialize_keras_object(Net(2)) == {"class_name": "Custom>Net", "config": {"units": 2}}
    for config in (WRITTEN_BY_KERAS_3, serialize_keras_object(Net(3))):
        assert deserialize_keras_object(config).units == 3
    function = {"module": "builtins", "class_name": "function", "config": "shop>double", "registered_name": "function"}
    assert deserialize_keras_object(function) is double


@pytest.mark.parametrize("name", ["Custom>Net", "Net"])
def test_what_keras_3_wrote_is_found_by_either_name_that_is_given(name):
    assert deserialize_keras_object(WRITTEN_BY_KERAS_3, custom_objects={name: Net}).units == 3
    with custom_object_scope({name: Net}):
        assert deserialize_keras_object(WRITTEN_BY_KERAS_3).units == 3
        assert get_registered_object(name) is Net


def test_a_name_without_or_with_another_package_leads_to_the_right_one(registered):
    for name, meant in (("Net", "Custom>Net"), ("other>Net", "Custom>Net"), ("double", "shop>double")):
        with pytest.raises(ValueError, match=f"Unknown object: '{name}'. Did you mean '{meant}'?"):
            deserialize_keras_object(name)


@pytest.mark.parametrize("given", ["argument", "scope"])
def test_a_file_of_a_registered_class_is_read_where_its_whole_name_is_given(given, tmp_path, registered, monkeypatch):
    save_model(torch.nn.Sequential(Net(5)), tmp_path / "net.h5")
    monkeypatch.setattr(registry, "_by_name", {})
    with pytest.raises(ValueError, match=r"net\.h5.*Unknown module class: 'Custom>Net'.*custom_objects"):
        load_model(tmp_path / "net.h5")
    names = {"Custom>Net": Net}
    if given == "argument":
        assert load_model(tmp_path / "net.h5", custom_objects=names)[0].units == 5
    else:
        with custom_object_scope(names):
            assert load_model(tmp_path / "net.h5")[0].units == 5


@pytest.mark.parametrize("visible", [{}, {"double": double}])
def test_from_config_gets_a_dict_of_what_is_visible_and_never_none(visible):
    class Asking:
        @classmethod
        def from_config(cls, config, custom_objects=None):
            return config, custom_objects

    found = []
    with custom_object_scope(visible):
        found.append(deserialize_keras_object({"class_name": "Asking", "config": {}}, {"Asking": Asking}))
        found.append(deserialize_keras_object({"class_name": "Asking", "config": {}}, None, {"Asking": Asking}))
    for config, names in found:
        assert (config, type(names)) == ({}, dict)
        assert {name: names[name] for name in visible} == visible
