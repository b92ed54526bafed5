"""Expected hashes: how they are written, which algorithm they mean, and whether a file has one."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import string
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torchkutils._typing import PathLike

DIGEST_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
"""The algorithms that 'auto' chooses from, by their number of hexadecimal digits."""
READ_SIZE = 1 << 20
_STRENGTH = ("md5", "sha1", "sha256", "sha384", "sha512")


class ExpectedHash(NamedTuple):
    """What a file must hash to: the algorithm's name and the digest in lower-case hexadecimal digits."""

    algorithm: str
    digest: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


class _Written(NamedTuple):
    """A hash as it was written: the algorithm that is written with it ('' for none), its digest, its file's name."""

    algorithm: str
    digest: str
    name: str = ""


def known_algorithms() -> list[str]:
    """The names of the algorithms that this Python can compute."""
    return sorted(hashlib.algorithms_available)


def check_algorithm(algorithm: str, argument: str = "hash_algorithm") -> str:
    """The algorithm's name as hashlib writes it, or 'auto'.

    Raises:
        ValueError: It is neither.
    """
    if algorithm == "auto":
        return algorithm
    if isinstance(algorithm, str):
        name = algorithm.strip().lower().replace("-", "_")
        spellings = (name, name.replace("_", ""), name.replace("_", "-"))
        for spelling in ("auto", *spellings):
            if spelling in spellings and (spelling == "auto" or spelling in hashlib.algorithms_available):
                return spelling
    raise ValueError(
        f"{argument} must be 'auto' or one of {sorted(DIGEST_LENGTHS)} or another of hashlib's, got {algorithm!r}"
    )


def parse_hash(
    file_hash: str, algorithm: str = "auto", *, argument: str = "file_hash", name: str | None = None
) -> ExpectedHash:
    """Read an expected hash, in any of the ways in which hashes are published.

    Args:
        file_hash: Bare hexadecimal digits, `sha256:…`, a web page's integrity value (`sha256-` and base64), a line
            of `sha256sum` (`digest  name`) or of BSD (`SHA256 (name) = digest`), or several such lines.
        algorithm: 'auto' or the name of one of hashlib's algorithms.
        argument: What the messages call it.
        name: The file's name, which chooses among several lines.

    Raises:
        ValueError: It is no text, has other characters than hexadecimal digits, a length that no algorithm gives,
            or a length that is not the named algorithm's.
    """
    if not isinstance(file_hash, str):
        raise ValueError(f"{argument} must be hexadecimal digits as a string, got {file_hash!r}")
    wanted = check_algorithm(algorithm)
    written = _chosen(file_hash, argument, name)
    if written.algorithm:
        try:
            named = check_algorithm(written.algorithm)
        except ValueError:
            raise ValueError(
                f"{argument} names {written.algorithm!r}, got {file_hash!r}; known are {known_algorithms()}"
            ) from None
        if wanted not in {"auto", named}:
            raise ValueError(f"{argument} says {named!r} but hash_algorithm is {algorithm!r}; leave one of them out")
        wanted = named
    return _fitting(written.digest, wanted, argument, file_hash)


def _fitting(digest: str, algorithm: str, argument: str, given: str) -> ExpectedHash:
    """The expected hash, once the number of its digits fits the algorithm."""
    by_length = {length: name for name, length in DIGEST_LENGTHS.items()}
    is_hexadecimal = bool(digest) and set(digest) <= set(string.hexdigits)
    named = by_length.get(len(digest)) if algorithm == "auto" else algorithm
    if named is None or not is_hexadecimal:
        raise ValueError(
            f"{argument} must be {sorted(by_length)} hexadecimal digits long ({', '.join(DIGEST_LENGTHS)}), "
            f"got {given!r} of {len(digest)} characters"
        )
    _check_length(digest, named, argument, given)
    return ExpectedHash(named, digest)


def _check_length(digest: str, algorithm: str, argument: str, given: str) -> None:
    size = 2 * new_hash(algorithm).digest_size
    if size:
        fits, wanted = len(digest) == size, f"{size}"
    else:
        # SHAKE has no length of its own: the digits say how much of it is meant.
        fits, wanted = len(digest) % 2 == 0 and len(digest) >= 32, "an even number, and at least 32,"
    if not fits:
        raise ValueError(f"{argument} must have {wanted} digits for {algorithm}, got {len(digest)} in {given!r}")


def _chosen(text: str, argument: str, name: str | None) -> _Written:
    """The one hash that is meant: the file's own line, else the strongest of an integrity value, else the only one."""
    lines = [line.strip() for line in text.splitlines()]
    found = [_written(line) for line in lines if line and not line.startswith("#")]
    if len(found) > 1 and name is not None:
        found = _named(found, os.path.basename(name)) or found  # noqa: PTH119
    if len(found) > 1:
        raise ValueError(
            f"{argument} has {len(found)} lines, and none of them, or several, are for {name!r}: give one line"
        )
    return found[0] if found else _Written("", "")


