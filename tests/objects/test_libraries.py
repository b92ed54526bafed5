"""Models of timm, torchvision and transformers by the libraries' own names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.models.vision import vision_library
from torchkutils import load_model, register_keras_serializable, register_library, save_model
from torchkutils.objects import libraries

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50
}  # fmt: skip
VISION = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "regnet_y_400mf", "mnasnet0_5"]
TIMM = ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050", "convnext_atto", "ghostnet_050"]
TEXT = {
    "BertModel": ("BertConfig", SMALL),
    "BertForSequenceClassification": ("BertConfig", {**SMALL, "num_labels": 3}),
    "RobertaModel": ("RobertaConfig", SMALL),
    "LlamaForCausalLM": ("LlamaConfig", {**SMALL, "num_key_value_heads": 1}),
    "MixtralForCausalLM": ("MixtralConfig", {**SMALL, "num_key_value_heads": 1, "num_local_experts": 4}),
    "GPT2LMHeadModel": ("GPT2Config", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50}),
    "DistilBertModel": (
        "DistilBertConfig",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50},
    ),
    "Qwen2ForCausalLM": ("Qwen2Config", {**SMALL, "num_key_value_heads": 1}),
}


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(libraries, "_registered", set())


def first(found):
    while not isinstance(found, torch.Tensor):
        found = next(iter(found.values())) if isinstance(found, dict) else found[0]
    return found


def comes_back(model, path, **inputs):
    model.eval()
    save_model(model, path)
    again = load_model(path)
    with torch.no_grad():
        assert torch.equal(first(model(**inputs)), first(again(**inputs)))
    return again


def transformer(name, **more):
    transformers = pytest.importorskip("transformers")
    config, values = TEXT[name]
    return getattr(transformers, name)(getattr(transformers, config)(**values, **more))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TEXT)
def test_a_model_of_transformers_comes_back(name, tmp_path):
    register_library("transformers")
    comes_back(transformer(name), tmp_path / "m.h5", input_ids=torch.arange(6)[None])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", VISION)
def test_a_model_of_torchvision_comes_back(name, tmp_path):
    model = vision_library("torchvision").models.get_model(name, weights=None, num_classes=7)
    register_library("torchvision")
    comes_back(model, tmp_path / "m.h5", x=torch.randn(1, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TIMM)
def test_a_model_of_timm_comes_back(name, tmp_path):
    vision_library("torchvision")
    model = vision_library("timm").create_model(name, num_classes=5)
    register_library("timm")
    model.eval()
    save_model(model, tmp_path / "m.h5")
    data = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(model(data), load_model(tmp_path / "m.h5")(data))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_changed_model_of_a_library_comes_back(tmp_path):
    model = vision_library("torchvision").models.resnet18(weights=None)
    register_library("torchvision")
    model.fc = nn.Linear(512, 3)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    comes_back(model, tmp_path / "m.h5", x=torch.randn(1, 1, 64, 64))


@register_keras_serializable("Libraries")
class Head(nn.Module):
    def __init__(self, config):
        super().__init__()
        from transformers import BertModel

        self.config, self.bert = config, BertModel(config)
        self.out = nn.Linear(config.hidden_size, 2)

    def forward(self, input_ids):
        return self.out(self.bert(input_ids).last_hidden_state)


def test_a_config_of_transformers_is_an_argument(tmp_path):
    transformers = pytest.importorskip("transformers")
    register_library("transformers")
    comes_back(Head(transformers.BertConfig(**SMALL)), tmp_path / "m.h5", input_ids=torch.arange(6)[None])


def test_a_library_must_be_registered_by_the_user(tmp_path):
    model = transformer("BertModel")
    with pytest.raises(ValueError, match=r"register_library\('transformers'\)"):
        save_model(model, tmp_path / "m.h5")
    register_library("transformers")
    save_model(model, tmp_path / "m.h5")
    libraries._registered.clear()
    with pytest.raises(ValueError, match=r"m\.h5.*not registered; torchkutils\.register_library"):
        load_model(tmp_path / "m.h5")


CONFIG = {**SMALL, "model_type": "bert"}


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("transformers:os", {"config": {}, "attention": None}, "has no model 'os'"),
        ("transformers:AutoModel", {"config": {}, "attention": None}, "has no model"),
        (
            "transformers:BertModel",
            {"config": {**CONFIG, "auto_map": {"AutoModel": "evil--x"}}, "attention": None},
            "auto_map",
        ),
        ("transformers:BertModel", {"config": {**CONFIG, "_name_or_path": "/tmp"}, "attention": None}, "_name_or_path"),
        ("transformers:BertModel", {"config": CONFIG, "attention": "kernels-community/x"}, "built-in attention"),
        ("transformers:BertModel", {"config": {**CONFIG, "_attn_implementation": "x/y"}, "attention": None}, "_attn"),
        ("transformers:BertModel", {"config": {**CONFIG, "num_hidden_layers": 2**30}, "attention": None}, "at most"),
        ("transformers:BertModel", {"config": {**CONFIG, "num_labels": 2**31}, "attention": None}, "at most"),
        ("transformers:BertModel", {"config": CONFIG, "attention": None, "pretrained": True}, "must have a config"),
        ("tensorflow:x", {}, "not registered"),
    ],
)
def test_a_file_names_only_what_the_library_lists(name, config, message):
    pytest.importorskip("transformers")
    register_library("transformers")
    with pytest.raises(ValueError, match=message):
        libraries.build_from_library(name, config)


def test_what_a_library_refuses_is_not_tried_with_real_tensors():
    calls = []

    def build():
        calls.append("meta" if torch.empty(0).is_meta else "real")
        raise ValueError("hidden_size must be a multiple of num_attention_heads")

    with pytest.raises(ValueError, match="a multiple of"):
        libraries.built_empty(build)
    assert calls == ["meta"]


@pytest.mark.parametrize(
    "value", [float, torch.Tensor.item, lambda one: one.numpy().item(), lambda one: one.tolist().pop()]
)
def test_a_constructor_that_looks_at_values_is_called_with_real_tensors(value):
    def build():
        return nn.Dropout(value(torch.linspace(0, 0.5, 3)[1:2]))

    assert libraries.built_empty(build).p == 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("timm:hf-hub:timm/resnet18", {}, "has no model"),
        ("timm:local-dir:/tmp", {}, "has no model"),
        ("timm:resnet18", {"pretrained": True}, "no argument that a file may give"),
        ("timm:resnet18", {"checkpoint_path": "/tmp/x"}, "no argument that a file may give"),
        ("timm:resnet18", {"num_classes": "9"}, "no argument that a file may give"),
        ("torchvision:../x", {}, "has no model"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "no argument that a file may give"),
    ],
)
def test_no_weights_and_no_hub_are_asked(name, config, message):
    vision_library("torchvision")
    vision_library("timm")
    register_library(name.partition(":")[0])
    with pytest.raises(ValueError, match=message):
        libraries.build_from_library(name, config)
