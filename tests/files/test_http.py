"""HTTP as curl does it: addresses, proxies, certificates, redirects, logins, cookies, names."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import os
import pathlib
import socket
import ssl
import threading
import time

import pytest

from tests.files.raw_server import CERTIFICATE, answer, raw_server
from torchkutils import DownloadError, get_file
from torchkutils.files import file_names, proxies, transfer, waiting, web_pages
from torchkutils.files.addresses import ascii_url
from torchkutils.files.http_wire import Headers

HURRY = {"timeout": (2, 2, 5), "retries": 0, "progress": False}


def fetched(url, folder, name="f", **options) -> bytes:
    return pathlib.Path(get_file(name, url, cache_dir=folder, **{**HURRY, **options})).read_bytes()


def routes(**by_path: bytes):
    """A server's behaviour: an answer for each path (without its first slash), 404 for others."""

    def behave(connection, server) -> None:
        path = server.heads[-1].split()[1].split("?")[0].lstrip("/")
        connection.sendall(by_path.get(path, answer(b"", status="404 Not Found")))

    return behave


def moved(location: str, *headers: str) -> bytes:
    return answer(b"", f"Location: {location}", *headers, status="302 Found")


def header_of(head: str, name: str) -> str | None:
    for line in head.splitlines()[1:]:
        if line.lower().startswith(name.lower() + ":"):
            return line.partition(":")[2].strip()
    return None


# --- addresses


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://h/a b", "http://h/a%20b"),
        ("http://h/a%20b?x=1::2", "http://h/a%20b?x=1::2"),
        ("http://bücher.example/ü", "http://xn--bcher-kva.example/%C3%BC"),
        ("http://ü:ö@bücher.example:80/", "http://%C3%BC:%C3%B6@xn--bcher-kva.example:80/"),
        ("http://例え.jp/数据.csv", "http://xn--r8jz45g.jp/%E6%95%B0%E6%8D%AE.csv"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("HTTP://H/x", "http://H/x"),
    ],
)  # fmt: skip
def test_addresses_are_sent_in_ascii(url, asked) -> None:
    assert ascii_url(url) == asked


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_ipv6_literal_and_colons_are_http(tmp_path) -> None:
    with raw_server(answer(b"six"), host="::1") as server:
        assert fetched(server.url("f?x=a::b://c"), tmp_path) == b"six"
        assert header_of(server.heads[0], "Host") == server.place


@pytest.mark.parametrize(
    ("path", "asked"), [("//a//b", "///a//b"), ("?x=1", "/?x=1"), ("", "/"), ("a/../b", "/a/../b"), ("a?", "/a")]
)
def test_paths_are_asked_for_as_they_stand(path, asked, tmp_path) -> None:
    with raw_server(answer()) as server:
        fetched(server.url(path), tmp_path)
        assert server.heads[0].split()[1] == asked


