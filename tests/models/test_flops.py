"""FLOPs: against torch's own counter, against values worked out by hand, and never exact where something is unknown."""

from __future__ import annotations

import functools
import itertools
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from torchkutils import register_flop_formula, summarize
from torchkutils.models.forward import flops
from torchkutils.models.forward.free_functions import FREE_FUNCTIONS


class Computed(nn.Module):
    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.run = forward

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.run(*tensors)


@pytest.fixture
def no_formula_stays() -> Iterator[None]:
    before = dict(flops._registered)
    yield
    flops._registered.clear()
    flops._registered.update(before)


# Those that torch's counter knows.
FUNCTIONS = {
    "attention": (functional.scaled_dot_product_attention, [(2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 6)]),
    "einsum": (lambda a, b: torch.einsum("bij,bjk->bik", a, b), [(2, 3, 4), (2, 4, 5)]),
    "einsum without an arrow": (lambda a, b: torch.einsum("ij,jk", a, b), [(3, 4), (4, 5)]),
    "einsum with an ellipsis": (lambda a, b: torch.einsum("...ij,...jk->...ik", a, b), [(2, 6, 3, 4), (2, 6, 4, 5)]),
    "einsum that sums all": (lambda a, b: torch.einsum("ij,ij->", a, b), [(3, 4), (3, 4)]),
    "einsum of an outer product": (lambda a, b: torch.einsum("i,j->ij", a, b), [(3,), (4,)]),
    "einsum of one": (lambda a: torch.einsum("ij->ji", a), [(3, 4)]),
    "tensordot": (lambda a, b: torch.tensordot(a, b, dims=([1, 2], [0, 1])), [(3, 4, 5), (4, 5, 6)]),
    "matmul": (torch.matmul, [(2, 3, 4), (4, 5)]),
    "a reflected product": (lambda a, b: b.__rmatmul__(a), [(3, 4), (4, 5)]),
    "linear": (functional.linear, [(2, 3, 4), (5, 4)]),
    "linear by names": (lambda a, b: functional.linear(weight=b, input=a), [(2, 3, 4), (5, 4)]),
    "convolution in groups": (lambda a, b: functional.conv2d(a, b, groups=2), [(1, 4, 6, 6), (6, 2, 3, 3)]),
    "transposed": (lambda a, b: functional.conv_transpose2d(weight=b, input=a, stride=2), [(1, 4, 6, 6), (4, 2, 3, 3)]),
    "raw convolution": (
        lambda a, b: torch.convolution(a, b, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        [(2, 3, 8, 8), (4, 3, 3, 3)],
    ),
    "convolution of aten": (
        lambda a, b: torch.ops.aten.convolution(a, b, None, [2, 2], [1, 1], [1, 1], True, [0, 0], 1),
        [(2, 3, 8, 8), (3, 4, 3, 3)],
    ),
    "addmm": (torch.addmm, [(3, 5), (3, 4), (4, 5)]),
    "an overload": (torch.ops.aten.mm.default, [(3, 4), (4, 5)]),
    "an overload by names": (lambda a, b: torch.ops.aten.mm.default(mat2=b, self=a), [(3, 4), (4, 5)]),
    "baddbmm": (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)]),
    "inner": (torch.inner, [(4, 5), (6, 5)]),
    "linalg.matmul": (torch.linalg.matmul, [(2, 3, 4), (4, 5)]),
    "a chain": (lambda *m: torch.linalg.multi_dot(m), [(4, 5), (5, 6), (6, 7), (7, 2)]),
    "a chain of vectors": (lambda *m: torch.linalg.multi_dot(m), [(5,), (5, 6), (6, 7)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_count_as_torchs_counter_does(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    with FlopCounterMode(display=False) as counter:
        function(*[torch.empty(shape, device="meta") for shape in shapes])
    summary = summarize(Computed(function), input_data=tuple(torch.ones(shape) for shape in shapes))
    assert summary.flops == counter.get_total_flops()
    assert summary.flops_known
    assert all(row.flops_known for row in summary.rows)


class Marked(torch.Tensor):
    """A class of tensors as people write them."""


PACKED = nn.LSTM(3, 4)
INT8 = torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 32, dtype=torch.int8)
HALVES = torch.ones(16, 16, dtype=torch.bfloat16), torch.ones(2, 16, 32, dtype=torch.bfloat16)
# Those that torch's counter does not know, by hand.
WORKED_OUT = {
    "mv": (lambda: torch.mv(torch.ones(4, 5), torch.ones(5)), 2 * 4 * 5),
    "dot": (lambda: torch.dot(torch.ones(4), tensor=torch.ones(4)), 2 * 4),
    "vecdot": (lambda: torch.linalg.vecdot(torch.ones(3, 4), torch.ones(4)), 2 * 3 * 4),
    "addmv": (lambda: torch.addmv(torch.zeros(4), torch.ones(4, 5), torch.ones(5)), 2 * 4 * 5),
    "addmm_": (lambda: torch.ones(3, 5).addmm_(torch.ones(3, 4), torch.ones(4, 5)), 2 * 3 * 4 * 5),
    "baddbmm_": (lambda: torch.ones(2, 3, 5).baddbmm_(torch.ones(2, 3, 4), torch.ones(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
    "addbmm": (lambda: torch.addbmm(torch.ones(4, 6), torch.ones(3, 4, 5), torch.ones(3, 5, 6)), 2 * 3 * 4 * 5 * 6),
    "conv_tbc": (
        lambda: torch.conv_tbc(torch.ones(9, 2, 4), torch.ones(3, 4, 5), torch.zeros(5)),
        2 * 7 * 2 * 5 * 3 * 4,
    ),
    "rnn_tanh": (
        lambda: torch.rnn_tanh(
            *(torch.ones(2, 4, 5), torch.zeros(1, 4, 3), [torch.ones(3, 5), torch.ones(3, 3)]),
            *(False, 1, 0.0, False, False, False),
        )[0],
        2 * 2 * 4 * 3 * (5 + 3),
    ),
    "_int_mm": (lambda: torch._int_mm(*INT8), 2 * 32 * 16 * 32),
    "experts": (
        lambda: functional.grouped_mm(*HALVES, offs=torch.tensor([8, 16], dtype=torch.int32)),
        2 * 16 * 16 * 32,
    ),
    "bilinear": (lambda: functional.bilinear(torch.ones(2, 3), torch.ones(2, 4), torch.ones(5, 3, 4)), 2 * 2 * 5 * 16),
    "a norm": (lambda: torch.linalg.norm(torch.ones(3, 4)), 0),
    "a chain by name": (
        lambda: torch.linalg.multi_dot(tensors=[torch.ones(4, 5), torch.ones(5, 6), torch.ones(6, 2)]),
        2 * (5 * 6 * 2 + 4 * 5 * 2),
    ),
    "tensordot over axes of 1": (
        lambda: torch.tensordot(torch.ones(4, 1), torch.ones(5, 6), dims=([1], [0])),
        2 * 4 * 6,
    ),
    "convolution by its mode": (
        lambda: torch._convolution_mode(torch.ones(1, 3, 9), torch.ones(4, 3, 3), None, [1], "same", [1], 1),
        2 * 4 * 9 * 9,
    ),
    "frequencies": (lambda: torch.fft.fftfreq(8), 0),
    "a packed LSTM": (
        lambda: nn.utils.rnn.pad_packed_sequence(
            PACKED(nn.utils.rnn.pack_padded_sequence(torch.ones(5, 2, 3), torch.tensor([5, 3])))[0]
        )[0],
        2 * 8 * 16 * 7,
    ),
    "a class of tensors": (lambda: torch.ones(4, 5).as_subclass(Marked) @ torch.ones(5, 6), 2 * 4 * 5 * 6),
}
NEWER = {"experts": (functional, "grouped_mm")}


@pytest.mark.parametrize("name", WORKED_OUT)
def test_functions_that_torchs_counter_does_not_know(name: str) -> None:
    if name in NEWER and not hasattr(*NEWER[name]):
        pytest.skip("a newer torch has it")
    function, expected = WORKED_OUT[name]
    summary = summarize(Computed(function), input_data=())
    assert (summary.flops, summary.flops_known) == (expected, True)


def tied() -> nn.Module:
    embedding, head = nn.Embedding(100, 8), nn.Linear(8, 100, bias=False)
    head.weight = embedding.weight
    return nn.Sequential(embedding, head)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize(
    ("model", "size", "flops"),
    [
        (nn.Linear(16, 32, bias=False), (2, 10, 16), 2 * 10_240),
        (nn.ConvTranspose2d(8, 16, 3, stride=2), (2, 8, 10, 10), 2 * 230_400),
        (nn.Conv2d(3, 4, 3), (3, 8, 8), 2 * 4 * 36 * 27),
        (nn.Embedding(10, 4), (2, 3), 0),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), (2, 4), 80),
        (nn.LSTM(8, 16, batch_first=True), (2, 5, 8), 2 * 2 * 5 * 4 * 16 * 24),
        (nn.LSTM(8, 16, 2, bidirectional=True), (5, 2, 8), 2 * 10 * 2 * 4 * 16 * (8 + 16 + 32 + 16)),
        (tied(), (1, 3), 2 * 3 * 8 * 100),
        # Four projections of 64 × 64 and two products of 10 × 10 × 64 for each of two samples.
        (SelfAttention(64, 4), (2, 10, 64), 2 * 2 * (4 * 10 * 64 * 64 + 2 * 10 * 10 * 64)),
    ],
    ids=[
        *("linear", "transposed", "unbatched", "embedding", "weight norm", "lstm", "lstm both ways", "tied"),
        "attention",
    ],
)
def test_modules_count_what_was_worked_out_by_hand(model: nn.Module, size: Any, flops: int) -> None:
    summary = summarize(model, input_size=size)
    assert summary.flops == flops
    assert all(row.flops_known for row in summary.rows)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)

    @torch.jit.script
    def scripted_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b


def in_another_thread(function: Any) -> Any:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function).result()


SQUARE = torch.eye(4) * 2
UNKNOWN = {
    "a product of three operands": lambda: torch.einsum("ij,jk,kl->il", SQUARE, SQUARE, SQUARE),
    "matrix_power": lambda: torch.matrix_power(SQUARE, 3),
    "fft": lambda: torch.fft.fft(SQUARE).real,
    "svd": lambda: torch.linalg.svd(SQUARE)[1],
    "inverse": lambda: torch.linalg.inv(SQUARE),
    "solve": lambda: torch.linalg.solve(SQUARE, SQUARE),
    "cholesky": lambda: torch.linalg.cholesky(SQUARE),
    "determinant": lambda: torch.det(SQUARE),
    "cov": lambda: torch.cov(SQUARE),
    "cdist": lambda: torch.cdist(SQUARE, SQUARE),
    "nuclear norm": lambda: torch.linalg.norm(SQUARE, ord="nuc"),
    "spectral norm": lambda: torch.linalg.matrix_norm(SQUARE, 2),
    "grid_sample": lambda: functional.grid_sample(torch.ones(1, 1, 4, 4), torch.zeros(1, 2, 2, 2), align_corners=False),
    "sparse product": lambda: torch.sparse.mm(SQUARE.to_sparse(), SQUARE),
    "sparse operand": lambda: torch.matmul(SQUARE.to_sparse(), SQUARE),
    "nested operand": lambda: torch.matmul(*[torch.nested.nested_tensor([SQUARE, SQUARE])] * 2),
    "weighted bags": lambda: functional.embedding_bag(
        torch.zeros(2, 2, dtype=torch.int64), SQUARE, mode="sum", per_sample_weights=torch.ones(2, 2)
    ),
    "numpy": lambda: torch.from_numpy(SQUARE.numpy() @ SQUARE.numpy()),
    "numpy's functions": lambda: torch.as_tensor(np.matmul(SQUARE, SQUARE)),
    "a script": lambda: scripted_product(SQUARE, SQUARE),
    "a script's result in a dict": lambda: {"a": scripted_product(SQUARE, SQUARE)},
    "another thread": lambda: in_another_thread(lambda: SQUARE @ SQUARE),
    "axes in a tensor": lambda: torch.tensordot(SQUARE, SQUARE, torch.tensor([[1], [0]])),
    "backward": lambda: torch.func.grad(lambda x: (x @ SQUARE).sum())(SQUARE),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_makes_a_lower_bound(name: str) -> None:
    summary = summarize(Computed(UNKNOWN[name]), input_data=(), columns=["flops"])
    assert not summary.flops_known
    assert not summary.rows[0].flops_known
    assert "Total FLOPs: ≥ " in str(summary)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda module: torch.jit.trace(module, torch.ones(1, 4))])
