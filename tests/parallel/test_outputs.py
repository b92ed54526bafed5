"""What forwards take and give besides tensors with the batch on axis 0: right as on one device, or refused by name."""

import collections
import copy
import warnings

import pytest
import torch
from torch import nn

from tests.parallel.simulated_devices import SimulatedDevices
from torchkutils import multi_gpu_model

TWO = ["cpu", "cpu"]
Pair = collections.namedtuple("Pair", "a b")


class Calls(nn.Module):
    """A module around a plain function of a linear layer."""

    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(4, 2).double()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(self.linear, *args, **kwargs)


class Recurrent(nn.Module):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.LSTM(3, 5, **options).double()

    def forward(self, x, hidden=None):
        return self.rnn(x, hidden)


def rows(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


# Every size of the batch, so that the pieces are as long as some other axis in one of them.
@pytest.mark.parametrize("batch", range(2, 9))
@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"batch_first": True, "bidirectional": True},
        {"batch_first": True, "num_layers": 2, "bidirectional": True},
    ],
    ids=str,
)
def test_states_of_an_lstm_are_refused_unless_their_axis_is_named(options, batch):
    model = Recurrent(**options)
    x = rows(batch, 6, 3)
    with pytest.raises(
        ValueError, match=r"output\[1\]\[0\] must have its batch along axis 0.*\{'output\[1\]\[0\]': 1\}"
    ):
        multi_gpu_model(model, devices=TWO)(x)
    named = multi_gpu_model(model, devices=TWO, batch_axes={"hidden": 1, "output[1]": 1})
    equal(named(x), model(x))
    equal(named(x, named(x)[1]), model(x, model(x)[1]))


def test_a_batch_that_is_on_axis_1_throughout():
    model = Recurrent()
    parallel = multi_gpu_model(model, devices=["cpu"] * 3, batch_axes={"x": 1, "hidden": 1, "output": 1})
    for batch in (7, 3, 2):
        x = rows(6, batch, 3)
        equal(parallel(x), model(x))
        equal(parallel(x=x, hidden=model(x)[1]), model(x, model(x)[1]))


# A function of the linear layer and a batch, and the words of the refusal; None: as on one device.
OUTPUTS = {
    "as wide as the piece": (lambda linear, x: linear(x), None),
    "a sum over the batch": (lambda linear, x: linear(x).sum(0), "output must have one row a sample"),
    "a mean that keeps the axis": (lambda linear, x: linear(x).mean(0, keepdim=True), "must have one row a sample"),
    "the weights": (lambda linear, x: linear.weight, "output must have one row a sample"),
    "an axis before the batch": (lambda linear, x: linear(x)[None], "must have its batch along axis 0.*axis 1"),
    "pairs of samples": (
        lambda linear, x: linear(x) @ linear(x).T,
        "must have one axis for the batch|one row a sample",
    ),
    "an int": (lambda linear, x: {"count": len(x)}, r"output\['count'\] is a number \(int\).*'sum'"),
    "a float": (lambda linear, x: (x, float(x.sum())), r"output\[1\] is a number \(float\)"),
    "None, text, a bool": (lambda linear, x: (linear(x), None, "text", True), None),
    "a bool that differs": (lambda linear, x: bool(x[0, 0] > 0), "output is a bool that differs between the replicas"),
    "layers in a list": (lambda linear, x: [x, x * 2], None),
    "one tensor a sample": (lambda linear, x: [row[: 1 + (row[0] > 0)] for row in linear(x)], None),
    "one dict a sample": (lambda linear, x: [{"box": row, "label": "cat"} for row in linear(x)], None),
    "one word a sample": (lambda linear, x: [str(float(row[0])) for row in x], None),
    "a list of batches as long as the batch": (lambda linear, x: [x] * len(x), "one structure to be merged|two ways"),
    "a distribution": (
        lambda linear, x: torch.distributions.Normal(linear(x), 1.0),
        "depends on the number|differs between the replicas",
    ),
    "another type in a replica": (lambda linear, x: x if len(x) == 3 else None, "one structure to be merged"),
    "a named tuple": (lambda linear, x: Pair(x, linear(x)), None),
}


