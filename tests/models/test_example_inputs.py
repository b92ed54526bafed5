"""What the model is called with: inputs made from sizes, keyword arguments beside them, hints where they do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.models.traced import traced
from torchkutils import summarize


class Recommender(nn.Module):
    """Two tables of different length."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.user, self.item, self.layer = nn.Embedding(users, 4), nn.Embedding(items, 4), nn.Linear(8, 1)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> Any:
        return self.layer(torch.cat([self.user(user), self.item(item)], -1))


class Raw(nn.Module):
    """A table that is a plain parameter, shorter than the Embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(50_000, 4), nn.Parameter(torch.ones(2, 4))

    def forward(self, words: torch.Tensor, kinds: torch.Tensor) -> Any:
        return self.words(words) + self.kinds[kinds]


@pytest.mark.parametrize("sizes", [[(400,), (400,)], {"user": (400,), "item": (400,)}, [(None,), (None,)]], ids=str)
@pytest.mark.parametrize("tables", [(10_000, 5), (5, 10_000), (10_000, 1)])
def test_indices_lie_inside_every_table(tables: tuple[int, int], sizes: Any) -> None:
    summary = summarize(Recommender(*tables), input_size=sizes)
    assert summary.rows[-1].output_shapes.endswith(", 1)")


@pytest.mark.parametrize("sizes", [[(400,), (400,)], [(None,), (None,)]], ids=str)
def test_a_table_that_is_no_embedding_is_found_by_the_failing_lookup(sizes: Any) -> None:
    assert summarize(Raw(), input_size=sizes, dtypes="int64").rows[0].output_shapes.endswith("4)")


class Layers(nn.Module):
    """Runs a function of its own with a layer, a table and a row of weights that are a plain parameter."""

    def __init__(self, function: Any, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.function = function

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        return self.function(self, *inputs, **named)


def packed(self: Any, x: torch.Tensor, lengths: torch.Tensor) -> Any:
    return self.layer(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[1]


def conditioned(self: Any, image: torch.Tensor, time: torch.Tensor, kind: torch.Tensor) -> Any:
    return self.layer(image) + self.time(time) + self.table(kind)[:, :4]


def table(length: int = 7, width: int = 4) -> nn.Embedding:
    return nn.Embedding(length, width)


# The model, the sizes of its inputs, and what each of them must be made as.
FITTED: dict[str, tuple[nn.Module, Any, list[str]]] = {
    "a table behind a layer": (
        Layers(lambda m, x, ids: m.layer(x) + m.table(ids), layer=nn.Linear(3, 4), table=table()),
        [(200, 3), (200,)],
        ["float32", "int64"],
    ),
    "a layer behind a table": (
        Layers(lambda m, x, ids: m.layer(x) + m.table(ids), table=table(), layer=nn.Linear(3, 4)),
        [(200, 3), (200,)],
        ["float32", "int64"],
    ),
    "columns of one input": (
        Layers(lambda m, x, ids: m.layer(x) + m.table(ids[:, 1]), layer=nn.Linear(3, 4), table=table()),
        [(None, 3), (None, 2)],
        ["float32", "int64"],
    ),
    "three inputs": (
        Layers(conditioned, layer=nn.Linear(3, 4), time=table(1000), table=table(3, 8)),
        [(200, 3), (200,), (200,)],
        ["float32", "int64", "int64"],
    ),
    "positions in a layer's output": (
        Layers(lambda m, x, edges: m.layer(x)[edges[0]] + m.layer(x)[edges[1]], layer=nn.Linear(3, 4)),
        [(5, 3), (2, 300)],
        ["float32", "int64"],
    ),
    "positions to gather": (
        Layers(lambda m, x, at: m.layer(x).gather(1, at), layer=nn.Linear(3, 4)),
        [(5, 3), (5, 300)],
        ["float32", "int64"],
    ),
    "a mask to fill": (
        Layers(lambda m, x, mask: m.layer(x).masked_fill(~mask[..., None], 0), layer=nn.Linear(3, 4)),
        [(5, 2, 3), (5, 2)],
        ["float32", "bool"],
    ),
    "a mask to select": (
        Layers(lambda m, x, mask: m.layer(x)[mask], layer=nn.Linear(3, 4)),
        [(5, 2, 3), (5, 2)],
        ["float32", "bool"],
    ),
    "classes": (Layers(lambda m, x: m.layer(F.one_hot(x, 3).float()), layer=nn.Linear(3, 4)), (200,), ["int64"]),
    "lengths": (Layers(packed, layer=nn.GRU(3, 4, batch_first=True)), [(2, 5, 3), (2,)], ["float32", "int64"]),
    "offsets": (Layers(lambda m, x, begin: m.bag(x, begin), bag=nn.EmbeddingBag(7, 4)), [(9,), (3,)], ["int64"] * 2),
}


def takes_any_dtype_on_meta() -> bool:
    """Whether this torch looks up floats in a table without data."""
    try:
        F.embedding(torch.rand(2, device="meta"), torch.rand(3, 4, device="meta"))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("engine", ["real", "meta"])
@pytest.mark.parametrize("name", FITTED)
def test_an_input_is_made_as_what_the_first_function_wants(name: str, engine: Any) -> None:
    model, sizes, dtypes = FITTED[name]
    if engine == "meta" and name in ("a mask to select", "lengths", "classes", "a layer behind a table"):
        pytest.skip("its shapes depend on values, or meta takes any dtype")
    if engine == "meta" and takes_any_dtype_on_meta():
        pytest.skip("this torch takes any dtype on meta")
    trace = traced(model, input_size=sizes, engine=engine)
    assert [node.output.dtype for node in trace.nodes if node.kind == "input"] == dtypes  # type: ignore[union-attr]


def test_what_was_made_otherwise_is_told() -> None:
    (note,) = summarize(FITTED["lengths"][0], input_size={"x": (2, 5, 3), "lengths": (2,)}).notes
    assert note == "lengths was made as int64, which forward wants; dtypes= decides otherwise"


def test_clip_runs_from_sizes() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 49},
        vision_config={**small, "image_size": 8, "patch_size": 4},
    )
    sizes = {"input_ids": (1, 8), "pixel_values": (1, 3, 8, 8)}
    assert summarize(transformers.CLIPModel(config), input_size=sizes).flops > 0


@pytest.mark.parametrize(
    ("model", "run", "match"),
    [
        # A dtype that was asked for stays, and what no other input would mend is raised as it was.
        (Layers(lambda m, ids: m.table(ids), table=table()), {"dtypes": "float32", "input_size": (2,)}, "Long"),
        (Layers(lambda m, x: m.layer(x.long()), layer=nn.Linear(3, 4)), {"input_size": (2, 3)}, "dtype"),
        (Layers(lambda m, x: m.layer(x[m.layer.weight]), layer=nn.Linear(3, 4)), {"input_size": (2, 3)}, "indices"),
    ],
    ids=["asked for", "the model's own", "a weight"],
)
def test_what_no_other_input_mends_is_raised(model: nn.Module, run: dict[str, Any], match: str) -> None:
    with pytest.raises((RuntimeError, IndexError), match=match) as caught:
        summarize(model, **run)
    assert any("made from input_size as float32;" in note for note in caught.value.__notes__)


def test_what_forward_needs_beside_is_named() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: torch.Tensor, scale: float, *, kind: str) -> torch.Tensor:
            return super().forward(x) * scale

    for inputs in ({"input_size": (2, 4)}, {"input_data": X}):
        with pytest.raises(TypeError, match="missing") as caught:
            summarize(Scaled(4, 4), **inputs)
        assert any("input_kwargs={'scale': ..., 'kind': ...}" in note for note in caught.value.__notes__)


def test_an_index_error_of_the_models_own_is_raised() -> None:
    class Beyond(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(5, 4)

        def forward(self, words: torch.Tensor) -> Any:
            return self.words(words + 100)

    with pytest.raises(IndexError, match="out of range"):
        summarize(Beyond(), input_size=(3,))


def test_bert_with_kinds_of_tokens_runs_from_sizes() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=100, **small))
    summary = summarize(bert, input_size={"input_ids": (1, 8), "token_type_ids": (1, 8)})
    assert summary.flops > 0


def test_a_weight_of_8_bits_does_not_decide_the_inputs_dtype() -> None:
    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stored = nn.Parameter(torch.ones(4, 4).to(torch.float8_e4m3fn), requires_grad=False)
            self.scale = nn.Parameter(torch.ones((), dtype=torch.bfloat16))

        def forward(self, x: torch.Tensor) -> Any:
            return x @ self.stored.to(x.dtype) * self.scale

    assert summarize(Stored(), input_size=(2, 4)).rows[0].dtypes == "bfloat16"


class Varied(nn.Module):
    """Takes any number of tensors, and a flag, a number and a string beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, *xs: torch.Tensor, flag: bool = False, times: int = 1, reduce: str = "none") -> Any:
        if not flag:
            return xs[0]
        y = self.layer(sum(xs)) * times
        return y.mean(0) if reduce == "mean" else y


