"""Models of transformers: losses over tokens, caches, encodings, generation."""

import copy

import pytest
import torch

from torchkutils import multi_gpu_model

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

TWO = ["cpu", "cpu"]


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        vocab_size=50,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).double()


def bert(cls="BertForMaskedLM", **options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(
        **sizes, vocab_size=50, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **options
    )
    return getattr(transformers, cls)(config).double()


def tokens(batch=4, length=8):
    return torch.randint(1, 50, (batch, length), generator=torch.Generator().manual_seed(1))


def padded(ids):
    """Labels of which the first half of the batch has far fewer."""
    labels = ids.clone()
    labels[: len(ids) // 2, 3:] = -100
    return labels


@pytest.mark.parametrize("devices", [TWO, ["cpu"] * 3])
@pytest.mark.parametrize("make", [llama, bert, lambda: bert("BertForTokenClassification", num_labels=50)])
def test_a_loss_over_tokens_is_that_of_one_device(make, devices):
    model = make()
    single = copy.deepcopy(model)
    parallel = multi_gpu_model(model, devices=devices)
    ids = tokens()
    options = {"use_cache": False} if make is llama else {}
    ours = parallel(input_ids=ids, labels=padded(ids), **options)
    theirs = single(input_ids=ids, labels=padded(ids), **options)
    # Some of these losses are computed in float32.
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-12)
    ours.loss.backward()
    theirs.loss.backward()
    for mine, other in zip(model.parameters(), single.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_no_plain_mean_over_tokens_is_refused():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = bert()

        def forward(self, input_ids, labels):
            return {"loss": self.inside(input_ids, labels=labels).loss * 2}

    parallel = multi_gpu_model(Twice(), devices=TWO)
    ids = tokens()
    with pytest.raises(ValueError, match=r"output\['loss'\] cannot be merged: labels hold -100.*sharded_loss"):
        parallel(ids, padded(ids))
    whole = parallel(ids, ids)["loss"]
    torch.testing.assert_close(whole, parallel.template(ids, ids)["loss"], rtol=1e-6, atol=0)


def test_weights_make_a_loss_over_tokens_exact():
    model = bert()
    ids = tokens(2)
    labels = ids.clone()
    labels[0, 5:] = -100
    weights = {"weights": lambda shard: (shard != -100).sum()}
    parallel = multi_gpu_model(model, devices=TWO)
    loss = parallel.sharded_loss(lambda output, _: output.loss, {"input_ids": ids, "labels": labels}, labels, **weights)
    torch.testing.assert_close(loss, model(input_ids=ids, labels=labels).loss, rtol=1e-6, atol=0)


def test_a_cache_is_the_whole_batchs():
    model = llama().eval()
    parallel = multi_gpu_model(model, devices=TWO)
    ids = tokens()
    with torch.no_grad():
        ours, theirs = parallel(input_ids=ids), model(input_ids=ids)
        for mine, other in zip(ours.past_key_values.layers, theirs.past_key_values.layers, strict=True):
            torch.testing.assert_close(mine.keys, other.keys, rtol=0, atol=1e-12)
            torch.testing.assert_close(mine.values, other.values, rtol=0, atol=1e-12)
        # ... and is cut when it comes back in.
        again = {"input_ids": tokens(4, 1)}
        named = multi_gpu_model(model, devices=TWO, batch_axes={"past_key_values": 0})
        torch.testing.assert_close(
            named(**again, past_key_values=ours.past_key_values).logits,
            model(**again, past_key_values=theirs.past_key_values).logits,
            rtol=0,
            atol=1e-12,
        )


def test_an_encoding_and_generation():
    model = llama().eval()
    parallel = multi_gpu_model(model, devices=TWO)
    encoding = transformers.BatchEncoding({"input_ids": tokens(), "attention_mask": torch.ones(4, 8, dtype=torch.long)})
    with torch.no_grad():
        torch.testing.assert_close(
            parallel(**encoding, use_cache=False).logits, model(**encoding).logits, rtol=0, atol=1e-12
        )
        made = parallel.generate(tokens(), max_new_tokens=3, do_sample=False)
        assert torch.equal(made, model.generate(tokens(), max_new_tokens=3, do_sample=False))