def test_scripted_modules_are_lower_bounds(make: Any) -> None:
    assert not summarize(nn.Sequential(make(nn.Linear(4, 4)), nn.ReLU()), input_size=(1, 4)).flops_known


def test_vmap_counts_all_examples() -> None:
    weight = torch.ones(5, 6)

    def rows(x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(lambda row: row @ weight)(x)

    def blocks(x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(torch.vmap(lambda row: row @ weight))(x.reshape(7, 3, 5))

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.vmap(self.layer)(x)

    assert summarize(Layer(), input_size=(7, 5)).flops == 2 * 7 * 5 * 2
    assert summarize(Computed(rows), input_size=(7, 5)).flops == 2 * 7 * 5 * 6
    assert summarize(Computed(blocks), input_size=(21, 5)).flops == 2 * 21 * 5 * 6


# -- arguments by name ---------------------------------------------------------------------------------------------


class Attends(nn.Module):
    def __init__(self, call: Any, **options: Any) -> None:
        super().__init__()
        self.attention, self.call = nn.MultiheadAttention(8, 2, **options), call

    def forward(self, query: torch.Tensor, memory: torch.Tensor) -> Any:
        return self.call(self.attention, query, memory)[0]


CALLS = {
    "by position": lambda attention, q, k: attention(q, k, k),
    "by name": lambda attention, q, k: attention(query=q, key=k, value=k),
    "in another order": lambda attention, q, k: attention(value=k, key=k, query=q),
    "value first": lambda attention, q, k: attention(q, value=k, key=k, need_weights=False),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "options", [{"batch_first": True}, {}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=str
)
def test_attention_counts_by_the_names_of_its_arguments(call: str, options: dict[str, Any]) -> None:
    model = Attends(CALLS[call], **options)
    query, memory = torch.ones(2, 3, 8), torch.ones(2, 7, 8)
    if not options.get("batch_first"):
        query, memory = query.transpose(0, 1), memory.transpose(0, 1)
    added = len(set(options) - {"batch_first"})
    products = 2 * 3 * 8 * 8 + 2 * 7 * 8 * 8 + 2 * 3 * (7 + added) * 8
    summary = summarize(model, input_data=(query, memory))
    assert (summary.flops, summary.flops_known) == (2 * 2 * products, True)


@pytest.mark.parametrize(
    ("kind", "gates"), [(nn.RNNCell, 1), (nn.GRUCell, 3), (nn.LSTMCell, 4), (nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)]
)
@pytest.mark.parametrize("named", [False, True])
def test_recurrent_layers_count_both_products(kind: Any, gates: int, named: bool) -> None:
    layer = kind(4, 5)
    states = torch.zeros((2, 5) if issubclass(kind, nn.RNNCellBase) else (1, 2, 5))
    hidden: Any = (states, states) if "LSTM" in kind.__name__ else states
    values = torch.ones(2, 4) if issubclass(kind, nn.RNNCellBase) else torch.ones(1, 2, 4)
    given: Any = {"hx": hidden, "input": values} if named else (values, hidden)
    summary = summarize(layer, input_data=given)
    assert (summary.flops, summary.flops_known) == (2 * 2 * gates * 5 * (4 + 5), True)


# -- formulas of users ---------------------------------------------------------------------------------------------


@torch.library.custom_op("torchkutils_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x + x


@torch.library.custom_op("torchkutils_tests::thrice", mutates_args=())
def thrice(x: torch.Tensor) -> torch.Tensor:
    return x * 3


class Custom(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(4, 4), function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.layer(x))


@pytest.mark.parametrize("name", ["twice", "twice.default"])
def test_an_operator_that_somebody_registered_makes_a_lower_bound(name: str) -> None:
    operator: Any = torch.ops.torchkutils_tests
    for part in name.split("."):
        operator = getattr(operator, part)
    summary = summarize(Custom(operator), input_size=(2, 4), columns=["flops"])
    assert summary.flops == 64
    assert "Total FLOPs: ≥ 64" in str(summary)
    assert "≥" not in str(summarize(Custom(torch.ops.aten.relu), input_size=(2, 4), columns=["flops"]))


def shapes_formula(shape: Any, *, out_shape: Any, **named: Any) -> int:
    assert tuple(shape) == tuple(out_shape) == (2, 4)
    return 1000


def raw_formula(x: Any, *, out_val: Any, **named: Any) -> int:
    return int(x.numel() * out_val.numel())


@pytest.mark.parametrize(
    ("targets", "options", "formula", "expected"),
    [
        (torch.ops.torchkutils_tests.twice, {}, shapes_formula, 1000),
        (torch.ops.torchkutils_tests.twice.default, {}, shapes_formula, 1000),
        ("torchkutils_tests::twice", {}, shapes_formula, 1000),
        (["torchkutils_tests::thrice", "torchkutils_tests::twice"], {}, shapes_formula, 1000),
        ("torchkutils_tests::twice", {"get_raw": True}, raw_formula, 64),
        ("torchkutils_tests::twice", {}, lambda shape, out_shape: np.int64(7), 7),
        ("torchkutils_tests::twice", {}, lambda shape, out_shape: 7.0, 7),
    ],
)
@pytest.mark.usefixtures("no_formula_stays")
def test_a_formula_counts_what_its_author_says(targets: Any, options: Any, formula: Any, expected: int) -> None:
    assert register_flop_formula(targets, **options)(formula) is formula
    for operator in (torch.ops.torchkutils_tests.twice, torch.ops.torchkutils_tests.twice.default):
        summary = summarize(Custom(operator), input_size=(2, 4))
        assert (summary.flops, summary.flops_known) == (64 + expected, True)


@pytest.mark.usefixtures("no_formula_stays")
def test_formulas_of_functions_and_of_modules() -> None:
    class Kernel(nn.Module):
        def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
            return torch.fft.fft(x).real * scale

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.kernel = nn.Linear(4, 4), Kernel()

        def forward(self, x: torch.Tensor) -> Any:
            return self.kernel(self.layer(x), scale=2.0)

    assert not summarize(Net(), input_size=(2, 4)).flops_known
    register_flop_formula(Kernel)(lambda module, x, scale, *, out_shape: 7 * x.numel())
    summary = summarize(Net(), input_size=(2, 4))
    assert (summary.flops, summary.flops_known) == (64 + 56, True)
    register_flop_formula(Net)(lambda module, x, *, out_shape: 1000)
    assert summarize(Net(), input_size=(2, 4)).flops == 1000 + 64 + 56
    register_flop_formula(torch.cdist)(lambda a, b, *args, out_shape, **named: 2 * out_shape.numel() * a[-1])
    assert summarize(Computed(torch.cdist), input_size=[(5, 3), (7, 3)]).flops == 2 * 5 * 7 * 3


def test_an_operator_of_torchs_own_registry_is_known() -> None:
    from torch.utils.flop_counter import flop_registry
    from torch.utils.flop_counter import register_flop_formula as torchs

    operator = torch.ops.torchkutils_tests.thrice
    torchs(operator)(lambda shape, out_shape=None: 12)
    try:
        assert summarize(Custom(operator), input_size=(2, 4)).flops == 64 + 12
    finally:
        del flop_registry[operator]


@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4))], ids=["", "nested"])
@pytest.mark.usefixtures("no_formula_stays")
def test_formulas_count_for_layers_of_torch_too(layer: nn.Module) -> None:
    register_flop_formula(nn.Linear)(lambda module, x, *, out_shape: 1000)
    summary = summarize(nn.Sequential(layer, nn.ReLU()), input_size=(2, 4))
    assert (summary.flops, summary.flops_known) == (1000, True)
    register_flop_formula(torch.relu)(lambda x, **named: 5)
    assert summarize(nn.Sequential(nn.ReLU()), input_size=(2, 4)).flops == 5


