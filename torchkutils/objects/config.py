"""Modules to plain configs and back."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from torchkutils.objects.builtin_objects import builtin_name, is_stock_class
from torchkutils.objects.plain_values import decode, encode
from torchkutils.objects.recorded_arguments import call_with_config, recorded_config
from torchkutils.objects.registry import look_up, registered_class_name, unknown_name
from torchkutils.objects.stock_config import build_stock, stock_config

__all__ = ["ConfigReader", "ConfigWriter"]

_LAYER_COUNTS = ("num_layers", "num_encoder_layers", "num_decoder_layers")


class ConfigWriter:
    """Turns a module into a node `{"class_name", "config"}`; a module met twice becomes a reference by id."""

    def __init__(self, store_tensor: Callable[[torch.Tensor, str], Any]) -> None:
        self.classes: dict[str, type] = {}
        self._store_tensor = store_tensor
        self._nodes: dict[int, dict[str, Any]] = {}
        self._ids: Counter[str] = Counter()

    def node(self, module: nn.Module, where: str) -> dict[str, Any]:
        """The node of a module; `where` is its path, for errors."""
        if id(module) in self._nodes:
            known = self._nodes[id(module)]
            known.setdefault("id", len([n for n in self._nodes.values() if "id" in n]))
            return {"shared": known["id"]}
        kind = type(module)
        result: dict[str, Any] = {"class_name": self._class_name(kind, where)}
        self._nodes[id(module)] = result
        result["config"] = self._encode(self._config(module, where), where)
        return result

    def _class_name(self, kind: type, where: str) -> str:
        if kind.__name__.startswith("Parametrized") and kind.__module__.endswith("parametrize"):
            raise ValueError(f"{where} has a parametrization; remove it with remove_parametrizations, or save_weights")
        name = registered_class_name(kind) or builtin_name(kind) or kind.__name__
        if not is_stock_class(kind) and registered_class_name(kind) is None:
            if not hasattr(kind, "get_config"):
                raise ValueError(
                    f"{where} is a {kind.__qualname__}, which is neither a torch.nn class nor registered and has no "
                    "get_config; decorate it with register_keras_serializable, or use save_weights"
                )
            if look_up(name, None, None) not in (None, kind):
                raise ValueError(f"{where} is a {kind.__qualname__}, a name that is taken; register it in a package")
        if self.classes.setdefault(name, kind) is not kind:
            raise ValueError(f"{where}: two classes are called {name!r}; register one of them in a package")
        return name

    def _config(self, module: nn.Module, where: str) -> dict[str, Any]:
        if is_stock_class(type(module)):
            return stock_config(module, where)
        if hasattr(module, "get_config"):
            config: Any = getattr(module, "get_config")()  # noqa: B009
            if not isinstance(config, dict):
                raise ValueError(f"get_config of {where} must give a dict, got {type(config).__name__}")
            return config
        recorded = recorded_config(module)
        if recorded is None:
            raise ValueError(f"{where} was built before its class was registered; build it again, then save it")
        return recorded

    def _encode(self, config: dict[str, Any], where: str) -> dict[str, Any]:
        return {key: encode(value, f"{where}.{key}", self._special) for key, value in config.items()}

    def _special(self, value: Any, where: str) -> Any:
        if isinstance(value, nn.Module):
            return {"__module__": self.node(value, where)}
        return {"__tensor__": self._store_tensor(value, where)}


class ConfigReader:
    """Builds modules from nodes; names are resolved in the one lookup order."""

    def __init__(
        self,
        read_tensor: Callable[[Any], torch.Tensor],
        custom_objects: Mapping[str, Any] | None = None,
        max_layers: int | None = None,
        check_stock: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self._read_tensor = read_tensor
        self._custom_objects = custom_objects
        self._max_layers = max_layers
        self._check_stock = check_stock
        self._shared: dict[int, nn.Module] = {}

    def module(self, node: Any) -> nn.Module:
        """Build the module of a node.

        Raises:
            ValueError: The node is malformed, its class unknown or no module class, or its constructor refuses.
        """
        if isinstance(node, dict) and set(node) == {"shared"}:
            if not isinstance(node["shared"], int) or node["shared"] not in self._shared:
                raise ValueError(f"a config refers to module {str(node['shared'])[:40]}, which it does not hold")
            return self._shared[node["shared"]]
        kind = self.class_of(node)
        config = {key: decode(value, self._special) for key, value in node["config"].items()}
        self._check_layers(node["class_name"], config)
        module = self._build(kind, node["class_name"], config)
        if "id" in node:
            self._shared[node["id"]] = module
        return module

    def class_of(self, node: Any) -> type[nn.Module]:
        """The class a node names: a module class, never a function."""
        if not isinstance(node, dict) or not {"class_name", "config"} <= set(node) <= {"class_name", "config", "id"}:
            raise ValueError(f"a module's config must be a dict of class_name and config, got {str(node)[:100]}")
        name = node["class_name"]
        if not isinstance(name, str) or not isinstance(node["config"], dict):
            raise ValueError(f"class_name must be text and config a dict, got {str(node)[:100]}")
        found = look_up(name, self._custom_objects, None)
        if found is None:
            raise unknown_name(name, "module class", self._custom_objects)
        if not inspect.isclass(found) or not issubclass(found, nn.Module):
            raise ValueError(f"class_name must name a module class, got {name!r}, which is none")
        return found

    def _build(self, kind: type[nn.Module], name: str, config: dict[str, Any]) -> nn.Module:
        try:
            if is_stock_class(kind):
                if self._check_stock is not None:
                    with torch.device("meta"):
                        self._check_stock(build_stock(kind, config))
                return build_stock(kind, config)
            if hasattr(kind, "from_config"):
                built = kind.from_config(config)
            else:
                built = call_with_config(kind, config)
        except Exception as err:
            raise ValueError(f"{name} cannot be built from its config: {err}") from err
        if not isinstance(built, nn.Module):
            raise ValueError(f"from_config of {name} must give a module, got {type(built).__name__}")
        return built

    def _check_layers(self, name: str, config: Mapping[str, Any]) -> None:
        if self._max_layers is None:
            return
        for key in _LAYER_COUNTS:
            count = config.get(key, 0)
            if isinstance(count, int) and count > self._max_layers:
                raise ValueError(f"{key} of {name} must not exceed the tensors in the file, got {count}")

    def _special(self, tag: str, body: Any) -> Any:
        if tag == "__module__":
            return self.module(body)
        if tag == "__tensor__":
            return self._read_tensor(body)
        raise ValueError(f"unknown value {tag!r} in a config")
