"""Modules to plain configs and back."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from torchkutils._torch_versions import without_torch_function
from torchkutils.objects.budget import Budget
from torchkutils.objects.builtin_objects import builtin_name, is_stock_class
from torchkutils.objects.edits import apply_edit
from torchkutils.objects.libraries import build_from_library, built_empty, library_advice, library_node
from torchkutils.objects.parametrizations import plain_class
from torchkutils.objects.plain_values import decode, encode
from torchkutils.objects.recorded_arguments import recorded_config
from torchkutils.objects.registry import instance_of, look_up, registered_name, unknown_name
from torchkutils.objects.scope import get_custom_objects
from torchkutils.objects.stock_config import build_stock, construction_cost, is_container, layer_count, stock_config
from torchkutils.objects.tree import inside, named_tree

__all__ = ["ConfigReader", "ConfigWriter", "path_name"]


def path_name(path: str) -> str:
    """A module's path as a message names it."""
    return path or "the model"


class ConfigWriter:
    """Turns a module into a node `{"class_name", "config"}`; a module met twice becomes a reference by id.

    Args:
        store_tensor: Takes a tensor argument and what it is called in errors; gives the name under which it is stored.
        edits: Gives the edits of a module whose own constructor call does not tell all, None where the caller finds
            the edits of the whole tree.
    """

    real_classes: bool

    def __init__(
        self,
        store_tensor: Callable[[torch.Tensor, str], Any],
        edits: Callable[[nn.Module, dict[str, Any], str], list[Any]] | None = None,
    ) -> None:
        self.classes: dict[str, type] = {}
        self.real_classes = False
        self._store_tensor = store_tensor
        self._edits = edits
        self._nodes: dict[int, dict[str, Any]] = {}
        self._kept: list[nn.Module] = []
        self._ids: Counter[str] = Counter()
        self._paths: dict[int, str] = {}

    def name_paths(self, root: nn.Module) -> None:
        """Remember the paths of a tree, for messages."""
        self._paths = {id(module): path for path, module in named_tree(root)}

    def node(self, module: nn.Module, where: str) -> dict[str, Any]:
        """The node of a module; `where` names it in errors if it is in no tree."""
        module = inside(module)
        if id(module) in self._nodes:
            known = self._nodes[id(module)]
            if "id" not in known:
                known["id"] = self._ids["shared"]
                self._ids["shared"] += 1
            return {"shared": known["id"]}
        where = path_name(self._paths.get(id(module), where))
        result: dict[str, Any] = {}
        self._nodes[id(module)] = result
        self._kept.append(module)
        kind = plain_class(module)
        from_library = library_node(module)
        if from_library is not None:
            self.real_classes = True
            result["class_name"], config = from_library
        else:
            result["class_name"] = self._class_name(module, kind, where)
            config = self._config(module, kind, where)
        result["config"] = self._encode(config, where)
        if self._edits is not None and not is_stock_class(kind):
            result["edits"] = self._edits(module, result, where)
        return result

    def wrote(self, module: nn.Module) -> bool:
        """Whether a node was made of this very module."""
        return id(module) in self._nodes

    def written(self) -> set[int]:
        """The identities of the modules of which a node was made so far."""
        return set(self._nodes)

    def forget_all_but(self, written: set[int]) -> None:
        """Forget the nodes that were made since: whoever asked for them does not use them."""
        self._nodes = {identity: node for identity, node in self._nodes.items() if identity in written}

    def _class_name(self, module: nn.Module, kind: type, where: str) -> str:
        name = registered_name(kind) or builtin_name(kind) or _name_in_scope(kind) or kind.__name__
        if not is_stock_class(kind):
            self.real_classes = True
            if registered_name(kind) is None and not hasattr(kind, "get_config"):
                raise ValueError(_unknown_class(module, kind, where))
            if registered_name(kind) is None and look_up(name, None, None) not in (None, kind):
                raise ValueError(f"{where} is a {kind.__qualname__}, a name that is taken; register it in a package")
        if self.classes.setdefault(name, kind) is not kind:
            raise ValueError(f"{where}: two classes are called {name!r}; register one of them in a package")
        return name

    def _config(self, module: nn.Module, kind: type, where: str) -> dict[str, Any]:
        if is_stock_class(kind):
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
        for key in config:
            if not isinstance(key, str):
                raise ValueError(f"the config of {where} must have text as keys, got {key!r}")
        return {key: encode(value, f"{where}: argument {key}", self.special) for key, value in config.items()}

    def special(self, value: Any, where: str) -> Any:
        """A module or tensor inside a config."""
        if isinstance(value, nn.Module):
            return {"__module__": self.node(value, where)}
        return {"__tensor__": self._store_tensor(value, where)}


