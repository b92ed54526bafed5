"""compare_models: what differs between two models, as data, as text and as a page."""

from __future__ import annotations

import dataclasses
import pathlib
from dataclasses import dataclass
from typing import Any

import torch

from torchkutils._typing import PathLike
from torchkutils.models.comparing.differences import Differences, ModuleDifference, differences_of
from torchkutils.models.forward.raised_errors import add_note
from torchkutils.models.page import ModelPage, comparison_page
from torchkutils.models.records import EngineName, Mode, Run, Trace
from torchkutils.models.render import check_folder, write_whole
from torchkutils.models.table.comparison import Change
from torchkutils.models.trace import trace_model

__all__ = ["Change", "ModelComparison", "ModuleDifference", "compare_models"]


@dataclass(frozen=True)
class ModelComparison:
    """What differs between two models, module by module; `str()` and `repr()` list it, a notebook shows the page.

    Attributes:
        names: The class names of both models.
        differences: Modules that changed, that only the first model has (removed), or only the second one (added).
        totals: What differs in the totals: total_params, trainable_params, param_bytes, flops.
        modules_equal: How many modules are the same in both.
    """

    names: tuple[str, str]
    differences: tuple[ModuleDifference, ...]
    totals: tuple[Change, ...]
    modules_equal: int
    _traces: tuple[Trace, Trace] = dataclasses.field(repr=False, compare=False)
    _pairs: dict[int, int] = dataclasses.field(repr=False, compare=False)

    @property
    def equal(self) -> bool:
        """Whether nothing differs. Values of weights are not compared."""
        return not (self.differences or self.totals)

    @property
    def changed(self) -> tuple[ModuleDifference, ...]:
        """Modules that both have, and that differ."""
        return self._of("changed")

    @property
    def removed(self) -> tuple[ModuleDifference, ...]:
        """The outermost modules that only the first model has."""
        return self._of("removed")

    @property
    def added(self) -> tuple[ModuleDifference, ...]:
        """The outermost modules that only the second model has."""
        return self._of("added")

    def _of(self, status: str) -> tuple[ModuleDifference, ...]:
        return tuple(difference for difference in self.differences if difference.status == status)

    def to_dict(self) -> dict[str, Any]:
        """Everything as what JSON can hold."""
        return {
            "names": list(self.names),
            "equal": self.equal,
            "modules_equal": self.modules_equal,
            "differences": [dataclasses.asdict(difference) for difference in self.differences],
            "totals": [dataclasses.asdict(change) for change in self.totals],
        }

    def page(self) -> ModelPage:
        """Both models side by side as one HTML page; what differs is marked, the same module chosen in both."""
        return comparison_page(self._traces, self._pairs, self.to_dict())

    def save(self, path: PathLike) -> None:
        """Write the page.

        Raises:
            ValueError: The path does not end in .html.
            OSError: The file cannot be written.
        """
        _check_file(path)
        write_whole(pathlib.Path(path), self.page().html.encode())

    def __str__(self) -> str:
        counts = [f"{self.modules_equal:,} module{'' if self.modules_equal == 1 else 's'} equal"]
        counts += [
            f"{len(found):,} {word}"
            for found, word in ((self.changed, "changed"), (self.removed, "removed"), (self.added, "added"))
            if found
        ]
        head = "no difference" if self.equal else ", ".join(counts)
        lines = [f"{self.names[0]} → {self.names[1]}: {head}"]
        lines += [str(difference) for difference in self.differences]
        return "\n".join([*lines, *(f"total {change}" for change in self.totals)])

    def __repr__(self) -> str:
        # At a prompt the list is what one asked for.
        return str(self)

    def _repr_html_(self) -> str:
        return self.page()._repr_html_()


def compare_models(
    model: torch.nn.Module,
    other: torch.nn.Module,
    to_file: PathLike | None = None,
    *,
    input_size: Any = None,
    input_data: Any = None,
    input_kwargs: Any = None,
    dtypes: Any = None,
    mode: Mode = "eval",
    engine: EngineName = "auto",
) -> ModelComparison:
    """Say what differs between two models: classes, arguments, weights' shapes, shapes that went by, parameters, FLOPs.

    A module is paired with the one of the same path. Where names are numbers (in a
    `Sequential`), the alignment with the fewest differences decides, so that one inserted layer is one added layer. The
    other modules are paired by class and order under a parent that was renamed, and anywhere where their contents are
    equal. Both
    models stay bit for bit as they were; the values of weights are not compared.

    Args:
        model: The model before.
        other: The model after.
        to_file: Where the page goes that shows both side by side; it ends in .html. None writes nothing.
        input_size, input_data, input_kwargs, dtypes, mode, engine: As in `summarize`, the same for both models. Without
            any, structure alone is compared where the models bring no example along.

    Returns:
        A `ModelComparison`: `differences` (`changed`, `removed`, `added`), `totals`, `to_dict()`, `page()`, `save()`.

    Raises:
        TypeError, ValueError: An argument that cannot be; nothing was written.
        OSError: `to_file` cannot be written.
        Exception: What forward of one of the models raised, with a note which one it was.

    >>> before = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> after = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    >>> compare_models(before, after)
    Sequential → Sequential: 3 modules equal, 1 changed
    ~ 1: class_name ReLU → GELU; arguments none → approximate='none'
    """
    if to_file is not None:
        _check_file(to_file)
    run = Run.asked_for(locals())
    traces = _traced(model, run, "first"), _traced(other, run, "second")
    found: Differences = differences_of(*traces)
    comparison = ModelComparison(
        (traces[0].model_name, traces[1].model_name), found.found, found.totals, found.equal, traces, found.pairs
    )
    if to_file is not None:
        comparison.save(to_file)
    return comparison


def _traced(model: torch.nn.Module, run: Run, which: str) -> Trace:
    try:
        return trace_model(model, run)
    except Exception as error:
        add_note(error, f"this was raised for the {which} of the two models")
        raise


def _check_file(path: PathLike) -> None:
    if pathlib.Path(path).suffix.lower() != ".html":
        raise ValueError(f"to_file must end in .html, got {str(path)!r}; text and data are `str()` and `to_dict()`")
    check_folder(path)