# --- proxies


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("", "http://a.example/", False),
        ("*", "http://a.example/", True),
        ("a.example", "http://a.example/", True),
        ("example", "http://a.example/", True),
        (".example", "http://a.example/", True),
        ("*.example", "http://a.example/", True),
        ("xample", "http://a.example/", False),
        ("b.example, A.example", "http://a.example/", True),
        ("b.example A.example", "http://A.EXAMPLE/", True),
        ("a.example:81", "http://a.example/", False),
        ("a.example:80", "http://a.example/", True),
        ("a.example:443", "https://a.example/", True),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("10.1.2.3", "http://10.1.2.3:8080/", True),
        ("10.1.2.3:81", "http://10.1.2.3:8080/", False),
        ("fe80::/10", "http://[fe80::1]/", True),
        ("[::1]", "http://[::1]:99/", True),
        ("10.0.0.0/99,x", "http://10.1.2.3/", False),
    ],
)  # fmt: skip
def test_no_proxy_is_read_as_curl_reads_it(no_proxy, url, direct, monkeypatch) -> None:
    monkeypatch.setenv("all_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert (proxies.proxy_for(url) is None) == direct


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_asked_with_its_login(variable, tmp_path, monkeypatch) -> None:
    with raw_server(answer(b"through")) as proxy:
        monkeypatch.setenv(variable, f"http://me:p%40ss@{proxy.place}")
        assert fetched("http://far.example/f?x=1", tmp_path) == b"through"
        assert proxy.heads[0].startswith("GET http://far.example:80/f?x=1 HTTP/1.1")
        assert header_of(proxy.heads[0], "Proxy-Authorization") == f"Basic {base64.b64encode(b'me:p@ss').decode()}"


def test_https_goes_through_a_proxy_by_connect(tmp_path, monkeypatch) -> None:
    def tunnel(connection, server) -> None:
        _, _, port = server.heads[-1].split()[1].rpartition(":")
        with socket.create_connection(("127.0.0.1", int(port))) as far:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\nVia: me\r\n\r\n")
            threading.Thread(target=pump, args=(far, connection), daemon=True).start()
            pump(connection, far)

    def pump(source, target) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)

    with raw_server(answer(b"secured"), tls=True) as far, raw_server(tunnel) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.place}")
        assert fetched(far.url().replace("127.0.0.1", "localhost"), tmp_path, verify=CERTIFICATE) == b"secured"
        assert proxy.heads[0].startswith(f"CONNECT localhost:{far.port} HTTP/1.1")


@pytest.mark.parametrize(
    ("proxy", "url", "behaviour", "words", "requests"),
    [
        ("http://{0}", "https://far.example/", answer(b"", status="407 No"), "HTTP 407 from the proxy", 1),
        ("http://{0}", "http://far.example/", answer(b"", status="407 No"), "HTTP 407 from the proxy", 1),
        ("http://{0}", "https://far.example/", answer(b"", status="403 No"), "HTTP 403 from the proxy", 1),
        ("http://{0}", "https://far.example/", answer(b"", status="502 No"), "HTTP 502 from the proxy", 3),
        ("http://{0}", "https://far.example/", b"nonsense\r\n", "BadStatusLine", 3),
        ("socks5h://{0}", "http://far.example/", b"", "socks5h proxy, and only http", 0),
        ("https://{0}", "https://far.example/", b"", "speaks TLS", 0),
        ("http://:x", "http://far.example/", b"", "no address of a proxy", 0),
    ],
)
def test_a_proxy_that_does_not_do_is_named(proxy, url, behaviour, words, requests, tmp_path, monkeypatch) -> None:
    with raw_server(behaviour) as server:
        monkeypatch.setenv("all_proxy", proxy.format(server.place))
        with pytest.raises(DownloadError, match=words):
            fetched(f"{url}f", tmp_path, retries=2)
        assert len(server.heads) == requests


# --- certificates


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", None])
def test_a_bundle_is_taken_from_the_environment_or_the_call(variable, tmp_path, monkeypatch) -> None:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, str(CERTIFICATE))
    with raw_server(answer(b"tls"), tls=True) as server:
        if variable is None:
            with pytest.raises(DownloadError, match=r"certificate is refused.*verify=.*SSL_CERT_FILE") as caught:
                fetched(server.url(), tmp_path, retries=3)
            assert caught.value.attempts == 1
            assert fetched(server.url(), tmp_path, verify=str(CERTIFICATE)) == b"tls"
            context = ssl.create_default_context(cafile=str(CERTIFICATE))
            assert fetched(server.url(), tmp_path, "g", verify=context) == b"tls"
        else:
            assert fetched(server.url(), tmp_path) == b"tls"


@pytest.mark.parametrize("verify", [False, None, 3, "no such file", pathlib.Path(__file__)])
def test_verify_must_be_something_to_check_against(verify, tmp_path) -> None:
    with pytest.raises(ValueError, match="verify must be"):
        get_file("f", "https://h/f", cache_dir=tmp_path, verify=verify)


