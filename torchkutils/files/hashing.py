"""Expected hashes: how they are written, which algorithm they mean, and whether a file has one."""

from __future__ import annotations

import hashlib
import os
import string
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torchkutils._typing import PathLike

DIGEST_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
READ_SIZE = 1 << 20


class ExpectedHash(NamedTuple):
    """What a file must hash to: the algorithm's name and the digest in lower-case hexadecimal digits."""

    algorithm: str
    digest: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


def check_algorithm(algorithm: str) -> None:
    """Raise ValueError unless it is 'auto' or an algorithm that is known."""
    if not isinstance(algorithm, str) or algorithm.lower() not in {"auto", *DIGEST_LENGTHS}:
        raise ValueError(f"hash_algorithm must be 'auto' or one of {sorted(DIGEST_LENGTHS)}, got {algorithm!r}")


def parse_hash(file_hash: str, algorithm: str = "auto", *, argument: str = "file_hash") -> ExpectedHash:
    """Read an expected hash, as bare hexadecimal digits or as `sha256:…`.

    Raises:
        ValueError: It is no text, has other characters than hexadecimal digits, a length that no algorithm gives,
            or a length that is not the named algorithm's.
    """
    if not isinstance(file_hash, str):
        raise ValueError(f"{argument} must be hexadecimal digits as a string, got {file_hash!r}")
    check_algorithm(algorithm)
    prefix, colon, rest = file_hash.strip().lower().partition(":")
    digest, named = (rest, prefix) if colon else (prefix, algorithm.lower())
    if named not in {"auto", *DIGEST_LENGTHS}:
        raise ValueError(f"{argument} names {named!r}, got {file_hash!r}; known are {sorted(DIGEST_LENGTHS)}")
    if colon and algorithm.lower() not in {"auto", named}:
        raise ValueError(f"{argument} says {named!r} but hash_algorithm is {algorithm!r}; leave one of them out")
    by_length = {length: name for name, length in DIGEST_LENGTHS.items()}
    if not set(digest) <= set(string.hexdigits) or len(digest) not in by_length:
        raise ValueError(
            f"{argument} must be {sorted(by_length)} hexadecimal digits long ({', '.join(DIGEST_LENGTHS)}), "
            f"got {file_hash!r} of {len(digest)} characters"
        )
    if named not in {"auto", by_length[len(digest)]}:
        wanted = DIGEST_LENGTHS[named]
        raise ValueError(f"{argument} must have {wanted} digits for {named}, got {len(digest)} in {file_hash!r}")
    return ExpectedHash(by_length[len(digest)], digest)


def new_hash(algorithm: str) -> hashlib._Hash:
    """Start a hash that recognizes files; it keeps nothing secret, so a FIPS machine may compute MD5 too."""
    return hashlib.new(algorithm, usedforsecurity=False)


def file_matches(path: PathLike, expected: ExpectedHash, chunk_size: int = READ_SIZE) -> bool:
    """Tell whether the file at `path` has that hash, reading `chunk_size` bytes at a time."""
    running = new_hash(expected.algorithm)
    buffer = memoryview(bytearray(chunk_size))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            running.update(buffer[:count])
    return running.hexdigest() == expected.digest


def validate_file(fpath: PathLike, file_hash: str, algorithm: str = "auto", chunk_size: int = 65535) -> bool:
    """Tell whether a file has a given hash.

    Args:
        fpath: The file.
        file_hash: 32 (MD5), 40 (SHA-1), 64 (SHA-256) or 128 (SHA-512) hexadecimal digits, in either case, or
            with the algorithm in front: `sha256:…`.
        algorithm: 'auto' (by the number of digits), 'md5', 'sha1', 'sha256' or 'sha512'.
        chunk_size: Bytes read at a time.

    Returns:
        True when the file's hash is the given one.

    Raises:
        ValueError: `file_hash` or `algorithm` is none, they contradict each other, or `chunk_size` is not positive.
        OSError: The file cannot be read; FileNotFoundError when there is none.

    Differs from Keras: SHA-1 and SHA-512 are known, case does not matter, and a hash that cannot be one raises
    instead of being compared as MD5.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     validate_file(file.name, "D41D8CD98F00B204E9800998ECF8427E")
    True
    """
    expected = parse_hash(file_hash, algorithm)
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size must be a positive number of bytes, got {chunk_size!r}")
    return file_matches(os.fspath(fpath), expected, chunk_size)
