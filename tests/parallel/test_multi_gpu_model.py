"""multi_gpu_model on one process: arguments, equality with the single device, the template stays the model."""

import collections
import copy
import dataclasses
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from torchkutils import multi_gpu_model

TWO = ["cpu", "cpu"]
Pair = collections.namedtuple("Pair", "first second")


@dataclasses.dataclass
class Batch:
    image: torch.Tensor
    scale: float


def network(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def rows(count=7, width=4):
    torch.manual_seed(1)
    return torch.randn(count, width, dtype=torch.float64)


class Calls(nn.Module):
    """A module around a plain function of a linear layer."""

    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(4, 4).double()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(self.linear, *args, **kwargs)


@pytest.mark.parametrize("gpus", [1, -1, True, [0], [], (3,), 2.0, "2"])
def test_too_few_gpus_are_refused_in_the_words_of_keras(gpus):
    with pytest.raises(ValueError, match="For multi-gpu usage to be effective"):
        multi_gpu_model(network(), gpus)


@pytest.mark.parametrize("gpus", [512, [0, 511], [-1, 0]])
def test_missing_gpus_are_refused_in_the_words_of_keras(gpus):
    with pytest.raises(ValueError, match=r"we expect the following devices to be available: .*'cpu'.*Try reducing"):
        multi_gpu_model(network(), gpus)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"devices": []}, ValueError, "at least one device"),
        ({"devices": "cpu"}, TypeError, "list of devices"),
        ({"devices": ["cpu", "cuda:99"]}, ValueError, "must exist on this machine, got 'cuda:99'"),
        ({"devices": ["cpu", "nowhere"]}, ValueError, "must exist on this machine, got 'nowhere'"),
        ({"devices": TWO, "gpus": 2}, ValueError, "give one of them"),
        ({"devices": TWO, "strategy": "horovod"}, ValueError, "strategy must be one of .*'horovod'"),
        ({"devices": TWO, "outputs": "none"}, ValueError, "outputs must be one of"),
        ({"devices": TWO, "split": "odd"}, ValueError, "split must be one of"),
        ({"devices": TWO, "buffers": "last"}, ValueError, "buffers must be one of"),
        ({"devices": TWO, "launch": "fast"}, ValueError, "launch must be one of"),
        ({"devices": TWO, "shared": ("mask",)}, ValueError, "got 'mask'"),
        ({"devices": TWO, "shared": "input"}, TypeError, "sequence of argument names"),
    ],
)
def test_a_bad_argument_is_named_before_anything_is_moved(options, error, words):
    with pytest.raises(error, match=words):
        multi_gpu_model(network(), **{"cpu_relocation": True, **options})


def test_only_modules_are_taken():
    with pytest.raises(TypeError, match=r"torch.nn.Module, got function"):
        multi_gpu_model(lambda x: x, devices=TWO)
    with pytest.raises(ValueError, match="multi-GPU model already"):
        multi_gpu_model(multi_gpu_model(network(), devices=TWO), devices=TWO)
    with pytest.raises(ValueError, match="lazy parameter weight"):
        multi_gpu_model(nn.LazyLinear(3), devices=TWO)


def test_a_model_on_several_devices_is_refused_unless_it_is_relocated():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match=r"must lie on one device, got 0.bias on cpu, 1.bias on meta"):
        multi_gpu_model(model, devices=TWO)


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        ((torch.ones(3, 4), torch.ones(2, 4)), ValueError, r"same length along axis 0, got args\[0\]: 3, args\[1\]: 2"),
        ((torch.ones(0, 4),), ValueError, "length 0 along axis 0"),
        ((3, "a"), ValueError, "must hold a tensor with a batch axis"),
        ((np.ones((3, 4)),), TypeError, r"args\[0\] is a NumPy array"),
        (({"x": [torch.ones(3), np.ones(3)]},), TypeError, r"args\[0\]\['x'\]\[1\] is a NumPy array"),
        ((nn.utils.rnn.pack_sequence([torch.ones(2)]),), TypeError, "PackedSequence"),
    ],
)
def test_a_batch_that_cannot_be_cut_is_refused(args, error, words):
    parallel = multi_gpu_model(Calls(lambda linear, *a: a), devices=TWO)
    with pytest.raises(error, match=words):
        parallel(*args)


@settings(deadline=None, max_examples=30)
@given(batch=st.integers(1, 9), devices=st.integers(1, 5), split=st.sampled_from(["even", "keras"]))
def test_outputs_and_gradients_equal_the_single_device_for_any_split(batch, devices, split):
    template = network()
    single = copy.deepcopy(template)
    parallel = multi_gpu_model(template, devices=["cpu"] * devices, split=split)
    x, y = rows(batch).requires_grad_(), rows(batch).requires_grad_()
    ours, theirs = parallel(x), single(y)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-12)
    for mine, other in zip(template.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("split", "batch", "sizes"),
    [("even", 7, [3, 2, 2]), ("keras", 7, [2, 2, 3]), ("even", 2, [1, 1]), ("keras", 2, [2]), ("keras", 8, [2, 2, 4])],
)
def test_the_plan_cuts_as_said_and_skips_empty_shards(split, batch, sizes):
    parallel = multi_gpu_model(network(), devices=["cpu"] * 3, split=split, outputs="local")
    assert [len(output) for output in parallel(rows(batch))] == sizes


