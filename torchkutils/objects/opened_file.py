"""open_model_file: what a file of tensors holds, one tensor or a slice of it, without a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch

from torchkutils._typing import PathLike
from torchkutils.objects.stored_file import ModelFile, checked_path, errors_with_path, opened_model_file
from torchkutils.objects.stored_state import StoredState
from torchkutils.objects.tensors import stored_dtype

__all__ = ["LazyTensor", "OpenedModelFile", "open_model_file"]


def open_model_file(path: PathLike) -> OpenedModelFile:
    """Open a file of `save_model` or `save_weights` to look at its tensors; no model is built, no class is needed.

    Args:
        path: The file; it may come from a stranger.

    Returns:
        A read-only view, to be used in a `with` statement: `keys()`, `shapes`, `dtypes`, and for each key a tensor that
        is read when it is asked for: `file[key].shape`, `file[key].read()`, `file[key][10:20]`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no model file, or a damaged one.

    >>> import tempfile, pathlib
    >>> from torchkutils import save_weights
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.h5"
    >>> save_weights({"table": torch.arange(6).reshape(3, 2)}, path)
    >>> with open_model_file(path) as file:
    ...     file.shapes, file["table"][1:].tolist()
    ({'table': (3, 2)}, [[2, 3], [4, 5]])
    """
    return OpenedModelFile(path)


class OpenedModelFile:
    """An open file of tensors by state-dict key; closed at the end of the `with` block, or by `close()`.

    Attributes:
        shapes: The shape of each tensor, by key.
        dtypes: The dtype of each tensor, by key.
    """

    def __init__(self, path: PathLike) -> None:
        self._name = checked_path(path)
        self._context = opened_model_file(path)
        self._file: ModelFile | None = self._context.__enter__()
        self._state = StoredState(self._file)
        names = self._file.names
        with errors_with_path(self._name):
            self.shapes: dict[str, tuple[int, ...]] = {key: self._state.shape(name) for key, name in names.items()}
            self.dtypes: dict[str, torch.dtype] = {key: self._state.dtype(name) for key, name in names.items()}

    def keys(self) -> list[str]:
        """The keys, in the order of the state dict."""
        return list(self.shapes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, key: object) -> bool:
        return key in self.shapes

    def __getitem__(self, key: str) -> LazyTensor:
        if key not in self.shapes:
            raise KeyError(f"{self._name} holds no tensor {key!r}; it holds {self.keys()[:10]}")
        return LazyTensor(self, key)

    def read(self, key: str) -> torch.Tensor:
        """One tensor, in memory of its own.

        Raises:
            KeyError: There is no such key.
            ValueError: The file is closed, or damaged.
        """
        return self[key].read()

    def open_file(self) -> ModelFile:
        """The open file.

        Raises:
            ValueError: It was closed.
        """
        if self._file is None:
            raise ValueError(f"{self._name} is closed; read inside the `with` block")
        return self._file

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        if self._file is not None:
            self._file = None
            self._context.__exit__(None, None, None)

    def __enter__(self) -> OpenedModelFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}, {len(self)} tensors>"


class LazyTensor:
    """A tensor in an open file; nothing is read before it is asked for.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
    """

    def __init__(self, file: OpenedModelFile, key: str) -> None:
        self._opened, self._key = file, key
        self.shape: tuple[int, ...] = file.shapes[key]
        self.dtype: torch.dtype = file.dtypes[key]

    def read(self) -> torch.Tensor:
        """The whole tensor, in memory of its own."""
        file = self._opened.open_file()
        with errors_with_path(self._opened._name):
            # A state of its own: what was read is the caller's, and is not kept.
            return StoredState(file).read(file.names[self._key])

    def __getitem__(self, key: Any) -> torch.Tensor:
        """What `tensor[key]` would be; of a slice or number along the first axis, only those rows are read."""
        first = key[0] if isinstance(key, tuple) and key else key
        rows = self._rows(first)
        if rows is None:
            return self.read()[key]
        if rows.start >= rows.stop:
            block = torch.empty((0, *self.shape[1:]), dtype=self.dtype)
        else:
            block = self._read_rows(rows.start, rows.stop)
        inner: Any = 0 if isinstance(first, int) else slice(None)
        return block[(inner, *key[1:])] if isinstance(key, tuple) else block[inner]

    def _rows(self, first: Any) -> range | None:
        """The rows that a key names, where they follow one another; None where the whole is read."""
        file = self._opened.open_file()
        if not self.shape or file.names[self._key] not in file.tensors:
            return None
        if isinstance(first, slice) and first.step in (None, 1):
            return range(*first.indices(self.shape[0]))
        if type(first) is int and -self.shape[0] <= first < self.shape[0]:
            return range(first % self.shape[0], first % self.shape[0] + 1)
        return None

    def _read_rows(self, start: int, stop: int) -> torch.Tensor:
        file = self._opened.open_file()
        block = torch.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        with errors_with_path(self._opened._name):
            target = block.view(stored_dtype(self.dtype)).numpy()
            file.read_into(file.names[self._key], target, start * math.prod(self.shape[1:]))
        return block

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._key!r} of {self.dtype} and shape {self.shape}>"