def test_a_bundle_of_the_environment_that_is_none_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with raw_server(b"", tls=True) as server, pytest.raises(DownloadError, match="REQUESTS_CA_BUNDLE names"):
        fetched(server.url(), tmp_path)


# --- redirects, logins, cookies


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/caf\xc3\xa9.csv", "/caf%C3%A9.csv"),
        ("/caf\xe9.csv", "/caf%E9.csv"),
        ("/a b?x=ü".encode().decode("latin-1"), "/a%20b?x=%C3%BC"),
        ("g%20h", "/a/g%20h"),
        ("../g", "/g"),
        ("?x=1", "/a/f?x=1"),
        ("/g#part", "/g"),
    ],
)  # fmt: skip
def test_a_location_is_followed_as_a_browser_does(location, asked, tmp_path) -> None:
    def behave(connection, server) -> None:
        connection.sendall(moved(location) if len(server.heads) == 1 else answer(b"body"))

    with raw_server(behave) as server:
        assert fetched(server.url("a/f"), tmp_path) == b"body"
        assert server.heads[1].split()[1] == asked


SECRETS = {"Authorization": "Bearer s", "X-Token": "t", "Cookie": "own=1"}
OPEN = {"User-Agent": "Mozilla/5.0", "accept": "text/csv", "Accept-Language": "de"}


def test_to_another_host_only_open_headers_go_and_none_come_back(tmp_path) -> None:
    with raw_server(answer(b"never")) as second:
        first_behaviour = routes(f=moved(f"http://{second.place}/g"), h=answer(b"body"))
        with raw_server(first_behaviour) as first:
            second.behave = lambda connection, _: connection.sendall(moved(first.url("h")))
            assert fetched(first.url("f"), tmp_path, headers={**SECRETS, **OPEN}) == b"body"
        for head in (second.heads[0], first.heads[1]):
            assert [header_of(head, name) for name in SECRETS] == [None] * 3
            assert [header_of(head, name) for name in OPEN] == list(OPEN.values())
        assert [header_of(first.heads[0], name) for name in SECRETS] == list(SECRETS.values())


def test_a_login_of_the_address_stays_on_its_host(tmp_path) -> None:
    basic = f"Basic {base64.b64encode(b'me:p/w').decode()}"
    with raw_server(answer(b"body")) as second, raw_server(b"") as first:
        first.behave = routes(f=moved("/g"), g=moved(second.url("h")))
        assert fetched(f"http://me:p%2Fw@{first.place}/f", tmp_path) == b"body"
        assert [header_of(head, "Authorization") for head in first.heads] == [basic, basic]
        assert header_of(second.heads[0], "Authorization") is None


def test_a_login_in_a_location_is_used_but_not_from_https_to_http(tmp_path) -> None:
    with raw_server(answer(b"body")) as plain:
        with_login = f"http://you:pw@{plain.place}/g"
        with raw_server(moved(with_login)) as first:
            assert fetched(first.url(), tmp_path, headers=SECRETS) == b"body"
            assert header_of(plain.heads[0], "Authorization") == f"Basic {base64.b64encode(b'you:pw').decode()}"
            assert header_of(plain.heads[0], "X-Token") is None
        with raw_server(moved(with_login), tls=True) as first, pytest.raises(DownloadError, match="login from https"):
            fetched(first.url(), tmp_path, "g", verify=CERTIFICATE)
        with raw_server(moved(plain.url()), tls=True) as first:
            assert fetched(first.url(), tmp_path, "h", verify=CERTIFICATE, headers=SECRETS) == b"body"
            assert header_of(plain.heads[-1], "Authorization") is None