def _unknown_class(module: nn.Module, kind: type, where: str) -> str:
    what = f"{where} is a {kind.__qualname__}, which is neither a torch.nn class nor registered and has no get_config; "
    advice = library_advice(module)
    if advice:
        return f"{what}let the library's models be stored by name:\n    {advice}"
    return (
        f"{what}decorate the class, before the model is built:\n"
        f"    @torchkutils.register_keras_serializable()\n    class {kind.__name__}(...): ...\n"
        "or keep the tensors alone: torchkutils.save_weights(model, path)"
    )


def _name_in_scope(kind: type) -> str | None:
    return next((name for name, value in get_custom_objects().items() if value is kind), None)


class ConfigReader:
    """Builds modules from nodes; names are resolved in the one lookup order.

    Args:
        read_tensor: Gives a stored tensor by its name.
        custom_objects: Classes that are looked at first.
        budget: What the file may ask for; None for configs of the caller's own.
        check_stock: Looks at each module of torch.nn, built on the meta device, before it is built for real.
        empty_tensor: Gives a tensor on the meta device for the name of a stored one.
        device: What a stored device becomes.
        empty_parameters: Whether ParameterList and ParameterDict get tensors on the meta device.
    """

    def __init__(
        self,
        read_tensor: Callable[[Any], torch.Tensor],
        custom_objects: Mapping[str, Any] | None = None,
        budget: Budget | None = None,
        check_stock: Callable[[nn.Module], None] | None = None,
        empty_tensor: Callable[[Any], torch.Tensor] | None = None,
        device: torch.device | None = None,
        empty_parameters: bool = False,
    ) -> None:
        self._empty_parameters = empty_parameters
        self._read_tensor = read_tensor
        self._custom_objects = custom_objects
        self._budget = budget
        self._check_stock = check_stock
        self._empty_tensor = empty_tensor or read_tensor
        self._device = device
        self._shared: dict[int, nn.Module] = {}

    def module(self, node: Any) -> nn.Module:
        """Build the module of a node.

        Raises:
            ValueError: The node is malformed, its class unknown or no module class, or its constructor refuses.
        """
        if isinstance(node, dict) and set(node) == {"shared"}:
            if type(node["shared"]) is not int or node["shared"] not in self._shared:
                raise ValueError(f"a config refers to module {str(node['shared'])[:40]}, which it does not hold")
            return self._shared[node["shared"]]
        kind = self.class_of(node)
        module = self._of_library(node) if kind is None else self._of_class(kind, node)
        for edit in node.get("edits", ()):
            apply_edit(module, edit, self)
        if "id" in node:
            self._shared[node["id"]] = module
        return module

    def class_of(self, node: Any) -> type[nn.Module] | None:
        """The class a node names: a module class, never a function; None for a model of a library."""
        if not isinstance(node, dict) or not {"class_name", "config"} <= set(node) <= _NODE_KEYS:
            raise ValueError(f"a module's config must be a dict of class_name and config, got {str(node)[:100]}")
        name = node["class_name"]
        if not isinstance(name, str) or not isinstance(node["config"], dict) or not _sound(node):
            raise ValueError(f"class_name must be text and config a dict, got {str(node)[:100]}")
        found = look_up(name, self._custom_objects, None)
        if found is None and ":" in name:
            return None
        if found is None:
            raise unknown_name(name, "module class", self._custom_objects)
        if not inspect.isclass(found) or not issubclass(found, nn.Module):
            raise ValueError(f"class_name must name a module class, got {name!r}, which is none")
        return found

    def _of_library(self, node: dict[str, Any]) -> nn.Module:
        if self._budget is not None:
            self._budget.modules(1, node["class_name"][:60])
        config = {key: self.decode(value) for key, value in node["config"].items()}
        if self._check_stock is not None:
            self._check_stock(built_empty(lambda: build_from_library(node["class_name"], config)))
        return build_from_library(node["class_name"], config)

    def _of_class(self, kind: type[nn.Module], node: dict[str, Any]) -> nn.Module:
        if kind in (nn.ParameterList, nn.ParameterDict) and self._empty_parameters:
            # Each of thousands of calls would ask the mode that builds modules on the meta device.
            with without_torch_function():
                return self._called(kind, node, self._decode_empty)
        return self._called(kind, node, self.decode)

    def _called(self, kind: type[nn.Module], node: dict[str, Any], decoded: Callable[[Any], Any]) -> nn.Module:
        name = node["class_name"]
        config = {key: decoded(value) for key, value in node["config"].items()}
        try:
            self._pay(kind, name, config)
            built = self._build(kind, config)
        except Exception as error:
            raise ValueError(f"{name} cannot be built from its config: {error}") from error
        if not isinstance(built, nn.Module):
            raise ValueError(f"from_config of {name} must give a module, got {type(built).__name__}")
        return built

    def share_modules(self, other: ConfigReader) -> None:
        """Know the modules that another reader built, for references to them."""
        self._shared = other._shared

    def _build(self, kind: type[nn.Module], config: dict[str, Any]) -> Any:
        if is_stock_class(kind):
            if self._check_stock is not None and not is_container(kind):
                with torch.device("meta"):
                    self._check_stock(build_stock(kind, config))
            return build_stock(kind, config)
        return instance_of(kind, config, self._custom_objects)

    def _pay(self, kind: type[nn.Module], name: str, config: dict[str, Any]) -> None:
        if self._budget is None:
            return
        stock = is_stock_class(kind)
        self._budget.modules(construction_cost(kind, config) if stock else 1, name[:60])
        if stock and layer_count(config) > self._budget.layers_limit:
            raise ValueError(f"its layers must not exceed the tensors in the file, got {layer_count(config)}")

    def decode(self, value: Any) -> Any:
        """A value of a config with its modules and tensors."""
        return decode(value, self._special, custom_objects=self._custom_objects, device=self._device)

    def tensor(self, name: Any) -> torch.Tensor:
        """A stored tensor."""
        if self._budget is not None:
            self._budget.mention()
        return self._read_tensor(name)

    def allocate(self, nbytes: int) -> None:
        """Pay for memory that an edit takes."""
        if self._budget is not None:
            self._budget.allocate(nbytes)

    def empty(self, name: Any) -> torch.Tensor:
        """A tensor on the meta device like a stored one; while a model is being saved, the tensor itself."""
        if self._budget is not None:
            self._budget.mention()
        return self._empty_tensor(name)

    def _special(self, tag: str, body: Any) -> Any:
        if tag == "__module__":
            return self.module(body)
        if tag == "__tensor__":
            return self.tensor(body)
        raise ValueError(f"unknown value {tag!r} in a config")

    def _decode_empty(self, value: Any) -> Any:
        def special(tag: str, body: Any) -> Any:
            return self.empty(body) if tag == "__tensor__" else self._special(tag, body)

        return decode(value, special, custom_objects=self._custom_objects, device=self._device)


_NODE_KEYS = {"class_name", "config", "id", "edits"}


def _sound(node: dict[str, Any]) -> bool:
    return type(node.get("id", 0)) is int and isinstance(node.get("edits", []), list)
