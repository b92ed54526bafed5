"""One answer of an HTTP server: redirects, proxies, time limits; what a body is worth is decided elsewhere."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MAX_REDIRECTS = 10
REDIRECTS = {301, 302, 303, 307, 308}
RETRIED_STATUSES = {408, 425, 429}
USER_AGENT = "torchkutils"


class Fault(Exception):  # noqa: N818 - one failed attempt is no error yet
    """One attempt failed; `retry` says whether the same address may be asked again."""

    def __init__(self, words: str, *, retry: bool, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(words)
        self.retry = retry
        self.status = status
        self.wait = wait


class Timeouts(NamedTuple):
    """Seconds to connect and seconds between two arrivals of data; None waits for ever."""

    connect: float | None
    read: float | None


class Answer:
    """A body that is ready to be read, and what the server said about it.

    Attributes:
        status: 200, 206 or 416; every other status is a Fault.
        length: Bytes of the body, None when the server does not say.
        etag: The strong entity tag, None when there is none or a weak one.
        headers: All headers of the last answer.
    """

    def __init__(self, response: Any, status: int) -> None:
        self._response = response
        self._broken_off: http.client.IncompleteRead | None = None
        self.status = status
        self.headers = response.headers
        self.length = self._declared_length()
        tag = self.headers.get("ETag", "").strip()
        self.etag = tag if re.fullmatch(r'"[^"]+"', tag) else None

    def _declared_length(self) -> int | None:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return None
        text = self.headers.get("Content-Length", "").strip()
        return int(text) if text.isascii() and text.isdigit() else None

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer as far as data comes; 0 at the end."""
        with connection_faults():
            if self._broken_off is not None:
                raise self._broken_off
            try:
                return int(self._response.readinto(buffer))
            except http.client.IncompleteRead as err:
                # What came before the break is in the buffer already, and a resume need not ask for it again.
                self._broken_off = err
                if not err.partial:
                    raise
                return len(err.partial)

    def close(self) -> None:
        """Drop the connection."""
        self._response.close()


@contextlib.contextmanager
def connection_faults() -> Iterator[None]:
    """Turn whatever a connection can fail with into a Fault."""
    try:
        yield
    except urllib.error.URLError as err:
        reason = err.reason
        certificate = isinstance(reason, ssl.SSLCertVerificationError)
        raise Fault(_in_words(reason), retry=not certificate) from err
    except (OSError, http.client.HTTPException, ValueError) as err:
        raise Fault(_in_words(err), retry=not isinstance(err, (http.client.InvalidURL, UnicodeError))) from err


def _in_words(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "no data within the time limit (timeout)"
    if isinstance(reason, http.client.IncompleteRead):
        return "the body broke off in the middle of a chunk"
    return f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__


def open_http(url: str, headers: Mapping[str, str], timeouts: Timeouts, extra: Mapping[str, str]) -> Answer:
    """Ask for `url`, following redirects.

    Args:
        url: An http or https address.
        headers: The caller's headers; they stay with the host they were meant for.
        timeouts: Limits for connecting and for each read.
        extra: Headers of this request (Range, If-Range) that go wherever it is redirected to.

    Raises:
        Fault: There is no answer, or one with another status than 200, 206 (to a Range) or 416 (to a Range).
    """
    opener = _opener(timeouts)
    first, current, mine = url, url, dict(headers)
    for _ in range(MAX_REDIRECTS + 1):
        address, credentials = split_credentials(current)
        sent = {"User-Agent": USER_AGENT, "Accept": "*/*", **credentials, **mine, **extra}
        sent["Accept-Encoding"] = "identity"
        with connection_faults():
            request = urllib.request.Request(address, headers=sent)
            response = opener.open(request, timeout=timeouts.connect)
        status = int(response.status)
        if status not in REDIRECTS:
            return _checked(response, status, ranged="Range" in extra)
        target = _redirect_target(address, response)
        response.close()
        if not _same_host(first, target):
            mine = {}
        current = target
    raise Fault(f"more than {MAX_REDIRECTS} redirects", retry=False, status=status)


def _checked(response: Any, status: int, *, ranged: bool) -> Answer:
    if status == 200 or (ranged and status in {206, 416}):
        return Answer(response, status)
    response.close()
    words = f"HTTP {status} {http.client.responses.get(status, '')}".strip()
    if status in {204, 205}:
        words += ": an answer without a file"
    elif status == 206:
        words += ": a part of the file that nobody asked for"
    retry = status in RETRIED_STATUSES or status >= 500
    raise Fault(words, retry=retry, status=status, wait=retry_after(response.headers.get("Retry-After")))


def _redirect_target(address: str, response: Any) -> str:
    location = response.headers.get("Location")
    status = int(response.status)
    if not location:
        raise Fault(f"HTTP {status} without a Location", retry=False, status=status)
    try:
        target = quoted(urllib.parse.urljoin(address, location.strip()))
        parts = urllib.parse.urlsplit(target)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise Fault(f"a redirect to {location!r}, which is no http address", retry=False, status=status)
    return target


def _same_host(first: str, second: str) -> bool:
    """Whether headers meant for the first address may go to the second: same host and port, or its TLS twin."""
    one, two = urllib.parse.urlsplit(first), urllib.parse.urlsplit(second)
    defaults = {"http": 80, "https": 443}
    ports = one.port or defaults[one.scheme], two.port or defaults[two.scheme]
    upgraded = one.scheme == "http" and two.scheme == "https" and ports == (80, 443)
    return one.hostname == two.hostname and (upgraded or (one.scheme == two.scheme and ports[0] == ports[1]))


def quoted(url: str) -> str:
    """Percent-encode what a browser would: spaces and everything that is not ASCII; `%` stays."""
    return urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]|")


def split_credentials(url: str) -> tuple[str, dict[str, str]]:
    """Take `user:password@` out of an address and make the header that it stands for."""
    parts = urllib.parse.urlsplit(url)
    user_info, at, host = parts.netloc.rpartition("@")
    address = urllib.parse.urlunsplit(parts._replace(netloc=host, fragment=""))
    if not at:
        return address, {}
    token = base64.b64encode(urllib.parse.unquote_to_bytes(user_info)).decode("ascii")
    return address, {"Authorization": f"Basic {token}"}


def retry_after(text: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, given as a number or a date."""
    import datetime
    import email.utils

    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())


class _KeepStatus(urllib.request.HTTPErrorProcessor):
    """Hands every answer back as it is: statuses and redirects are judged above."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


def _opener(timeouts: Timeouts) -> urllib.request.OpenerDirector:
    """Only http and https, through the proxies of the environment; no file, no ftp, no automatic redirect."""

    def limited(base: type[http.client.HTTPConnection]) -> type[http.client.HTTPConnection]:
        def connect(self: Any) -> None:
            base.connect(self)
            sock: socket.socket = self.sock
            sock.settimeout(timeouts.read)

        return type("Limited" + base.__name__, (base,), {"connect": connect})

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(limited(http.client.HTTPConnection), request)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(limited(http.client.HTTPSConnection), request, context=ssl.create_default_context())

    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), PlainHandler(), SecureHandler()):
        opener.add_handler(handler)
    opener.add_handler(_KeepStatus())
    opener.addheaders = []
    return opener