def test_cookies_last_for_one_download(tmp_path) -> None:
    def behave(connection, server) -> None:
        known = "seen=1" in (header_of(server.heads[-1], "Cookie") or "")
        connection.sendall(answer(b"body") if known else moved("/f", "Set-Cookie: seen=1; Path=/"))

    with raw_server(behave) as server:
        for name in ("f", "g"):
            assert fetched(server.url("f"), tmp_path, name, headers={"cookie": "own=1"}) == b"body"
        cookies = [header_of(head, "Cookie") for head in server.heads]
        assert cookies == ["own=1", "own=1; seen=1"] * 2
    with raw_server(answer()) as other, raw_server(moved(other.url(), "Set-Cookie: a=1; Domain=example.com")) as server:
        assert fetched(server.url(), tmp_path, "h") == b"body"
        assert header_of(other.heads[0], "Cookie") is None


@pytest.mark.parametrize("wanted", [True, False])
def test_netrc_is_read_where_asked_for(wanted, tmp_path, monkeypatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password pw\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    with raw_server(answer()) as server:
        fetched(server.url(), tmp_path / "c", netrc=wanted)
        fetched(server.url().replace("//", "//you:pw@"), tmp_path / "c", "g", netrc=wanted)
        fetched(server.url(), tmp_path / "c", "h", netrc=wanted, headers={"authorization": "Bearer x"})
        sent = [header_of(head, "Authorization") for head in server.heads]
    by_netrc = f"Basic {base64.b64encode(b'me:pw').decode()}" if wanted else None
    assert sent == [by_netrc, f"Basic {base64.b64encode(b'you:pw').decode()}", "Bearer x"]


@pytest.mark.parametrize(
    "headers", [{"X Y": "1"}, {"X:": "1"}, {"": "1"}, {"X": "…"}, {"Xé": "1"}, {"X": "1\n"}, {3: "x"}]
)
def test_a_header_that_cannot_be_sent_is_refused_at_once(headers, tmp_path) -> None:
    with raw_server(answer()) as server, pytest.raises(ValueError, match="headers must"):
        fetched(server.url(), tmp_path, headers=headers)
    assert server.heads == []


# --- when to come back


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (503, {"Retry-After": "7"}, 7),
        (503, {"Retry-After": "1.5"}, 1.5),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        (503, {"Retry-After": "soon"}, None),
        (503, {"Retry-After": "²"}, None),
        (429, {}, None),
        (429, {"RateLimit": '"api";r=0;t=3'}, 3),
        (429, {"RateLimit": "limit=10, remaining=0, reset=4"}, 4),
        (429, {"RateLimit-Reset": "5"}, 5),
        (429, {"X-RateLimit-Reset-After": "0.5"}, 0.5),
        (429, {"X-RateLimit-Reset": "6"}, 6),
        (429, {"Retry-After": "7", "RateLimit": '"api";r=0;t=3'}, 7),
        (503, {"RateLimit": '"api";r=0;t=3'}, None),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "8"}, 8),
        (403, {"X-RateLimit-Remaining": "9", "X-RateLimit-Reset": "8"}, None),
    ],
)  # fmt: skip
def test_the_wait_that_a_server_asks_for(status, headers, seconds) -> None:
    given = Headers()
    for name, value in headers.items():
        given.add(name, value)
    assert waiting.asked_wait(status, given) == seconds


def test_a_reset_at_a_moment_is_a_wait_until_then(monkeypatch) -> None:
    given = Headers()
    given.add("X-RateLimit-Reset", str(int(time.time()) + 60))
    assert 50 < (waiting.asked_wait(429, given) or 0) <= 60


def test_a_rate_limit_is_waited_for(tmp_path) -> None:
    slow = answer(b"", "RateLimit: a;r=0;t=0", status="429 Slow")

    def behave(connection, server) -> None:
        connection.sendall(slow if len(server.heads) == 1 else answer(b"body"))

    with raw_server(behave) as server:
        assert fetched(server.url(), tmp_path, retries=1) == b"body"