def test_nested_arguments_and_outputs_keep_their_containers():
    def forward(linear, pair, batch, *, more):
        assert isinstance(batch, Batch)
        return {"pair": Pair(linear(pair.first), [pair.second]), "batch": batch, "more": (more["a"], None)}

    parallel = multi_gpu_model(Calls(forward), devices=TWO)
    x = rows(5)
    out = parallel(Pair(x, x + 1), Batch(x, 2.0), more=collections.OrderedDict(a=x * 2))
    torch.testing.assert_close(out["pair"].first, parallel.linear(x))
    assert isinstance(out["pair"], Pair)
    assert torch.equal(out["pair"].second[0], x + 1)
    assert torch.equal(out["batch"].image, x)
    assert out["batch"].scale == 2.0
    assert torch.equal(out["more"][0], x * 2)
    assert out["more"][1] is None


def test_scalars_are_averaged_by_shard_length_and_shared_arguments_stay_whole():
    def forward(linear, x, table, factor):
        assert table.shape == (3, 4)
        return {"mean": (x * factor).mean(), "rows": len(x)}

    class Model(Calls):
        def forward(self, x, table, factor):
            return forward(self.linear, x, table, factor)

    parallel = multi_gpu_model(Model(None), devices=TWO, shared=("table",), batch_axes={"rows": "sum"})
    x = rows(7)
    out = parallel(x, rows(3), factor=torch.tensor(2.0))
    torch.testing.assert_close(out["mean"], (x * 2).mean())
    assert out["rows"] == 7


def test_replicas_that_return_different_structures_cannot_be_merged():
    parallel = multi_gpu_model(Calls(lambda linear, x: [x] * len(x)), devices=TWO)
    with pytest.raises(ValueError, match=r"one structure to be merged.*outputs='local'"):
        parallel(rows(5))


def test_outputs_whose_batch_is_not_on_axis_0_are_refused_by_name():
    parallel = multi_gpu_model(nn.LSTM(4, 5, batch_first=True).double(), devices=TWO)
    with pytest.raises(ValueError, match=r"output\[1\]\[0\] must have its batch along axis 0"):
        parallel(rows(3).unsqueeze(1))


def test_the_template_stays_the_model():
    template = network()
    optimizer = torch.optim.SGD(template.parameters(), lr=0.1)
    parallel = multi_gpu_model(template, devices=TWO)
    assert [id(p) for p in parallel.parameters()] == [id(p) for p in template.parameters()]
    assert list(parallel.state_dict()) == list(template.state_dict())
    assert parallel.__template__ is template
    assert parallel[0] is template[0]
    parallel.note = "kept"
    assert template.note == "kept"
    before = template[0].weight.clone()
    parallel(rows()).sum().backward()
    optimizer.step()
    assert not torch.equal(before, template[0].weight)
    parallel.zero_grad()
    assert template[0].weight.grad is None
    parallel.eval()
    assert not template.training
    assert not template[0].training
    parallel.to(torch.float32)
    assert parallel(rows().float()).dtype == torch.float32
    parallel.load_state_dict(network(5).state_dict())
    torch.testing.assert_close(parallel(rows().float()), network(5, torch.float32)(rows().float()))


def test_pickling_and_copying_give_the_template():
    template = network()
    parallel = multi_gpu_model(template, devices=TWO)
    parallel(rows())
    for twin in (pickle.loads(pickle.dumps(parallel)), copy.deepcopy(parallel)):
        assert type(twin) is nn.Sequential
        assert torch.equal(twin(rows()), template(rows()))


def test_cpu_relocation_keeps_the_parameter_objects():
    template = network()
    kept = list(template.parameters())
    parallel = multi_gpu_model(template, None, True, True, devices=TWO)
    assert all(a is b for a, b in zip(parallel.parameters(), kept, strict=True))


def test_memory_is_freed_with_the_wrapper():
    template = network()
    parallel = multi_gpu_model(template, devices=TWO)
    parallel(rows()).sum().backward()
    replica = weakref.ref(parallel._replicas.replicas[1].module)
    del parallel
    gc.collect()
    assert replica() is None


@pytest.mark.parametrize(("cpu_merge", "target"), [(True, "cpu"), (False, "cpu")])
def test_outputs_are_merged_where_asked(cpu_merge, target):
    parallel = multi_gpu_model(network(), cpu_merge=cpu_merge, devices=TWO)
    assert parallel(rows()).device == torch.device(target)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"devices": TWO}, "gpus and devices must be None under '{}', where LOCAL_RANK decides"),
        ({"gpus": 2}, "gpus and devices must be None under '{}', where LOCAL_RANK decides, got gpus=2"),
        ({"launch": "threads"}, "launch must be 'auto' under '{}', where each rank has one replica"),
        ({"cpu_relocation": True}, "cpu_relocation must be False under '{}'"),
    ],
)
def test_what_ranks_decide_themselves_is_refused(options, match, strategy):
    with pytest.raises(ValueError, match=match.format(strategy)):
        multi_gpu_model(network(), strategy=strategy, **options)


def test_keras_example_1_trains_as_one_device_does():
    histories = []
    for wrap in (lambda m: m, lambda m: multi_gpu_model(m, devices=TWO)):
        model = network()
        parallel = wrap(model)
        optimizer = torch.optim.RMSprop(parallel.parameters())
        target = torch.randint(3, (20,), generator=torch.Generator().manual_seed(0))
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(parallel(rows(20)), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        histories.append(losses)
    assert histories[0] == pytest.approx(histories[1], abs=1e-12)


@pytest.mark.parametrize("options", [{"cpu_relocation": True}, {"cpu_merge": False}])
def test_keras_examples_2_and_3_fall_back_where_there_are_not_two_gpus(options):
    if torch.cuda.device_count() >= 2:
        pytest.skip("this machine has two GPUs")
    model = network()
    try:
        parallel = multi_gpu_model(model, **options)
    except ValueError:
        parallel = model
    assert parallel is model


def test_length_and_truth_are_those_of_the_template():
    assert len(multi_gpu_model(network(), devices=TWO)) == 3
    assert multi_gpu_model(nn.Linear(4, 4), devices=TWO)