@pytest.mark.parametrize("batch", [2, 4, 5, 20])
@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_those_of_one_device_or_refused(name, batch):
    function, refusal = OUTPUTS[name]
    model = Calls(function)
    x = rows(batch, 4)
    x[:, 0] = torch.linspace(-1, 1, batch)
    parallel = multi_gpu_model(model, devices=TWO)
    if name == "another type in a replica" and batch != 5:
        pytest.skip("both pieces are alike")
    if refusal is None:
        ours, theirs = parallel(x), model(x)
        torch.testing.assert_close(_plain(ours), _plain(theirs), rtol=0, atol=1e-12)
        assert type(ours) is type(theirs)
    else:
        with pytest.raises(ValueError, match=refusal):
            parallel(x)


def _plain(value):
    """Text as numbers, for assert_close."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return list(value.encode()) if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("rule", "value"),
    [("sum", 5), ("mean", 2.6), ("first", 3)],
)
def test_numbers_are_merged_as_named(rule, value):
    for axes in ({"count": rule}, {"output['count']": rule}, {"output": rule}):
        parallel = multi_gpu_model(Calls(lambda linear, x: {"count": len(x)}), devices=TWO, batch_axes=axes)
        assert parallel(rows(5, 4))["count"] == pytest.approx(value)
    tensor = multi_gpu_model(
        Calls(lambda linear, x: {"count": torch.tensor(len(x))}), devices=TWO, batch_axes={"count": rule}
    )
    assert float(tensor(rows(5, 4))["count"]) == pytest.approx(value)


def test_an_output_that_was_handed_in_is_passed_on():
    config = object()
    parallel = multi_gpu_model(Calls(lambda linear, x, c, scale: (linear(x), c, scale)), devices=TWO)
    assert parallel(rows(4, 4), config, 2.5)[1:] == (config, 2.5)


class Detector(nn.Module):
    """As torchvision's: images of any size in a list, targets beside them, one dict an image."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, images, targets=None, scale=None):
        return [{"score": (image * self.factor).amax(), "size": list(image.shape)} for image in images]


def test_a_list_of_images():
    model = Detector()
    images = [rows(3, 4, 4 + place) for place in range(5)]
    with pytest.raises(ValueError, match=r"args\[0\] is a list of tensors and no other tensor says.*'list'.*: 0\}"):
        multi_gpu_model(model, devices=TWO)(images)
    parallel = multi_gpu_model(model, devices=TWO, batch_axes={"images": "list", "output": "list"})
    ours, theirs = parallel(images), model(images)
    assert [one["size"] for one in ours] == [one["size"] for one in theirs]
    equal([one["score"] for one in ours], [one["score"] for one in theirs])
    torch.stack([one["score"] for one in ours]).sum().backward()
    assert model.factor.grad is not None


@pytest.mark.parametrize(
    ("arguments", "pieces"),
    [
        ({"names": ["a", "b", "c", "d"]}, [["a", "b"], ["c", "d"]]),
        ({"names": ["a", "b"]}, [["a", "b"], ["a", "b"]]),
        ({"names": ("a", "b", "c", "d")}, [("a", "b", "c", "d")] * 2),
        ({"names": [rows(k, 2) for k in (1, 2, 3, 5)]}, [[(1, 2), (2, 2)], [(3, 2), (5, 2)]]),
        ({"names": [rows(4, 2), rows(4, 3)]}, [[(2, 2), (2, 3)]] * 2),
        (
            {"names": [{"box": rows(k, 4)} for k in (1, 2, 3, 0)]},
            [[{"box": (1, 4)}, {"box": (2, 4)}], [{"box": (3, 4)}, {"box": (0, 4)}]],
        ),
    ],
)
def test_lists_beside_a_tensor(arguments, pieces):
    seen = []
    parallel = multi_gpu_model(Calls(lambda linear, x, names: seen.append(names) or x), devices=TWO, outputs="local")
    parallel(rows(4, 4), **arguments)
    assert [_shapes(one) for one in seen] == pieces