def test_who_waits_shows_that_it_lives(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(transfer, "HEARTBEAT_SECONDS", 0.02)
    times = set()

    def behave(connection, server) -> None:
        if len(server.heads) == 1:
            connection.sendall(answer(b"", "Retry-After: 0.4", status="503 Busy"))
            for _ in range(8):
                times.update(path.stat().st_mtime_ns for path in tmp_path.rglob("*.part"))
                time.sleep(0.04)
        else:
            connection.sendall(answer(b"body"))

    with raw_server(behave) as server:
        assert fetched(server.url(), tmp_path, retries=1) == b"body"
    assert len(times) > 2


# --- compressed bodies and pages


@pytest.mark.parametrize(
    ("path", "name", "encoding", "taken"),
    [
        ("x.tar.gz", "f", "x-gzip", True),
        ("get.php?f=1", "d.tar.gz", "x-gzip", True),
        ("latest", "d.bin", "gzip", True),
        ("x.csv", "x.csv", "gzip", False),
        ("x.csv", "x.csv", "identity", True),
        ("x.csv", "x.csv", "none", True),
        ("x.csv", "x.csv", "binary", True),
    ],
)
def test_a_content_encoding_counts_where_it_means_something(path, name, encoding, taken, tmp_path) -> None:
    body = gzip.compress(b"x")

    def behave(connection, server) -> None:
        if server.heads[-1].startswith("GET /latest"):
            connection.sendall(moved("/data-1.2.tar.gz"))
        else:
            connection.sendall(answer(body, f"Content-Encoding: {encoding}"))

    with raw_server(behave) as server:
        if taken:
            assert fetched(server.url(path), tmp_path, name) == body
        else:
            with pytest.raises(DownloadError, match="Content-Encoding"):
                fetched(server.url(path), tmp_path, name)


PAGE = b"<!DOCTYPE html><html><head><title>Sign&#32;in</title></head></html>"
HTML = "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("head", "kind", "is_page"),
    [
        (PAGE, HTML, True),
        (PAGE, "", True),
        (PAGE, "application/zip", True),
        (b"\xef\xbb\xbf \n<!-- a --><!-- b -->\n<HTML lang=en>", "", True),
        (b"<?xml version='1.0'?><!DOCTYPE html PUBLIC>", "", True),
        (b"<script>location='/login'</script>", HTML, True),
        (b"<meta http-equiv=refresh>", HTML, True),
        (b"<script>1</script>", "", False),
        (b"PK\x03\x04", HTML, False),
        (b"a,b\n1,2\n", HTML, False),
        (b"", HTML, False),
        (b"<?xml version='1.0'?><data/>", "text/xml", False),
        (b"<svg/>", "image/svg+xml", False),
        (b"<htmlx>", "", False),
        (b"<!--" * 2000, HTML, False),
    ],
)
def test_a_web_page_is_known_by_its_first_bytes(head, kind, is_page) -> None:
    assert (web_pages.page_in_words(head, kind, "http://h/x") is not None) == is_page


@pytest.mark.parametrize(
    ("name", "path", "taken"),
    [
        ("data.zip", "data.zip", False), ("data.zip", "uc", False), ("data", "x.zip", False), ("data", "uc.php", False),
        ("x.html", "x.zip", True), ("x.htm", "x", True), ("x.xhtml", "x", True), ("data", "uc", True),
        (None, "page.html", True), (None, "uc", True), (None, "x.zip", False),
    ],
)  # fmt: skip
def test_a_web_page_instead_of_data_is_said_and_not_kept(name, path, taken, tmp_path) -> None:
    with raw_server(answer(PAGE, "Content-Type: text/html")) as server:
        if taken:
            assert fetched(server.url(path), tmp_path, name) == PAGE
            return
        with pytest.raises(DownloadError, match=r"web page \(HTML\) came.*'Sign in'.*sign-in page"):
            fetched(server.url(path), tmp_path, name, retries=3)
        assert len(server.heads) == (1 if name or "." in path else 2)
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]
        server.behave = lambda connection, _: connection.sendall(answer(b"data", "Content-Type: application/zip"))
        assert fetched(server.url(path), tmp_path, name) == b"data"


