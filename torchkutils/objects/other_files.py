"""What kind of file a path names, by its first bytes."""

from __future__ import annotations

import os

from torchkutils import _lazy

__all__ = ["is_hdf5", "kind_of_file"]

_MAGIC = {
    b"\x89HDF": "a damaged HDF5 file",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x02": "a torch checkpoint",
    b"\x80\x04": "a pickle",
    b"\x08": "an ONNX model",
}


def is_hdf5(path: str) -> bool:
    """Whether HDF5 would open the file; a block of the user's may precede its signature.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a folder.
    """
    if not os.path.exists(path):  # noqa: PTH110
        raise FileNotFoundError(f"there is no model file {path}")
    if os.path.isdir(path):  # noqa: PTH112
        raise IsADirectoryError(f"path must name a file, got the folder {path}")
    return bool(_lazy.h5py.h5f.is_hdf5(os.fsencode(path)))


def kind_of_file(path: str) -> str:
    """The kind of a file that is no HDF5: "a safetensors file", "a torch checkpoint", "text" and others."""
    with open(path, "rb") as file:
        start = file.read(4096)
    for magic, kind in _MAGIC.items():
        if start.startswith(magic) and not (len(magic) < 2 and not path.endswith(".onnx")):
            return kind
    if start.startswith(b"PK\x03\x04"):
        return _kind_of_archive(start)
    if len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        return "a safetensors file"
    return _kind_of_rest(start)


def _kind_of_archive(start: bytes) -> str:
    first = start[30:4096]
    if b"data.pkl" in first or b"/byteorder" in first or b".format_version" in first:
        return "a torch checkpoint"
    if first.startswith((b"metadata.json", b"config.json", b"model.weights.h5")):
        return "a Keras 3 archive"
    return "a zip archive"


def _kind_of_rest(start: bytes) -> str:
    if not start:
        return "empty"
    try:
        start[:-4].decode()
    except UnicodeDecodeError:
        return "of an unknown kind"
    return "text" if start.isascii() and b"\0" not in start else "of an unknown kind"