X = torch.ones(3, 4)


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        ({"input_data": (X, X), "input_kwargs": {"flag": True}}, "(3, 2)"),
        ({"input_data": X, "input_kwargs": {"flag": True, "reduce": "mean", "times": 2}}, "(2,)"),
        ({"input_data": (X.numpy(),), "input_kwargs": {"flag": np.bool_(True)}}, "(3, 2)"),
        ({"input_size": (3, 4), "input_kwargs": {"flag": True}}, "(3, 2)"),
        ({"input_size": (None, 4), "input_kwargs": {"flag": True}}, "(None, 2)"),
        ({"input_size": [(3, 4), (3, 4)], "input_kwargs": {"flag": True}, "engine": "meta"}, "(3, 2)"),
    ],
)
def test_keyword_arguments_stand_beside_positional_ones(inputs: dict[str, Any], shape: str) -> None:
    assert summarize(Varied(), depth=0, **inputs).rows[0].output_shapes == shape


@pytest.mark.parametrize("data", [((X,), {"scale": 2.0}), ([X], {"scale": X})], ids=["tuple", "list"])
def test_a_pair_that_can_mean_nothing_else_is_positional_and_keyword_arguments(data: Any) -> None:
    class Scaled(nn.Linear):
        def forward(self, x: torch.Tensor, *, scale: Any) -> torch.Tensor:
            return super().forward(x) * scale

    class Pair(nn.Module):
        def forward(self, parts: Any, options: Any) -> torch.Tensor:
            assert "scale" in options
            return parts[0] * 2

    assert summarize(Scaled(4, 4), input_data=data).flops > 0
    assert summarize(Pair(), input_data=data).rows[0].output_shapes == "(3, 4)"


