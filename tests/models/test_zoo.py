"""Models that no one here wrote: totals, executed calls, and everything afterwards as it was before."""

from __future__ import annotations

import pytest
import torch

from tests.models.traced import traced
from tests.models.vision import vision_library
from tests.models.whole_state import whole_state
from torchkutils.models.summary import summarize

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


TORCHVISION = {
    **dict.fromkeys(["resnet18", "mobilenet_v3_small", "densenet121", "googlenet", "swin_t", "convnext_tiny"], 64),
    **dict.fromkeys(["efficientnet_b0", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5", "vgg11_bn"], 64),
    "regnet_y_400mf": 64,
    "inception_v3": 96,
    "vit_b_16": 224,
    "maxvit_t": 224,
}
TIMM = {
    **dict.fromkeys(["levit_128s", "mixer_s32_224", "cait_xxs24_224", "xcit_nano_12_p16_224", "coat_lite_tiny"], 224),
    "efficientnetv2_rw_t": 96,
    "regnetx_002": 96,
    "botnet26t_256": 256,
    "poolformer_s12": 96,
    "edgenext_xx_small": 96,
}


def transformer(name):
    transformers = pytest.importorskip("transformers")
    config, options, inputs = ZOO[name]
    return getattr(transformers, name)(getattr(transformers, config)(**options)), inputs


def vision(name):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = vision_library("torchvision").models.get_model(name, weights=None, **options)
    return model, {"x": torch.ones(1, 3, TORCHVISION[name], TORCHVISION[name])}


def timm(name):
    vision_library("torchvision")
    model = vision_library("timm").create_model(name)
    return model, torch.ones(1, 3, TIMM[name], TIMM[name])


def executed(model, inputs):
    """The modules that ran, as torch's own hooks count them: all calls, and those that called no other module."""
    ran, leaves, inner = [], [], [False]

    def begins(module, _):
        inner.append(False)

    def ends(module, *_):
        ran.append(module)
        if not inner.pop():
            leaves.append(module)
        inner[-1] = True

    handles = [module.register_forward_pre_hook(begins) for module in model.modules()]
    handles += [module.register_forward_hook(ends) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        model(**inputs) if isinstance(inputs, dict) else model(inputs)
    torch.backends.mha.set_fastpath_enabled(fast)
    for handle in handles:
        handle.remove()
    return ran, leaves


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "name"),
    [*[(transformer, name) for name in ZOO], *[(vision, name) for name in TORCHVISION], *[(timm, n) for n in TIMM]],
)
def test_totals_and_calls_agree_with_independent_counts(make, name):
    model, inputs = make(name)
    ran, leaves = executed(model.eval(), inputs)
    model.train()
    before = whole_state(model)
    summary = summarize(model, input_data=inputs)
    assert whole_state(model) == before
    assert summary.total_params == sum(p.numel() for p in model.parameters()) == sum(r.params for r in summary.rows)
    trace = traced(model, input_data=inputs)
    names = {id(module): path for path, module in model.named_modules()}
    called = [trace.modules[call.module].path for call in trace.calls if call.leaf]
    assert sorted(called) == sorted(names[id(module)] for module in leaves)
    assert len(trace.calls) == len(ran)
