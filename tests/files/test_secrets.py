"""A marked secret goes through every failure; no message, attribute, log, output or hidden file may show it."""

from __future__ import annotations

import base64
import logging
import os
import pathlib
import traceback
import urllib.parse
import warnings

import pytest

from tests.files.raw_server import answer, raw_server
from torchkutils import Registry, get_file
from torchkutils.files.addresses import shown_url

SECRET = "S3CRETxyz"
BASIC = base64.b64encode(f"me:{SECRET}".encode()).decode()
FORMS = [SECRET, BASIC, base64.b64encode(SECRET.encode()).decode().rstrip("="), SECRET.lower()]


def chain_of(error: BaseException | None) -> list[BaseException]:
    """The exception with all that a traceback would print under it."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def seen_of(error: BaseException) -> str:
    texts = ["".join(traceback.format_exception(error))]
    for link in chain_of(error):
        texts += [str(link), repr(link), repr(vars(link)), repr(link.args)]
    return "\n".join(texts)


def echo(connection, server) -> None:
    """A server that says what it was told wherever it can."""
    told = server.heads[-1]
    lines = [line for line in told.splitlines() if SECRET in line or BASIC in line]
    said = urllib.parse.quote(lines[0]) if lines else "nothing"
    connection.sendall(answer(said.encode(), f"X-Echo: {said}", f"Location: ftp://{said}", status="302 Found"))


NOT_FOUND = answer(b"", status="404 Not Found")
LOGINS = [
    "me:{0}@",
    "me:x@{0}@",
    "{0}@",
    "{0}:@",
    "{0}:x-oauth-basic@",
    "me:a/{0}@",
    "me:a#{0}@",
    "me:a?{0}@",
    "me:%53{0}@",
]
QUERIES = [
    "?token={0}",
    "?x=1&sig={0}&y=2",
    "?X-Amz-Signature={0}",
    "?t={0}",
    "#access_token={0}",
    "?a;key={0}",
    "?{0}",
    "#{0}",
]


def calls(place: str, folder: pathlib.Path) -> dict[str, object]:
    """Every failure that has an address or a header in it, each by a call."""
    url, secret_url = f"http://{place}/f.bin", f"http://me:{SECRET}@{place}/f.bin"
    here = {"cache_dir": folder, "retries": 0, "timeout": (1, 0.3, 0.6)}

    def get(origin, fname="f.bin", **options):
        return lambda: get_file(fname, origin, **{**here, **options})

    found = {
        "offline": get(secret_url, offline=True),
        "no name": get(f"http://me:{SECRET}@{place}/", None),
        "no name with a query": get(f"http://me:{SECRET}@{place}/x/?id={SECRET}", None),
        "bad port": get(f"http://me:{SECRET}@127.0.0.1:99999/f"),
        "a space in the port": get(f"http://me:{SECRET}@127.0.0.1:8 0/f"),
        "half an address": get(f"http://me:{SECRET}@[::1/f"),
        "no host": get(f"http://me:{SECRET}@/f"),
        "unknown protocol": get(f"htp://me:{SECRET}@127.0.0.1/f"),
        "no protocol": get(f"me:{SECRET}@127.0.0.1/f"),
        "a control character": get(secret_url + "\n"),
        "bytes": get(secret_url.encode()),
        "an address in a list": get([secret_url]),
        "mirrors of one text": get(url, mirrors=secret_url),
        "a bad mirror": get(url, mirrors=[f"nope://{SECRET}@h/x"]),
        "mirrors that fail": get(secret_url, mirrors=[secret_url + "2"]),
        "a host that is not there": get(f"http://me:{SECRET}@nobody.invalid/f"),
        "nobody listens": get(f"http://me:{SECRET}@127.0.0.1:9/f"),
        "no tls": get(f"https://me:{SECRET}@{place}/f"),
        "ftp": get(f"ftp://me:{SECRET}@127.0.0.1:9/f"),
        "ftp to http": get(f"ftp://me:{SECRET}@{place}/f"),
        "a chain": get(f"zip://x::http://me:{SECRET}@{place}/f.zip"),
        "a chain with an unknown link": get(f"nope://x::http://me:{SECRET}@{place}/f.zip"),
        "an object store": get(f"s3://me:{SECRET}@bucket/f"),
        "webdav": get(f"webdav://me:{SECRET}@{place}/f"),
        "sftp": get(f"sftp://me:{SECRET}@127.0.0.1:9/f"),
        "a wrong hash": get(secret_url, file_hash="0" * 64),
        "a header": get(url, headers={"Authorization": f"Bearer {SECRET}"}),
        "a header of another kind": get(url, headers={"X-Token": SECRET, "Cookie": f"a=1; s={SECRET}"}),
        "a token with a newline": get(url, headers={"Authorization": f"Bearer {SECRET}\n"}),
        "a token with a zero": get(url, headers={"Authorization": f"Bearer {SECRET}\0"}),
        "a token with spaces": get(url, headers={"Authorization": f" Bearer {SECRET} "}),
        "a token in another script": get(url, headers={"Authorization": f"Bearer {SECRET}…"}),
        "a token in bytes": get(url, headers={"Authorization": SECRET.encode()}),
        "a token as a name": get(url, headers={f"Authorization: {SECRET}": "x"}),
        "headers in a list": get(url, headers=[("Authorization", SECRET)]),
        "headers in a text": get(url, headers=f"Authorization: {SECRET}"),
        "a forbidden header": get(url, headers={"Range": SECRET}),
        "a registry's address": lambda: Registry(f"http://me:{SECRET}@{place}:x/", {"a": None}),
        "a registry without hashes": lambda: Registry(f"file://me:{SECRET}@h/x"),
        "a registry's file": lambda: Registry(f"http://me:{SECRET}@{place}/", {"a.bin": None}, **here).fetch("a.bin"),
        "a record": lambda: Registry(f"http://me:{SECRET}@{place}/records/1", **here).names,
        "a record's header": lambda: Registry(f"http://{place}/records/1", headers={"A": SECRET}, **here).names,
    }
    for login in LOGINS:
        found[f"a login {login}"] = get(f"http://{login.format(SECRET)}{place}/f.bin")
    for query in QUERIES:
        found[f"a query {query}"] = get(f"{url}{query.format(SECRET)}")
    return found


NAMES = list(calls("127.0.0.1:1", pathlib.Path()))


@pytest.mark.parametrize("name", NAMES)
def test_no_failure_shows_a_secret(name, tmp_path, caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    behaviours = [NOT_FOUND] if "registry" in name or "chain" in name else [NOT_FOUND, echo]
    for behaviour in behaviours:
        with raw_server(behaviour) as server, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises((OSError, ValueError, ImportError)) as error:
                calls(server.place, tmp_path)[name]()
        out, err = capfd.readouterr()
        seen = "\n".join([seen_of(error.value), caplog.text, out, err, *(str(item.message) for item in caught)])
        assert [form for form in FORMS if form in seen] == [], seen
    for folder, folders, files in os.walk(tmp_path):
        for entry in [*folders, *files]:
            path = pathlib.Path(folder, entry)
            assert SECRET not in str(path)
            assert not (path.is_file() and SECRET.encode() in path.read_bytes())


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", ["http://me:{0}@{1}", "socks5://me:{0}@{1}", "me:{0}@{1}", "http://me:{0}@{1}:x"])
def test_a_proxy_s_login_is_not_shown(variable, proxy, tmp_path, monkeypatch) -> None:
    with raw_server(answer(b"", status="407 Proxy Authentication Required")) as server:
        monkeypatch.setenv(variable, proxy.format(SECRET, server.place))
        with pytest.raises(OSError, match="proxy") as error:
            get_file("f", "http://example.invalid/f", cache_dir=tmp_path, retries=0)
    assert SECRET not in seen_of(error.value)


def test_a_netrc_that_is_none_is_not_quoted(tmp_path, monkeypatch) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {SECRET} {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with raw_server(answer()) as server, pytest.raises(OSError, match=r"netrc=True.*line \d") as error:
        get_file("f", server.url(), cache_dir=tmp_path / "c", netrc=True, retries=0)
    assert SECRET not in seen_of(error.value)


def test_what_is_kept_of_an_address_holds_no_secret(tmp_path) -> None:
    with raw_server(answer(b"body", 'Content-Disposition: attachment; filename="n.csv"')) as server:
        for url in (f"http://me:{SECRET}@{server.place}/9", f"http://{server.place}/9?token={SECRET}"):
            get_file(None, url, cache_dir=tmp_path, progress=False, force=True)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 3
    for path in kept:
        attributes = [os.getxattr(path, name) for name in os.listxattr(path)] if hasattr(os, "listxattr") else []
        assert all(SECRET.encode() not in text for text in [os.fsencode(path), path.read_bytes(), *attributes])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/data.csv?download=1", "https://host/a/data.csv?download=1"),
        ("https://me:pw@host:80/x?file=a.zip&sig=abc", "https://***@host:80/x?file=a.zip&sig=***"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("https://host/@user/x@2x.png", "https://host/@user/x@2x.png"),
        ("zip://a::https://me:pw@host/b.zip", "zip://a::https://***@host/b.zip"),
        ("https://host/a\x1b[2Jb", "https://host/a\\x1b[2Jb"),
        ("https://host:8080/@x", "https://host:8080/@x"),
        (None, "<NoneType>"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url, shown) -> None:
    assert shown_url(url) == shown