def _shapes(value):
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return {key: _shapes(one) for key, one in value.items()}
    return type(value)(map(_shapes, value)) if isinstance(value, list | tuple) else value


def test_a_list_that_can_be_read_in_two_ways_is_refused():
    parallel = multi_gpu_model(Calls(lambda linear, x, more: x), devices=TWO)
    with pytest.raises(
        ValueError, match=r"args\[1\] can be read in two ways, 2 entries for 2 samples or tensors of 2 r"
    ):
        parallel(rows(2, 4), [rows(2, 3), rows(2, 3)])


@pytest.mark.parametrize(
    ("axes", "error", "words"),
    [
        ([("x", 1)], TypeError, "batch_axes must map names"),
        ({0: 1}, TypeError, "batch_axes must map names"),
        ({"x": -1}, ValueError, "an axis ≥ 0 or one of 'list'.*got -1 for 'x'"),
        ({"x": "rows"}, ValueError, "got 'rows' for 'x'"),
        ({"x": True}, ValueError, "got True for 'x'"),
    ],
)
def test_bad_rules_are_refused(axes, error, words):
    with pytest.raises(error, match=words):
        multi_gpu_model(nn.Linear(2, 2), devices=TWO, batch_axes=axes)


def test_a_named_axis_must_be_there():
    parallel = multi_gpu_model(Calls(lambda linear, x: x), devices=TWO, batch_axes={"x": 2, "args[0]": 2})
    with pytest.raises(ValueError, match=r"got 2 for args\[0\] of shape \(4, 4\)"):
        parallel(rows(4, 4))


class Noting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2).double()
        self.loss, self.maps, self.calls = torch.zeros(()), [], 0

    def forward(self, x):
        y = self.linear(x)
        self.loss = y.square().mean()
        self.maps.append(y)
        return y


def test_one_warning_names_what_forward_writes():
    parallel = multi_gpu_model(Noting(), devices=TWO)
    with pytest.warns(
        UserWarning, match="the forward of Noting writes loss, maps: that stays in the replicas"
    ) as caught:
        [parallel(rows(8, 4)) for _ in range(2)]
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        multi_gpu_model(nn.Sequential(nn.Linear(4, 2).double(), nn.Dropout()), devices=TWO)(rows(8, 4))


@pytest.mark.parametrize("devices", [TWO, ["meta:0", "meta:1"]], ids=str)
def test_a_buffer_that_is_trained_gets_the_gradient_of_the_whole_batch(devices):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("factor", torch.ones(4, dtype=torch.float64).requires_grad_())

        def forward(self, x):
            return x * self.factor

    model = Scaled()
    single = copy.deepcopy(model)
    with SimulatedDevices():
        multi_gpu_model(model, devices=devices)(rows(8, 4)).square().sum().backward()
    single(rows(8, 4)).square().sum().backward()
    equal(model.factor.grad, single.factor.grad)


@pytest.mark.parametrize("name", ["register_buffer", "register_parameter", "add_module", "register_module"])
def test_what_is_registered_on_the_wrapper_goes_to_the_template(name):
    model = nn.Sequential(nn.Linear(2, 2))
    value = {"register_buffer": torch.ones(1), "register_parameter": nn.Parameter(torch.ones(1))}.get(name, nn.ReLU())
    getattr(multi_gpu_model(model, devices=TWO), name)("added", value)
    assert model.added is value


def test_module_is_the_template_and_apply_reaches_it():
    model = nn.Sequential(nn.Linear(2, 2))
    parallel = multi_gpu_model(model, devices=TWO)
    assert parallel.module is parallel.template is parallel.__template__ is model
    seen = []
    assert parallel.apply(seen.append) is parallel
    assert seen == [model[0], model]
    parallel.training = False
    assert not model.training
    with pytest.raises(ValueError, match="options must be None under 'replicate'"):
        multi_gpu_model(model, devices=TWO, options={"find_unused_parameters": True})
