"""The one note that an exception of forward gets: which module failed, what it was given, what to try."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from torchkutils._call_hints import is_shape, meant
from torchkutils.models.records import Run, Trace, shape_text

# What torch says where a tensor has another dtype than a module wants, or an index lies beyond a table.
_ABOUT_DTYPES = re.compile(r"dtype|scalar type|type as|Long|Int\b|Half|BFloat16|index out of range|indices")

_OTHER_DTYPE = re.compile(r"should be the same|must have the same dtype|not implemented for '(Byte|Char|Int|Long)'")
# Longer are only those of modules that are nested hundreds of levels deep.
_LONGEST_PATH = 400
_CHANNELS = re.compile(r"to have (\d+) channels")


def failure_note(trace: Trace, run: Run, given: Sequence[torch.Tensor], wrapping: str | None) -> str:
    """The module that failed, by path, class and the shapes that it was given; then one hint, where there is one.

    Args:
        trace: What ran, with its failure.
        run: How it was asked for.
        given: The tensors that forward was given.
        wrapping: How `input_data` may have been meant otherwise; None where it is clear.
    """
    hint = f"{wrapping}." if wrapping else _hint(trace, run, given)
    return f"{_where(trace)} {hint}".rstrip()


def _where(trace: Trace) -> str:
    failure = trace.failure
    if failure is None:
        return f"forward of {trace.model_name} was not entered."
    module = trace.modules[trace.calls[failure.call].module]
    path = (
        f"{_shortened(module.path)} ({module.class_name})" if module.path else f"{module.class_name} (the model itself)"
    )
    return f"forward failed in {path}, which was given {shape_text(failure.inputs)}."


def _shortened(path: str) -> str:
    """A path without its middle, where it is so long that nobody would read it."""
    return path if len(path) <= _LONGEST_PATH else f"{path[: _LONGEST_PATH // 2]} … {path[-_LONGEST_PATH // 2 :]}"


def _hint(trace: Trace, run: Run, given: Sequence[torch.Tensor]) -> str:
    error = "" if trace.failure is None else trace.failure.error
    if error.startswith("RecursionError"):
        return "The model is nested deeper than Python's limit, which sys.setrecursionlimit raises."
    if trace.engine.ran == "meta":
        return "The trace ran on the meta device, where no value is known; engine='real' runs it."
    dtypes = ", ".join(f"{tensor.dtype}".removeprefix("torch.") for tensor in given)
    if run.input_size is None:
        return _hint_on_data(run.input_data, given, dtypes, error)
    if _ABOUT_DTYPES.search(error):
        return f"Inputs were made from input_size as {dtypes}; dtypes= chooses others."
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in given)
    order = "the batch axis first, then the channels" if _channels_stand_last(given, error) else "the batch axis first"
    return f"Inputs were made from input_size: {shapes} ({dtypes}), {order}."


def _hint_on_data(data: Any, given: Sequence[torch.Tensor], dtypes: str, error: str) -> str:
    """What to do to tensors that the caller gave."""
    if is_shape(data):
        return f"input_data holds numbers alone{meant(data)}"
    if _OTHER_DTYPE.search(error):
        return f"The inputs are {dtypes}: where the weights are float32, give x.float() (x.float() / 255 for an image)."
    if _channels_stand_last(given, error):
        return "The channels stand last; torch wants them after the batch axis: x.movedim(-1, 1)."
    return ""


def _channels_stand_last(given: Sequence[torch.Tensor], error: str) -> bool:
    channels = _CHANNELS.search(error)
    return channels is not None and any(one.ndim > 2 and one.shape[-1] == int(channels[1]) for one in given)
