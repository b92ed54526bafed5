"""validate_file: which hash is meant, and whether a file has it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchkutils import validate_file


@settings(deadline=None, max_examples=40)
@given(
    content=st.binary(max_size=300), name=st.sampled_from(["md5", "sha1", "sha256", "sha512"]), size=st.integers(1, 99)
)
def test_a_file_has_its_own_hash_and_no_other(content, name, size, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("hash") / "f"
    path.write_bytes(content)
    digest = hashlib.new(name, content).hexdigest()
    for text, algorithm in ((digest, "auto"), (digest.upper(), name), (f"{name}:{digest}", "auto")):
        assert validate_file(path, text, algorithm, chunk_size=size)
    wrong = ("0" if digest[0] != "0" else "1") + digest[1:]
    assert not validate_file(str(path), wrong)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None])
def test_a_chunk_has_at_least_one_byte(size, tmp_path) -> None:
    with pytest.raises(ValueError, match="chunk_size must be"):
        validate_file(tmp_path, "0" * 32, chunk_size=size)


@pytest.mark.parametrize("bad", ["", "0" * 31, "x" * 32, None, "md5:" + "0" * 64])
def test_a_hash_that_cannot_be_one_is_refused(bad, tmp_path) -> None:
    with pytest.raises(ValueError, match="file_hash must"):
        validate_file(tmp_path / "f", bad)


def test_a_missing_file_is_an_error(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        validate_file(tmp_path / "nothing", "0" * 32)
