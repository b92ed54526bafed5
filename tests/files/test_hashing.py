"""validate_file: which hash is meant, and whether a file has it."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchkutils import get_file, hash_file, validate_file
from torchkutils.files.hashing import parse_hash


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


CONTENT = b"content"
NAMED = sorted(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake"))


@pytest.mark.parametrize("name", [*NAMED, "sha3-256", "SHA-256", "SHA512", "Blake2b"])
def test_every_algorithm_of_hashlib_is_known(name, tmp_path) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    plain = name.lower().replace("-", "_") if "sha3" in name.lower() else name.lower().replace("-", "")
    digest = hashlib.new(plain, CONTENT).hexdigest()
    assert hash_file(path, name, chunk_size=3) == digest
    assert validate_file(path, digest, name)
    assert validate_file(path, f"{name}:{digest}")
    assert not validate_file(path, f"{name}:{'0' * len(digest)}")


@pytest.mark.parametrize("name", ["shake_128", "shake_256"])
def test_a_hash_without_a_length_of_its_own_has_the_length_that_is_given(name, tmp_path) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    assert hash_file(path, name) == hashlib.new(name, CONTENT).hexdigest(32)
    assert validate_file(path, f"{name}:{hashlib.new(name, CONTENT).hexdigest(20)}")
    for bad in ("", "ab", "abc" * 11):
        with pytest.raises(ValueError, match="file_hash must"):
            validate_file(path, f"{name}:{bad}")


SHA = hashlib.sha256(CONTENT).hexdigest()
SRI = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
SRI_384 = base64.b64encode(hashlib.sha384(CONTENT).digest()).decode()
WRONG = base64.b64encode(hashlib.md5(b"x").digest()).decode()


@pytest.mark.parametrize(
    ("text", "algorithm"),
    [
        (f"sha256-{SRI}", "sha256"),
        (f"sha256-{SRI.replace('+', '-').replace('/', '_').rstrip('=')}=", "sha256"),
        (f"sha384-{SRI_384}", "sha384"),
        (f"md5-{WRONG} sha256-{SRI}", "sha256"),
        (f"sha256-{SRI} sha384-{SRI_384}?opt", "sha384"),
        (f"{SHA}  f.bin", "sha256"),
        (f"{SHA.upper()} *folder/f.bin", "sha256"),
        (f"SHA256 (f.bin) = {SHA}", "sha256"),
        (f"SHA2-256(f.bin)= {SHA}".replace("SHA2-256", "SHA256"), "sha256"),
        (f"# sums\n{'0' * 64}  g.bin\n{SHA}  f.bin\n", "sha256"),
        (f" {SHA}\n", "sha256"),
        (f"sha256: {SHA}", "sha256"),
    ],
)
def test_hashes_are_read_as_they_are_published(text, algorithm, tmp_path) -> None:
    expected = parse_hash(text, name="f.bin")
    assert (expected.algorithm, expected.digest) == (algorithm, hashlib.new(algorithm, CONTENT).hexdigest())
    path = tmp_path / "f.bin"
    path.write_bytes(CONTENT)
    assert validate_file(path, text)
    fetched = get_file("f.bin", path.as_uri(), file_hash=text, cache_dir=tmp_path / "c", progress=False)
    assert validate_file(fetched, SHA)


@pytest.mark.parametrize(
    "text",
    [
        f"{SHA}  g.bin\n{SHA}  h.bin",
        "sha256-nonsense",
        f"sha256-{WRONG}",
        f"sha512-{SRI}",
        f"CRC32 (f.bin) = {SHA}",
        f"sha9:{SHA}",
        "\n\n",
    ],
)
def test_a_published_hash_that_does_not_fit_is_refused(text, tmp_path) -> None:
    with pytest.raises(ValueError, match="file_hash"):
        parse_hash(text, name="f.bin")


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
@pytest.mark.parametrize("options", [[], ["-b"], ["--tag"]])
def test_lines_of_sha256sum_are_read(options, tmp_path) -> None:
    path = tmp_path / "a file.bin"
    path.write_bytes(CONTENT)
    line = subprocess.run(["sha256sum", *options, path.name], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert validate_file(path, line.stdout)


@pytest.mark.parametrize("algorithm", ["crc32", "", None, 3])
def test_hash_file_names_what_it_knows(algorithm, tmp_path) -> None:
    with pytest.raises(ValueError, match="algorithm must be"):
        hash_file(tmp_path / "f", algorithm)
    with pytest.raises(FileNotFoundError, match="f"):
        hash_file(tmp_path / "f")