def _named(found: list[_Written], name: str) -> list[_Written]:
    return [written for written in found if os.path.basename(written.name) == name]  # noqa: PTH119


def _written(line: str) -> _Written:
    if bsd := re.fullmatch(r"([A-Za-z0-9/_-]+) ?\((.*)\) ?= ?([0-9A-Fa-f]+)", line):
        return _Written(bsd[1].replace("/", "_"), bsd[3].lower(), bsd[2])
    if listed := re.fullmatch(r"\\?([0-9A-Fa-f]{32,}) [ *](.+)", line):
        return _Written("", listed[1].lower(), listed[2])
    integrity = [_integrity(part) for part in line.split()]
    strongest = max((written for written in integrity if written), key=_strength, default=None)
    if strongest is not None:
        return strongest
    if ":" not in line:
        return _Written("", line.lower())
    algorithm, _, digest = line.partition(":")
    return _Written(algorithm.strip(), digest.strip().lower())


def _integrity(text: str) -> _Written | None:
    """A value of Subresource Integrity: the algorithm, a minus, base64."""
    match = re.fullmatch(r"(sha(?:256|384|512)|sha1|md5)-([A-Za-z0-9+/_-]+={0,2})(?:\?.*)?", text)
    if match is None:
        return None
    try:
        digest = base64.b64decode(match[2].replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        return None
    return _Written(match[1], digest.hex())


def _strength(written: _Written) -> int:
    return _STRENGTH.index(written.algorithm)


def new_hash(algorithm: str) -> hashlib._Hash:
    """Start a hash that recognizes files; it keeps nothing secret, so a FIPS machine may compute MD5 too."""
    return hashlib.new(algorithm, usedforsecurity=False)


def hex_digest(running: hashlib._Hash, length: int) -> str:
    """The hexadecimal digits of a hash; `length` counts only for SHAKE, which gives as many as one asks for."""
    if running.digest_size:
        return running.hexdigest()
    return running.hexdigest(length // 2)  # type: ignore[call-arg]


def _digest_of(path: PathLike, algorithm: str, length: int, chunk_size: int) -> str:
    running = new_hash(algorithm)
    buffer = memoryview(bytearray(chunk_size))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            running.update(buffer[:count])
    return hex_digest(running, length)


def file_matches(path: PathLike, expected: ExpectedHash, chunk_size: int = READ_SIZE) -> bool:
    """Tell whether the file at `path` has that hash, reading `chunk_size` bytes at a time."""
    return _digest_of(path, expected.algorithm, len(expected.digest), chunk_size) == expected.digest


def _check_chunk_size(chunk_size: object) -> None:
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size must be a positive number of bytes, got {chunk_size!r}")


def validate_file(fpath: PathLike, file_hash: str, algorithm: str = "auto", chunk_size: int = 65535) -> bool:
    """Tell whether a file has a given hash.

    Args:
        fpath: The file.
        file_hash: 32 (MD5), 40 (SHA-1), 64 (SHA-256) or 128 (SHA-512) hexadecimal digits, in either case, or
            with the algorithm in front: `sha256:…`, `blake2b:…`, any of hashlib's. An integrity value
            (`sha256-` and base64) and lines of `sha256sum` are read too.
        algorithm: 'auto' (what `file_hash` says, else by the number of digits) or any name of hashlib's.
        chunk_size: Bytes read at a time.

    Returns:
        True when the file's hash is the given one.

    Raises:
        ValueError: `file_hash` or `algorithm` is none, they contradict each other, or `chunk_size` is not positive.
        OSError: The file cannot be read; FileNotFoundError when there is none.

    Differs from Keras: every algorithm of hashlib is known, case does not matter, and a hash that cannot be one
    raises instead of being compared as MD5.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     validate_file(file.name, "D41D8CD98F00B204E9800998ECF8427E")
    True
    """
    expected = parse_hash(
        file_hash, algorithm, name=os.fsdecode(fpath) if isinstance(fpath, (str, os.PathLike)) else None
    )
    _check_chunk_size(chunk_size)
    return file_matches(os.fspath(fpath), expected, chunk_size)


def hash_file(path: PathLike, algorithm: str = "sha256", chunk_size: int = READ_SIZE) -> str:
    """The hash of a file, as `get_file` and `validate_file` take it.

    Args:
        path: The file.
        algorithm: Any name of hashlib's; 'auto' means 'sha256'.
        chunk_size: Bytes read at a time.

    Returns:
        Lower-case hexadecimal digits. SHAKE, which has no length of its own, gives 64 of them.

    Raises:
        ValueError: `algorithm` is none that hashlib knows, or `chunk_size` is not positive.
        OSError: The file cannot be read; FileNotFoundError when there is none.

    Not in Keras 2.3.1, whose `_hash_file` was private.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     hash_file(file.name, "md5")
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    name = check_algorithm(algorithm, "algorithm")
    _check_chunk_size(chunk_size)
    return _digest_of(os.fspath(path), "sha256" if name == "auto" else name, 64, chunk_size)
