"""Models that no one here wrote: totals, executed calls and the weights afterwards."""

from __future__ import annotations

import pytest
import torch

from torchkutils.models.summary import summarize
from torchkutils.models.trace import trace_model

IDS = torch.arange(6).reshape(1, 6)
DECODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
GROUPED = {**DECODER, "vocab_size": 30, "num_key_value_heads": 2}
ZOO = {
    "BertModel": ("BertConfig", {**DECODER, "vocab_size": 30}, {"input_ids": IDS}),
    "GPT2LMHeadModel": ("GPT2Config", {"vocab_size": 30, "n_embd": 16, "n_layer": 2, "n_head": 2}, {"input_ids": IDS}),
    "LlamaForCausalLM": ("LlamaConfig", GROUPED, {"input_ids": IDS}),
    "MixtralForCausalLM": ("MixtralConfig", {**GROUPED, "num_local_experts": 2}, {"input_ids": IDS}),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
        {"input_ids": IDS, "decoder_input_ids": IDS},
    ),
    "MambaModel": (
        "MambaConfig",
        {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4},
        {"input_ids": IDS},
    ),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        {
            **dict.fromkeys(["encoder_layers", "decoder_layers", "encoder_attention_heads"], 1),
            **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim", "d_model"], 16),
            "decoder_attention_heads": 1,
            "vocab_size": 30,
            "num_mel_bins": 8,
            "max_source_positions": 10,
            "pad_token_id": 0,
        },
        {"input_features": torch.ones(1, 8, 20), "decoder_input_ids": IDS},
    ),
    "CLIPModel": (
        "CLIPConfig",
        {
            "text_config": {**DECODER, "vocab_size": 30, "eos_token_id": 5},
            "vision_config": {**DECODER, "image_size": 8, "patch_size": 4},
            "projection_dim": 8,
        },
        {"input_ids": IDS, "pixel_values": torch.ones(1, 3, 8, 8)},
    ),
    "ViTModel": ("ViTConfig", {**DECODER, "image_size": 8, "patch_size": 4}, {"pixel_values": torch.ones(1, 3, 8, 8)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_totals_and_calls_agree_with_independent_counts(name):
    transformers = pytest.importorskip("transformers")
    config, options, inputs = ZOO[name]
    model = getattr(transformers, name)(getattr(transformers, config)(**options)).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ran = []
    handles = [module.register_forward_hook(lambda *_: ran.append(1)) for module in model.modules()]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    summary = summarize(model, input_data=inputs)
    assert summary.total_params == sum(p.numel() for p in model.parameters()) == sum(r.params for r in summary.rows)
    assert len(trace_model(model, input_data=inputs).calls) == len(ran)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