@pytest.mark.usefixtures("no_formula_stays")
def test_an_operator_may_be_given_as_custom_op_made_it() -> None:
    register_flop_formula(thrice)(lambda shape, *, out_shape: 11)
    assert summarize(Custom(thrice), input_size=(2, 4)).flops == 64 + 11


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (ValueError("no such axis"), "ValueError: no such axis"),
        (1.5, "TypeError: 'float'"),
        ("many", "TypeError: 'str'"),
        (-3, "ValueError: a number of operations cannot be negative, got -3"),
    ],
)
@pytest.mark.usefixtures("no_formula_stays")
def test_a_formula_that_raises_warns_and_leaves_a_lower_bound(gives: Any, said: str) -> None:
    def broken(*args: Any, **named: Any) -> Any:
        if isinstance(gives, Exception):
            raise gives
        return gives

    register_flop_formula("torchkutils_tests::twice")(broken)
    with pytest.warns(UserWarning, match=rf"FLOP formula .*broken raised {said}"):
        summary = summarize(Custom(torch.ops.torchkutils_tests.twice), input_size=(2, 4))
    assert (summary.flops, summary.flops_known) == (64, False)


@pytest.mark.parametrize(
    ("targets", "options", "error", "match"),
    [
        (3, {}, TypeError, "targets must be functions.*got 3"),
        ("cdist", {}, TypeError, "names like 'mylib::op', got 'cdist'"),
        (nn.Linear, {"get_raw": True}, ValueError, "get_raw=True is not possible for Linear"),
        (nn.Linear(2, 2), {}, TypeError, "got an instance of Linear; give the class Linear"),
    ],
)
def test_targets_that_cannot_be_counted_are_refused(targets: Any, options: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        register_flop_formula(targets, **options)


# -- torch's own lists ---------------------------------------------------------------------------------------------

PRODUCT_LIKE = re.compile(
    r"mm(?!ing|a|ax|in|on)|matmul|dot|conv\dd|convolution|conv_t|^mv|_mv|linear|einsum|attention|lstm|gru(?!p)|rnn|cdist|fft_[ihr]*fft(?!shift|freq)|svd|eig"
    r"|(?<!s)qr|solve(?!_)|inverse|_inv|cholesky|^lu|_lu$|det$|multi_dot|inner|matrix|^cov|corr|grid_samp|stft|power(?!_)"
)
# They have such a name and are none.
NO_PRODUCTS = re.compile(r"upsample_.*linear|weight_norm|slice_inverse|cummax|cummin|mvlgamma|float_power")


def test_no_operator_of_torch_whose_name_says_product_is_free() -> None:
    names = {name.partition("::")[2].partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    products = {name for name in names if PRODUCT_LIKE.search(name) and not NO_PRODUCTS.search(name)}
    assert len(products) > 100
    assert {name for name in products if name.rstrip("_") in FREE_FUNCTIONS or name in FREE_FUNCTIONS} == set()


# torch's counter has no formula of these, and ours are above.
OURS_ALONE = {"addmv", "addbmm", "dot", "vdot", "mv", "inner", "tensordot", "linalg.vecdot", "nn.functional.bilinear"}
# With a vector on one side they are a product of matrix and vector; on the CPU, attention has operators of its own.
OURS_AT_TIMES = {"matmul", "__rmatmul__", "nn.functional.scaled_dot_product_attention"}


# All of them together may take longer than one test is given. On a busy machine the import alone takes a minute.
PARTS = 12


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(PARTS))
def test_where_both_know_ours_agrees_with_torchs_counter_over_its_operator_database(part: int) -> None:
    pytest.importorskip("expecttest")
    from torch.testing._internal.common_methods_invocations import op_db

    compared = set()
    for operator in op_db[part::PARTS]:
        for call in sampled_calls(operator):
            expected = torchs_count(call)
            summary = None if expected is None else summarize(Computed(call), input_data=())
            if summary is None or not summary.flops_known:
                continue
            if summary.flops != expected:
                assert expected == 0, (operator.name, summary.flops, expected)
                assert operator.name in OURS_ALONE | OURS_AT_TIMES, operator.name
            compared.add(operator.name)
    assert len(compared) > 400 / PARTS


def sampled_calls(operator: Any) -> Iterator[Any]:
    """A few calls of an operator of torch's database, in float32 where it has that."""
    dtypes = [dtype for dtype in (torch.float32, *operator.dtypes) if dtype in operator.dtypes]
    for dtype in dtypes[:1]:
        for sample in itertools.islice(operator.sample_inputs("cpu", dtype), 6):
            yield functools.partial(operator, sample.input, *sample.args, **sample.kwargs)


def torchs_count(call: Any) -> int | None:
    """What torch's counter says of a call; None where it fails."""
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call()
    except Exception:
        return None
    return int(counter.get_total_flops())