def test_keyword_arguments_alone_are_inputs() -> None:
    class Named(nn.Module):
        def forward(self, *, a: np.ndarray) -> Any:
            return a + 1

    assert summarize(Named(), input_kwargs={"a": np.ones((2, 3), dtype="float32")}).rows[0].output_shapes == "(2, 3)"


@pytest.mark.parametrize(
    ("inputs", "error", "match"),
    [
        ({"input_data": {"x": X}, "input_kwargs": {"x": X}}, ValueError, "input_kwargs names 'x'.*give each"),
        ({"input_size": {"x": (3, 4)}, "input_kwargs": {"x": X}}, ValueError, "input_kwargs names 'x'"),
        ({"input_data": X, "input_kwargs": [X]}, TypeError, "input_kwargs must be a dict"),
        ({"input_data": X, "input_kwargs": {1: X}}, TypeError, "input_kwargs must be a dict"),
        ({"input_size": {"x": (3, 4), "flag": True}}, TypeError, "flags that forward takes go into input_kwargs"),
        ({"input_size": (3, 4), "input_data": X}, ValueError, "both given"),
        ({"input_size": X}, TypeError, "did you mean input_data="),
        ({"input_size": [[(3, 4), (3, 4)]]}, TypeError, "nested arguments and tensors go into input_data"),
    ],
)
def test_arguments_that_cannot_be_are_refused(inputs: dict[str, Any], error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        summarize(Varied(), **inputs)


class OneDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, batch: dict[str, torch.Tensor]) -> Any:
        return self.layer(batch["x"])


class OneList(OneDict):
    def forward(self, images: list[torch.Tensor], targets: Any = None) -> Any:
        return [self.layer(image) for image in images]


@pytest.mark.parametrize(("model", "data"), [(OneDict(), {"x": X}), (OneList(), [X, X, X])], ids=["dict", "list"])
def test_one_argument_that_is_a_collection_gets_a_hint(model: nn.Module, data: Any) -> None:
    with pytest.raises(TypeError, match="argument") as caught:
        summarize(model, input_data=data)
    assert any("wrap it: input_data=(batch,)" in note for note in caught.value.__notes__)
    assert summarize(model, input_data=(data,)).flops > 0
    sizes = {"x": (3, 4)} if isinstance(data, dict) else [(3, 4)] * 3
    with pytest.raises(TypeError, match="argument") as caught:
        summarize(model, input_size=sizes)
    assert any("give the tensors: input_data=(batch,)" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    "array",
    [np.array([[1]], object), np.array(["a"]), np.zeros(2, [("a", "i4")]), np.ma.array([1.0], mask=[1])],
    ids=["objects", "text", "records", "masked"],
)
def test_an_array_that_no_tensor_can_hold_stays_one(array: Any) -> None:
    seen = []

    class Takes(nn.Identity):
        def forward(self, x: torch.Tensor, array: Any) -> torch.Tensor:
            seen.append(type(array))
            return x

    summarize(Takes(), input_data=(X, array))
    assert seen == [type(array)]


def test_who_gave_a_tensor_gets_no_hint_about_wrapping() -> None:
    with pytest.raises(RuntimeError, match="shapes") as caught:
        summarize(nn.Linear(3, 2), input_data=X)
    assert not any("wrap" in note for note in getattr(caught.value, "__notes__", []))
