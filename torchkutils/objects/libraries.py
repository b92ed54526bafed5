"""Models of other libraries, by the name that the library itself has for them.

A user switches a library on with `register_library`. From then on a model of it is stored as a name and a few
arguments, and what the user changed since as differences, like those of every model. A file can name nothing but what
is in the library's own list; weights never come from anywhere but the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

__all__ = ["build_from_library", "library_advice", "library_node", "register_library"]

_registered: set[str] = set()

Node = tuple[str, dict[str, Any]]


class _Library(NamedTuple):
    describe: Callable[[nn.Module], Node | None]
    build: Callable[[str, dict[str, Any]], nn.Module]


def register_library(name: str) -> None:
    """Let `save_model` and `load_model` store models of a library by the library's own name for them.

    Args:
        name: 'timm' (what `timm.create_model` builds), 'torchvision' (`torchvision.models`) or 'transformers' (classes
            that are built from a config). It holds for this process, in each that saves or loads.

    Raises:
        ValueError: There is no adapter for the library.
        ImportError: The library is not installed.

    A file then holds the name and a few plain arguments. When it is read, the name must be in the library's own
    list; no pretrained weights, code of the hub, path or URL is followed, whatever the file says.

    Keras has no such function.

    >>> register_library("keras_applications")
    Traceback (most recent call last):
        ...
    ValueError: name must be one of ['timm', 'torchvision', 'transformers'], got 'keras_applications'
    """
    if name not in _LIBRARIES:
        raise ValueError(f"name must be one of {sorted(_LIBRARIES)}, got {name!r}")
    if importlib.util.find_spec(name) is None:
        raise ImportError(f"{name} is not installed; pip install {name}")
    _registered.add(name)


def _library_of(module: nn.Module) -> str | None:
    name = type(module).__module__.partition(".")[0]
    return name if name in _LIBRARIES else None


def library_node(module: nn.Module) -> Node | None:
    """The name and arguments of a model of a registered library; None for any other module.

    Raises:
        ValueError: It is a model of such a library, but none that the library has a name for.
    """
    name = _library_of(module)
    if name is None or name not in _registered:
        return None
    found = _LIBRARIES[name].describe(module)
    return None if found is None else (f"{name}:{found[0]}", found[1])


def library_advice(module: nn.Module) -> str:
    """The line that switches on the library that a module comes from; "" where there is none."""
    name = _library_of(module)
    return "" if name is None or name in _registered else f"torchkutils.register_library({name!r})"


def build_from_library(name: str, config: dict[str, Any]) -> nn.Module:
    """Build a model that `library_node` described.

    Raises:
        ValueError: The library is not registered, has no such model, or an argument is none that a file may give.
    """
    library, _, model = name.partition(":")
    if library not in _registered:
        way = f"; torchkutils.register_library({library!r}) allows it" if library in _LIBRARIES else ""
        raise ValueError(f"it holds the model {name[:60]!r} of a library that is not registered{way}")
    try:
        return _LIBRARIES[library].build(model, config)
    except Exception as error:
        raise ValueError(f"{name[:60]} cannot be built: {error}") from error


def built_empty(build: Callable[[], nn.Module]) -> nn.Module:
    """A model on the meta device; for real where its constructor looks at values, and for no other reason."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, TypeError, ValueError) as error:
        if not _needs_values(error):
            raise
    return build()


def _needs_values(error: BaseException | None) -> bool:
    """Whether an error, or the one behind it, says that a tensor on the meta device has no values."""
    while error is not None:
        if isinstance(error, RuntimeError | TypeError) and "meta" in str(error).lower():
            return True
        error = error.__cause__
    return False


def _checked_arguments(config: Mapping[str, Any], allowed: Mapping[str, type]) -> dict[str, Any]:
    for key, value in config.items():
        if key not in allowed or (value is not None and type(value) is not allowed[key]):
            raise ValueError(f"{str(key)[:40]!r} is no argument that a file may give")
    return dict(config)


# -- timm --------------------------------------------------------------------------------------------------------------

_TIMM_ARGUMENTS: dict[str, type] = {"num_classes": int, "in_chans": int, "drop_path_rate": float}


def _describe_timm(module: nn.Module) -> Node | None:
    timm = importlib.import_module("timm")
    told: Any = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    name = told.get("architecture") if isinstance(told, Mapping) else None
    if not isinstance(name, str) or not timm.is_model(name):
        return None
    return name, _timm_options(module)


