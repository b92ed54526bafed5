"""A module that shows another one, its template, as itself."""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from torch import nn


class TemplateView(nn.Module):
    """A module that shows another one, its template, as itself: parameters, keys, attributes, modes, pickling.

    Attributes:
        own_names: What a view holds itself; every other attribute is read from, and set on, the template. A subclass
            adds its own.
    """

    # nn.Module's own state for hooks belongs to the view: a hook on the view runs once, not once a replica.
    own_names: ClassVar[frozenset[str]] = frozenset(nn.Module().__dict__) - {"training"}

    def __init__(self, template: nn.Module) -> None:
        object.__setattr__(self, "__template__", template)
        super().__init__()
        object.__setattr__(self, "_non_persistent_buffers_set", template._non_persistent_buffers_set)

    @property
    def template(self) -> nn.Module:
        """The model that was passed to `multi_gpu_model`."""
        inside: nn.Module = self.__dict__["__template__"]
        return inside

    # nn.Module looks these three up, and its constructor sets them: they are the template's.

    @property
    def _parameters(self) -> Any:
        return self.template._parameters

    @_parameters.setter
    def _parameters(self, value: Any) -> None:
        """Belongs to the template."""

    @property
    def _buffers(self) -> Any:
        return self.template._buffers

    @_buffers.setter
    def _buffers(self, value: Any) -> None:
        """Belongs to the template."""

    @property
    def _modules(self) -> Any:
        return self.template._modules

    @_modules.setter
    def _modules(self, value: Any) -> None:
        """Belongs to the template."""

    @property
    def training(self) -> bool:
        """The template's mode."""
        return bool(self.template.training)

    @training.setter
    def training(self, value: bool) -> None:
        """Only nn.Module's constructor comes here, which must not change the template; see `__setattr__`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.template, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training":
            self.template.training = value
        elif name in self.own_names:
            object.__setattr__(self, name, value)
        else:
            setattr(self.template, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.template, name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(self.template)})

    def register_buffer(self, *args: Any, **kwargs: Any) -> None:
        """On the template."""
        self.template.register_buffer(*args, **kwargs)

    def register_parameter(self, *args: Any, **kwargs: Any) -> None:
        """On the template."""
        self.template.register_parameter(*args, **kwargs)

    def add_module(self, *args: Any, **kwargs: Any) -> None:
        """On the template."""
        self.template.add_module(*args, **kwargs)

    def register_module(self, *args: Any, **kwargs: Any) -> None:
        """On the template."""
        self.template.register_module(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The template's, by its own keys."""
        return self.template.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Into the template."""
        return self.template.load_state_dict(*args, **kwargs)

    def train(self, mode: bool = True) -> Any:
        """Set the template's mode; the replicas follow at the next call."""
        self.template.train(mode)
        return self

    def apply(self, fn: Callable[[nn.Module], None]) -> Any:
        """Apply a function to the template and to every module inside."""
        self.template.apply(fn)
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the template in place; each replica runs compiled code with its own weights."""
        self.template.compile(*args, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.template._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What is pickled is the template: reading it back needs no torchkutils and no second device."""
        reduced: Any = self.template.__reduce_ex__(protocol)
        make, arguments, *rest = reduced
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            # pickle lets __newobj__ make only instances of the pickled object's own class.
            make = arguments[0].__new__
        return (make, arguments, *rest)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.template, memo)

    def __len__(self) -> int:
        inside: Any = self.template
        return len(inside)

    def __bool__(self) -> bool:
        return bool(self.template)

    def __iter__(self) -> Iterator[Any]:
        inside: Any = self.template
        return iter(inside)

    def __getitem__(self, key: Any) -> Any:
        inside: Any = self.template
        return inside[key]
