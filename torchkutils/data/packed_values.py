"""netCDF's packed values: integers with a scale and an offset, and a number that stands for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class UnpackedValues:
    """A normalizer that decodes values by the attributes of the CF conventions, section 8.1.

    Args:
        attributes: Of the data set; read are scale_factor, add_offset, _FillValue, missing_value and _Unsigned.

    What is missing becomes NaN. The result is float32 where the attributes are, float64 otherwise; data without any of
    these attributes stay as they are.
    """

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self._scale = _number(attributes, "scale_factor")
        self._offset = _number(attributes, "add_offset")
        fills = [np.ravel(attributes[name]) for name in ("_FillValue", "missing_value") if name in attributes]
        self._fills = np.concatenate(fills) if fills else None
        unsigned = attributes.get("_Unsigned", b"false")
        self._unsigned = (unsigned.decode() if isinstance(unsigned, bytes) else str(unsigned)).lower() == "true"

    def __call__(self, piece: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Decode rows."""
        packed = piece
        if self._unsigned and piece.dtype.kind == "i":
            packed = piece.view(piece.dtype.str.replace("i", "u"))
        if self._scale is None and self._offset is None and self._fills is None:
            return packed
        values = packed.astype(self._decoded_dtype(packed.dtype))
        if self._scale is not None:
            values *= self._scale
        if self._offset is not None:
            values += self._offset
        if self._fills is not None:
            # Missing values are told by what is stored, before scale and offset.
            values[np.isin(piece, self._fills)] = np.nan
        return values

    def _decoded_dtype(self, packed: np.dtype[Any]) -> np.dtype[Any]:
        numbers = [number for number in (self._scale, self._offset) if number is not None]
        if not numbers and packed.kind == "f":
            return packed
        single = bool(numbers) and all(number.dtype == np.float32 for number in numbers)
        return np.dtype(np.float32 if single else np.float64)


def _number(attributes: Mapping[str, Any], name: str) -> Any:
    return np.ravel(attributes[name])[0] if name in attributes else None