def _timm_options(module: nn.Module) -> dict[str, Any]:
    """The arguments of `timm.create_model` that a model's layers tell."""
    config: dict[str, Any] = {}
    if type(getattr(module, "num_classes", None)) is int:
        config["num_classes"] = module.num_classes
    first = next((one for one in module.modules() if isinstance(one, nn.Conv1d | nn.Conv2d)), None)
    if first is not None and first.in_channels != 3:
        config["in_chans"] = first.in_channels
    rates = [float(one.drop_prob) for one in module.modules() if type(one).__name__ == "DropPath"]  # type: ignore[arg-type]
    if any(rates):
        config["drop_path_rate"] = max(rates)
    return config


def _build_timm(name: str, config: dict[str, Any]) -> nn.Module:
    timm = importlib.import_module("timm")
    # The registry's own list: "hf-hub:…" and "local-dir:…" are no names in it.
    if not re.fullmatch(r"\w+", name) or not timm.is_model(name):
        raise ValueError(f"timm has no model {name[:60]!r}")
    made: nn.Module = timm.create_model(name, pretrained=False, **_checked_arguments(config, _TIMM_ARGUMENTS))
    return made


# -- torchvision -------------------------------------------------------------------------------------------------------

_VISION_ARGUMENTS: dict[str, type] = {"num_classes": int, "aux_logits": bool, "aux_loss": bool}


def _describe_vision(module: nn.Module) -> Node | None:
    """torchvision's models do not know their names: those of their class are built on meta, and the best fit is it."""
    models = importlib.import_module("torchvision.models")
    names = [name for name in models.list_models() if _built_class(models, name) is type(module)]
    if not names:
        return None
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    best, fitting = None, 0
    for name in names:
        config = _vision_config(module, name)
        state = built_empty(lambda: _build_vision(name, config)).state_dict()  # noqa: B023
        fit = sum(wanted.get(key) == tuple(value.shape) for key, value in state.items())
        if fit > fitting:
            best, fitting = (name, config), fit
        if fit == len(wanted) == len(state):
            break
    return best


def _built_class(models: Any, name: str) -> Any:
    builder = models.get_model_builder(name)
    told = builder.__annotations__.get("return")
    if isinstance(told, str):
        return getattr(importlib.import_module(builder.__module__), told, None)
    return told


def _vision_config(module: Any, name: str) -> dict[str, Any]:
    config: dict[str, Any] = {}
    heads = [one for one in module.modules() if isinstance(one, nn.Linear)]
    if heads and ("/" not in name) and type(heads[-1].out_features) is int:
        config["num_classes"] = heads[-1].out_features
    if type(getattr(module, "aux_logits", None)) is bool:
        config["aux_logits"] = module.aux_logits
    if hasattr(module, "aux_classifier"):
        config = {"aux_loss": module.aux_classifier is not None}
    return config


def _build_vision(name: str, config: dict[str, Any]) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    if name not in models.list_models():
        raise ValueError(f"torchvision has no model {name[:60]!r}")
    arguments = _checked_arguments(config, _VISION_ARGUMENTS)
    builder = models.get_model_builder(name)
    if "weights_backbone" in builder.__code__.co_varnames or "weights_backbone" in _parameters(builder):
        arguments["weights_backbone"] = None
    if builder.__module__.endswith(("googlenet", "inception")):
        arguments["init_weights"] = False  # minutes of drawing values that the file replaces
    made: nn.Module = builder(weights=None, progress=False, **arguments)
    return made


def _parameters(function: Any) -> Any:
    return importlib.import_module("inspect").signature(function).parameters


# -- transformers ------------------------------------------------------------------------------------------------------

_ATTENTION = (None, "eager", "sdpa")
# What would fetch something, run other code, or only describe where weights once came from.
_FORBIDDEN_KEYS = re.compile(
    r"_name_or_path|auto_map|custom_pipelines|quantization_config|.*pretrained.*|backbone|backbone_kwargs|kernel_config|"
    r"use_kernels|use_timm_backbone|trust_remote_code|tokenizer_class|processor_class|compression_config"
)
_ATTENTION_KEYS = re.compile(r"_?attn_implementation.*|_?experts_implementation.*")
_EXPERTS = (None, "eager", "grouped_mm", "batched_mm")
_MAX_LAYERS = 1000
# A config makes a dict of that many texts out of this one number.
_MAX_LABELS = 100_000
_LAYERS = re.compile(r".*(layers|depths?|blocks|experts|stages|num_heads|stacks).*")