def test_a_page_with_the_right_hash_is_the_file_and_one_with_another_is_named(tmp_path) -> None:
    with raw_server(answer(PAGE)) as server:
        assert fetched(server.url(), tmp_path, "a.zip", file_hash=hashlib.sha256(PAGE).hexdigest()) == PAGE
        with pytest.raises(ValueError, match=r"hash is wrong.*web page"):
            fetched(server.url(), tmp_path, "b.zip", file_hash="0" * 64)


@pytest.mark.parametrize(
    ("url", "title", "advice"),
    [
        ("https://github.com/a/b/blob/main/x.zip", b"x", "/raw/"),
        ("https://www.dropbox.com/s/x/x.zip?dl=0", b"x", "dl=1"),
        ("https://drive.google.com/uc?id=1", b"Google Drive - Virus scan warning", "Google Drive"),
        ("https://h/x.zip", b"Log In", "netrc=True"),
        ("https://h/x.zip", b"404 Not Found", "status 200"),
    ],
)
def test_well_known_pages_get_an_advice(url, title, advice) -> None:
    page = b"<html><title>" + title + b"</title>"
    assert advice in (web_pages.page_in_words(page, "", url) or "")


# --- names


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ('attachment; filename="table.xlsx"', "table.xlsx"),
        ("attachment; filename=table.xlsx", "table.xlsx"),
        ("inline;FILENAME = table.xlsx ;x=1", "table.xlsx"),
        ('attachment; filename="a\\"b.csv"', 'a"b.csv'),
        ("attachment; filename*=UTF-8''%E6%95%B0.csv; filename=x.csv", "数.csv"),
        ("attachment; filename=x.csv; filename*=utf-8'en'%C3%BC.csv", "ü.csv"),
        ("attachment; filename*=nope''%41.csv; filename=y.csv", "y.csv"),
        ("attachment; filename*=UTF-8''%FF.csv; filename=y.csv", "y.csv"),
        ('attachment; filename="\xc3\xbc.csv"', "ü.csv"),
        ('attachment; filename="\xfc.csv"', "ü.csv"),
        ('attachment; filename="=?UTF-8?B?w7wuY3N2?="', "ü.csv"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="C:\\data\\x.csv"', "x.csv"),
        ("attachment; filename*=UTF-8''..%2F..%2Fx.csv", "x.csv"),
        ('attachment; filename=".."', None),
        ('attachment; filename="a\x1b[2J.csv"', None),
        ("attachment; filename*=UTF-8''a%00b.csv", None),
        ('attachment; filename=""', None),
        ('attachment; filename=".z.zip.torchkutils-members.json"', None),
        (f'attachment; filename="{"n" * 256}"', None),
        ("attachment", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_name_in_a_content_disposition(value, name) -> None:
    assert file_names.disposition_name(value) == name


def named(url, folder, **options) -> str:
    path = get_file(None, url, cache_dir=folder, **{**HURRY, **options})
    return os.path.relpath(path, folder / "datasets")


def test_a_name_of_the_server_is_asked_once_and_remembered(tmp_path) -> None:
    sent = answer(b"body", 'Content-Disposition: attachment; filename="table.xlsx"')
    with raw_server(sent) as server:
        url = server.url("files/6294558")
        assert named(url, tmp_path) == "table.xlsx"
        assert len(server.heads) == 1, "the answer that tells the name holds the file"
        assert named(url, tmp_path) == "table.xlsx"
        assert named(url, tmp_path, offline=True) == "table.xlsx"
        assert named(url.replace("//", "//me:pw@"), tmp_path) == "table.xlsx"
        assert len(server.heads) == 1
        assert named(url, tmp_path, force=True) == "table.xlsx"
        assert len(server.heads) == 2
        assert named(server.url("data.csv"), tmp_path) == "data.csv", "an address with an ending says the name"


@pytest.mark.parametrize(("path", "name"), [("content", "content"), ("~", "~"), ("a/My%20Data?dl=1", "My Data")])
def test_without_a_name_of_the_server_the_address_gives_one(path, name, tmp_path) -> None:
    with raw_server(answer()) as server:
        assert named(server.url(path), tmp_path) == name


@pytest.mark.parametrize(
    "path", ["", "a%0Ab", "a%1B%5B2Jb", "..%5Cx", "x%2Fy", "n" * 300 + ".csv", ".x.torchkutils-lock"]
)
def test_an_address_without_a_usable_name_needs_fname(path, tmp_path) -> None:
    with raw_server(answer()) as server, pytest.raises(ValueError, match="fname must be given"):
        named(server.url(path), tmp_path)
    assert server.heads == []


def test_a_server_that_is_busy_is_asked_again_for_the_name(tmp_path) -> None:
    def behave(connection, server) -> None:
        busy = len(server.heads) < 3
        connection.sendall(
            answer(b"", status="503 Busy") if busy else answer(b"x", "Content-Disposition: a; filename=n")
        )

    with raw_server(behave) as server:
        assert named(server.url("6294558"), tmp_path, retries=3) == "n"
        assert len(server.heads) == 3
        server.behave = lambda connection, _: connection.sendall(answer(b"", status="404 No"))
        with pytest.raises(DownloadError, match="HTTP 404"):
            named(server.url("7"), tmp_path)


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="needs extended attributes")
def test_one_name_from_two_addresses_is_warned_of(tmp_path, recwarn) -> None:
    try:
        (tmp_path / "x").touch()
        os.setxattr(tmp_path / "x", "user.x", b"")
    except OSError:
        pytest.skip("this disk keeps no extended attributes")
    with raw_server(answer(b"swav")) as server:
        first, second = server.url("swav/model.torch"), server.url("pirl/model.torch")
        for url in (first, first, first.replace("//", "//me:pw@")):
            named(url, tmp_path)
        assert not recwarn.list
        with pytest.warns(UserWarning, match=r"model\.torch came from .*swav.*, not from .*pirl"):
            named(second, tmp_path)
        named(second, tmp_path, force=True)
        named(first, tmp_path, file_hash=hashlib.md5(b"swav").hexdigest())
        named(first, tmp_path, mirrors=[second])
    assert not recwarn.list


# --- without network


@pytest.mark.parametrize(("value", "asked"), [("1", False), ("true", False), ("0", True), ("", True), ("off", True)])
def test_offline_by_the_environment(value, asked, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCHKUTILS_OFFLINE", value)
    (tmp_path / "far").write_bytes(b"near")
    with raw_server(answer()) as server:
        if asked:
            assert fetched(server.url(), tmp_path, force=True) == b"body"
        else:
            with pytest.raises(DownloadError, match="TORCHKUTILS_OFFLINE"):
                fetched(server.url(), tmp_path, force=True)
            local = (tmp_path / "far").as_uri()
            assert fetched(server.url(), tmp_path, "g", mirrors=[local]) == b"near", "what is local is no network"
        assert bool(server.heads) == asked


def test_quiet_by_the_environment(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("TORCHKUTILS_QUIET", "1")
    with raw_server(answer()) as server:
        fetched(server.url(), tmp_path, progress=True)
    assert capfd.readouterr() == ("", "")


def test_keras_calls_without_fname_and_with_force_download(tmp_path) -> None:
    with raw_server(answer()) as server:
        for count, force in ((1, False), (1, False), (2, True)):
            path = get_file(origin=server.url("cat.jpg"), cache_dir=tmp_path, force_download=force, **HURRY)
            assert path == str(tmp_path / "datasets/cat.jpg")
            assert len(server.heads) == count
    with pytest.raises(ValueError, match="origin must be a URL"):
        get_file("f")
