"""Is the summary right on architectures that nobody here wrote? `make zoo` runs all of them and stores a table.

    python -m benchmarks.zoo                 # all; writes results/zoo.csv
    python -m benchmarks.zoo llama resnet    # those whose name holds one of the words; prints only

Each is built from a small configuration with random weights (no download) and run once on the CPU. The columns: total
parameters against `model.parameters()`; the modules that ran as leaves against torch's own hooks; FLOPs against torch's
FlopCounterMode (attention by its plain formula, since the counter sees no fused one on a CPU): fewer that are said to
be exact are wrong; whether everything is as before, bit for bit; pieces that the picture falls into; seconds of it.
"""

from __future__ import annotations

import contextlib
import csv
import os
import pathlib
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.zoo_of_libraries import LIBRARIES
from tests.models.vision import vision_library
from tests.models.whole_state import whole_state
from torchkutils.models.records import Run, Trace
from torchkutils.models.summary import summarize
from torchkutils.models.trace import trace_model

TABLE = pathlib.Path(__file__).parent / "results" / "zoo.csv"
COLUMNS = ("library", "model", "parameters", "leaves", "FLOPs", "exact", "torch's FLOPs", "unchanged", "pieces")
LIMIT = 120
"""Seconds for one model."""

TEXT = (
    "bert roberta distilbert albert electra deberta deberta-v2 mpnet camembert roformer squeezebert ernie "
    "nystromformer gpt2 gpt_neo gpt_neox gptj opt bloom codegen biogpt llama mistral mixtral qwen2 qwen2_moe qwen3 "
    "qwen3_moe gemma gemma2 phi phi3 falcon stablelm olmo cohere granite deepseek_v3 starcoder2 mamba mamba2 xlnet fnet"
)
TWO_PARTS = "t5 mt5 bart mbart pegasus marian m2m_100 blenderbot"
PICTURES = "vit deit beit convnext convnextv2 resnet regnet swin segformer poolformer mobilenet_v2 dinov2"
# Set where a configuration has such an attribute.
SMALL = {
    **dict.fromkeys(
        ["hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "word_embed_proj_dim"], 32
    ),
    **dict.fromkeys(["intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim"], 48),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size", "d_inner", "q_lora_rank"], 32),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"], 4),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["num_local_experts", "num_experts", "n_routed_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "n_group", "topk_group", "n_shared_experts"], 2),
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "image_size": 32,
    "patch_size": 8,
    "head_dim": 8,
    "d_kv": 8,
    "rotary_dim": 8,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "state_size": 8,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "n_ctx": 64,
}
# What the sizes above do not fit.
OWN = {
    "mamba2": {"num_heads": 8, "head_dim": 8, "hidden_size": 32, "expand": 2, "n_groups": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "convnext": {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "convnextv2": {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 4},
    "segformer": {"num_attention_heads": [1, 2, 4, 8], "num_encoder_blocks": 4, "patch_size": 4},
    "poolformer": {"patch_size": 7},
    "mobilenet_v2": {},
    "squeezebert": {"embedding_size": 32},
}
TORCHVISION = {
    **dict.fromkeys(
        ["resnet18", "mobilenet_v3_small", "densenet121", "densenet201", "googlenet", "swin_t"], (3, 64, 64)
    ),
    **dict.fromkeys(["convnext_tiny", "efficientnet_b0", "shufflenet_v2_x0_5", "squeezenet1_1"], (3, 64, 64)),
    **dict.fromkeys(["mnasnet0_5", "vgg11_bn", "regnet_y_400mf", "alexnet", "swin_t"], (3, 64, 64)),
    **dict.fromkeys(["deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large"], (3, 64, 64)),
    **dict.fromkeys(["r3d_18", "mc3_18", "r2plus1d_18"], (3, 16, 64, 64)),
    "swin3d_t": (3, 8, 64, 64),
    **dict.fromkeys(["vit_b_16", "maxvit_t"], (3, 224, 224)),
    "mvit_v2_s": (3, 16, 224, 224),
    "s3d": (3, 16, 224, 224),
    "inception_v3": (3, 96, 96),
    "raft_small": (3, 128, 128),
}
TIMM = {
    **dict.fromkeys(["levit_128s", "mixer_s32_224", "cait_xxs24_224", "xcit_nano_12_p16_224", "coat_lite_tiny"], 224),
    **dict.fromkeys(["efficientnetv2_rw_t", "regnetx_002", "poolformer_s12", "edgenext_xx_small", "repvgg_a0"], 96),
    **dict.fromkeys(["res2net50_14w_8s", "dla34", "ghostnet_100", "resnest14d", "selecsls42b", "hrnet_w18_small"], 96),
    "botnet26t_256": 256,
}


def transformer(kind: str) -> tuple[nn.Module, dict[str, Any]]:
    import transformers

    known = transformers.AutoConfig.for_model(kind).to_dict()
    mapped = transformers.CONFIG_MAPPING[kind].attribute_map
    names = set(known) | set(mapped)
    options = {
        name: value
        for name, value in SMALL.items()
        if name in names and mapped.get(name, name) not in OWN.get(kind, {})
    }
    config = transformers.AutoConfig.for_model(kind, **{**options, **OWN.get(kind, {})})
    model = transformers.AutoModel.from_config(config)
    ids = torch.arange(3, 11).reshape(1, 8)
    if kind in PICTURES.split():
        size = getattr(config, "image_size", 32)
        size = size if isinstance(size, int) else 32
        return model, {"pixel_values": torch.rand(1, 3, max(size, 32), max(size, 32))}
    if kind in TWO_PARTS.split():
        return model, {"input_ids": ids, "decoder_input_ids": ids}
    return model, {"input_ids": ids}


def torchvision(name: str) -> tuple[nn.Module, dict[str, Any]]:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    options |= {"weights_backbone": None} if name.startswith(("deeplab", "fcn", "lraspp")) else {}
    model = vision_library("torchvision").models.get_model(name, weights=None, **options)
    image = torch.rand(1, *TORCHVISION[name])
    return model, {"image1": image, "image2": image} if name.startswith("raft") else {"x": image}


def timm(name: str) -> tuple[nn.Module, dict[str, Any]]:
    vision_library("torchvision")
    return vision_library("timm").create_model(name), {"x": torch.rand(1, 3, TIMM[name], TIMM[name])}


def zoo() -> Iterator[tuple[str, str, Callable[[str], tuple[nn.Module, dict[str, Any]]]]]:
    for name in [*TEXT.split(), *TWO_PARTS.split(), *PICTURES.split()]:
        yield "transformers", name, transformer
    for name in TORCHVISION:
        yield "torchvision", name, torchvision
    for name in TIMM:
        yield "timm", name, timm
    for library, models in LIBRARIES.items():
        for name, make in models.items():
            yield library, name, lambda _, make=make: make()


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """No fused kernels, in which neither hooks nor torch's counter see anything."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def leaves_by_hooks(model: nn.Module, inputs: dict[str, Any]) -> list[int]:
    """The modules that called no other one, one entry a call, as torch's hooks see them."""
    leaves: list[int] = []
    inner = [False]

    def begins(module: nn.Module, args: Any) -> None:
        inner.append(False)

    def ends(module: nn.Module, args: Any, output: Any) -> None:
        if not inner.pop():
            leaves.append(id(module))
        inner[-1] = True

    handles = [module.register_forward_pre_hook(begins) for module in model.modules()]
    handles += [module.register_forward_hook(ends) for module in model.modules()]
    with plain_attention():
        run(model, inputs)
    for handle in handles:
        handle.remove()
    return sorted(leaves)


def flops_by_torch(model: nn.Module, inputs: dict[str, Any]) -> int | str:
    """What torch's counter sees; on some models it fails itself."""
    try:
        with plain_attention(), FlopCounterMode(display=False) as counter:
            run(model, inputs)
    except AssertionError as error:
        return f"fails: {error}"
    return counter.get_total_flops()


def run(model: nn.Module, inputs: dict[str, Any]) -> Any:
    return model(inputs["x"]) if list(inputs) == ["x"] else model(**inputs)


def pieces(trace: Trace) -> int:
    """How many parts of the data flow that hold a module or an output are not joined with each other."""
    group = {node.index: node.index for node in trace.nodes if node.kind not in ("parameter", "buffer", "constant")}

    def root(index: int) -> int:
        while group[index] != index:
            index = group[index]
        return index

    for edge in trace.edges:
        if edge.source in group and edge.target in group:
            group[root(edge.source)] = root(edge.target)
    # Functions of constants alone, whose result only steers Python, are no part of it.
    return len({root(node.index) for node in trace.nodes if node.kind in ("call", "output")})


def looked_at(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The row of one model."""
    model.eval()
    data: Any = inputs["x"] if list(inputs) == ["x"] else inputs
    expected = leaves_by_hooks(model, inputs)
    flops = flops_by_torch(model, inputs)
    before = whole_state(model)
    begin = time.perf_counter()
    summary = summarize(model, input_data=data, depth=None)
    seconds = time.perf_counter() - begin
    unchanged = whole_state(model) == before
    trace = trace_model(model, Run(input_data=data))
    paths = {path: id(module) for path, module in model.named_modules()}
    found = sorted(paths[trace.modules[call.module].path] for call in trace.calls if call.leaf)
    right_total = summary.total_params == sum(parameter.numel() for parameter in model.parameters())
    too_few = summary.flops_known and isinstance(flops, int) and summary.flops < flops
    return {
        "parameters": summary.total_params if right_total else f"WRONG: {summary.total_params}",
        "leaves": len(found) if found == expected else f"WRONG: {len(found)}, hooks {len(expected)}",
        "FLOPs": f"WRONG: {summary.flops}" if too_few else summary.flops,
        "exact": "yes" if summary.flops_known else "≥",
        "torch's FLOPs": flops,
        "unchanged": "yes" if unchanged else "NO",
        "pieces": pieces(trace),
        "seconds": round(seconds, 2),
    }


def too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {LIMIT} s")


def main(words: list[str]) -> int:
    torch.set_num_threads(1)
    # torchvision compiles the regions of interest where its own operator is absent: minutes for a few boxes.
    torch.compiler.set_stance("force_eager")
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, too_long)
    rows: list[dict[str, Any]] = []
    for library, name, make in zoo():
        if words and not any(word in f"{library} {name}" for word in words):
            continue
        torch.manual_seed(0)
        row: dict[str, Any] = {"library": library, "model": name}
        signal.alarm(LIMIT)
        try:
            row |= looked_at(*make(name))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            row["remark"] = f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
        finally:
            signal.alarm(0)
        rows.append(row)
        print(" | ".join(str(value) for value in row.values()), flush=True)
    if not words:
        with TABLE.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, [*COLUMNS, "seconds", "remark"], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
    bad = [row for row in rows if "WRONG" in str(row) or row.get("unchanged") == "NO"]
    print(f"{len(rows)} models, {len(bad)} wrong, {sum('remark' in row for row in rows)} that could not be looked at")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