def _model_names() -> set[str]:
    """The names of model classes in the library's own mappings."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    found: set[str] = set()
    for key, mapping in vars(auto).items():
        if key.endswith("_MAPPING_NAMES"):
            for value in mapping.values():
                found.update(value if isinstance(value, list | tuple) else [value])
    return found


def _describe_transformers(module: nn.Module) -> Node | None:
    config: Any = getattr(module, "config", None)
    name = type(module).__name__
    transformers = importlib.import_module("transformers")
    if not isinstance(config, transformers.PreTrainedConfig) or name not in _model_names():
        return None
    if getattr(transformers, name, None) is not type(module):
        return None
    attention = getattr(config, "_attn_implementation", None)
    if attention not in _ATTENTION:
        raise ValueError(
            f"{name} uses the attention {attention!r}; call model.set_attn_implementation('sdpa') before saving"
        )
    return name, {"config": _plain_config(config.to_dict()), "attention": attention}


def config_of(value: Any) -> dict[str, Any] | None:
    """What a config object of transformers says of a model; None for any other object."""
    if not type(value).__module__.startswith("transformers.") or not hasattr(value, "to_diff_dict"):
        return None
    return _plain_config(value.to_dict())


def library_config(value: Any) -> Node | None:
    """The name and contents of a config object of a registered library, where it is a constructor's argument."""
    told = config_of(value) if "transformers" in _registered else None
    name = type(value).__name__
    known = told is not None and getattr(importlib.import_module("transformers"), name, None) is type(value)
    return (f"transformers:{name}", told) if known and told is not None else None


def config_from_library(name: Any, told: Any) -> Any:
    """The config object that `library_config` described.

    Raises:
        ValueError: The library is not registered, or has no such config.
    """
    library, _, kind = str(name).partition(":")
    if library != "transformers" or library not in _registered or not isinstance(told, dict):
        raise ValueError(f"it holds a config of a library that is not registered: {str(name)[:60]!r}")
    transformers = importlib.import_module("transformers")
    names = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING_NAMES
    found = getattr(transformers, kind, None) if kind in set(names.values()) else None
    if found is None:
        raise ValueError(f"transformers has no config {kind[:60]!r}")
    _check_config(told)
    return found.from_dict(told)


def _plain_config(told: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for key, value in told.items():
        if _FORBIDDEN_KEYS.fullmatch(key) or _ATTENTION_KEYS.fullmatch(key):
            continue
        kept[key] = _plain_config(value) if isinstance(value, Mapping) and _is_words(value) else value
    return kept


def _is_words(value: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) for key in value)


def _check_config(told: Mapping[Any, Any]) -> None:
    for key, value in told.items():
        text = str(key)
        if _FORBIDDEN_KEYS.fullmatch(text) or _ATTENTION_KEYS.fullmatch(text):
            raise ValueError(f"{text[:40]!r} is nothing that a file may say of a model")
        limit = _limit_of(text)
        if type(value) is int and limit is not None and value > limit:
            raise ValueError(f"{text[:40]} must be at most {limit}, got {value}")
        if isinstance(value, Mapping):
            _check_config(value)


def _limit_of(key: str) -> int | None:
    """The largest number that a file may give for a key of a config; None for any."""
    if key == "num_labels":
        return _MAX_LABELS
    return _MAX_LAYERS if _LAYERS.fullmatch(key) else None


def _build_transformers(name: str, config: dict[str, Any]) -> nn.Module:
    if name not in _model_names():
        raise ValueError(f"transformers has no model {name[:60]!r}")
    told, attention = config.get("config"), config.get("attention")
    if set(config) != {"config", "attention"} or not isinstance(told, dict) or attention not in _ATTENTION:
        raise ValueError("it must have a config and a built-in attention implementation")
    _check_config(told)
    kind: Any = getattr(importlib.import_module("transformers"), name)
    made_config = kind.config_class.from_dict(told)
    made: nn.Module = kind._from_config(made_config, **({"attn_implementation": attention} if attention else {}))
    return made


_LIBRARIES = {
    "timm": _Library(_describe_timm, _build_timm),
    "torchvision": _Library(_describe_vision, _build_vision),
    "transformers": _Library(_describe_transformers, _build_transformers),
}
