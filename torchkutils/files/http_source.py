"""One answer of an HTTP server, past redirects; what a body is worth is decided elsewhere."""

from __future__ import annotations

import http.client
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

from torchkutils.files.addresses import (
    ascii_url,
    basic_authorization,
    is_same_origin,
    shown_url,
    split_credentials,
)
from torchkutils.files.attempts import Deadline, FailedAttempt, Timeouts, server_faults
from torchkutils.files.certificates import Verify
from torchkutils.files.connecting import host_and_port, open_wire, proxy_refusal
from torchkutils.files.cookies import Cookies
from torchkutils.files.http_wire import Body, Head, Headers, Wire, request_head
from torchkutils.files.proxies import Proxy, proxy_for
from torchkutils.files.waiting import asked_wait, is_rate_limited

MAX_REDIRECTS = 10
REDIRECTS = {301, 302, 303, 307, 308}
RETRIED_STATUSES = {408, 425, 429}
_WHOLE = {200, 203}
_RANGED = {206, 416}
_REMARKS = {
    204: ": an answer without a file",
    205: ": an answer without a file",
    206: ": a part of the file that nobody asked for",
}
USER_AGENT = "torchkutils"
OPEN_HEADERS = frozenset({"user-agent", "accept", "accept-language"})
"""Headers of the caller's that hold no secret and go along to another host."""


@dataclass(frozen=True)
class Caller:
    """What the caller of a download wants each server to be told, and how servers are checked."""

    headers: Mapping[str, str]
    timeouts: Timeouts
    verify: Verify = True
    netrc: bool = False


class Answer:
    """A body that is ready to be read, and what the server said about it.

    Attributes:
        status: 200, 203, 206 or 416; every other status is a FailedAttempt.
        url: The address that gave it, after redirects.
        headers: All headers of the last answer.
        length: Bytes of the body, None when the server does not say.
        etag: The strong entity tag, None when there is none or a weak one.
    """

    headers: Headers

    def __init__(self, url: str, wire: Wire, head: Head) -> None:
        self._wire = wire
        self._body = Body(wire, head)
        self.url = url
        self.status: int = head.status
        self.headers = head.headers
        self.length: int | None = self._body.length
        tag = self.headers.get("ETag").strip()
        self.etag: str | None = tag if re.fullmatch(r'"[^"]+"', tag) else None

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer as far as data comes; 0 at the end."""
        with server_faults():
            return self._body.readinto(buffer)

    def close(self) -> None:
        """Drop the connection."""
        self._wire.close()


def open_http(url: str, caller: Caller, deadline: Deadline, extra: Mapping[str, str] | None = None) -> Answer:
    """Ask for `url`, following redirects.

    Args:
        url: An http or https address.
        caller: Headers, time limits, certificates; headers stay with the host they were meant for, but for those
            of OPEN_HEADERS.
        deadline: The moment at which the whole download must be finished.
        extra: Headers of this request (Range, If-Range) that go wherever it is redirected to.

    Raises:
        FailedAttempt: There is no answer, or one with another status than 200, 203, 206 (to a Range) or 416 (to a
            Range).
    """
    with server_faults():
        return _followed(url, caller, deadline, extra or {})


def _followed(url: str, caller: Caller, deadline: Deadline, extra: Mapping[str, str]) -> Answer:
    cookies = Cookies()
    current, credentials = split_credentials(url)
    first, trusted = current, True
    for _ in range(MAX_REDIRECTS + 1):
        login = credentials if trusted else None
        headers = _request_headers(current, caller, login, cookies.header(current), trusted=trusted)
        proxy = proxy_for(current)
        wire, head = _asked(current, {**headers, **extra}, proxy, caller, deadline)
        if head.status not in REDIRECTS:
            return _judged(current, wire, head, proxy, ranged="Range" in extra)
        wire.close()
        cookies.take(current, head.headers)
        current, its_credentials = _redirect_target(current, head)
        trusted = trusted and is_same_origin(first, current)
        if its_credentials is not None:
            first, trusted, credentials = current, True, None
            caller = _with_authorization(caller, its_credentials)
    raise FailedAttempt(f"more than {MAX_REDIRECTS} redirects", retry=False, status=head.status)


def _with_authorization(caller: Caller, authorization: str) -> Caller:
    """For a redirect that brings its own login: nothing of the caller's but what is open, and that login."""
    headers = {**_open_headers(caller), "Authorization": authorization}
    return Caller(headers, caller.timeouts, caller.verify, netrc=False)


def _request_headers(
    url: str, caller: Caller, credentials: str | None, cookie: str | None, *, trusted: bool
) -> dict[str, str]:
    """The headers of one request; names that the caller gave, in any case, replace ours."""
    given = dict(caller.headers) if trusted else _open_headers(caller)
    ours = {"Host": _host_header(url), "User-Agent": USER_AGENT, "Accept": "*/*"}
    if cookie is not None:
        ours["Cookie"] = "; ".join([*_taken(given, "cookie"), cookie])
    names = {name.lower() for name in given}
    login = None if "authorization" in names else credentials or _stored_login(url, caller)
    if login is not None:
        ours["Authorization"] = login
    kept = {name: value for name, value in ours.items() if name.lower() not in names}
    return {**kept, **given, "Accept-Encoding": "identity", "Connection": "close"}


def _open_headers(caller: Caller) -> dict[str, str]:
    """The headers of the caller's that may go to any host."""
    return {name: value for name, value in caller.headers.items() if name.lower() in OPEN_HEADERS}


def _taken(headers: dict[str, str], name: str) -> list[str]:
    """Take a header out, however its name is written; its values."""
    return [headers.pop(key) for key in list(headers) if key.lower() == name]


def _stored_login(url: str, caller: Caller) -> str | None:
    return netrc_login(url) if caller.netrc else None


def _host_header(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return host_and_port(url).removesuffix({"http": ":80", "https": ":443"}[parts.scheme])


def _asked(
    url: str, headers: dict[str, str], proxy: Proxy | None, caller: Caller, deadline: Deadline
) -> tuple[Wire, Head]:
    """Send one request and read the head of its answer."""
    parts = urllib.parse.urlsplit(url)
    # Not by urlunsplit, which would take a path that begins with two slashes for a host.
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if proxy is not None and parts.scheme == "http":
        target = f"http://{host_and_port(url)}{target}"
        if proxy.authorization is not None:
            headers = {**headers, "Proxy-Authorization": proxy.authorization}
    wire = open_wire(url, proxy, caller.verify, caller.timeouts, deadline)
    try:
        wire.send(request_head("GET", target, headers))
        return wire, wire.head()
    except BaseException:
        wire.close()
        raise


def _judged(url: str, wire: Wire, head: Head, proxy: Proxy | None, *, ranged: bool) -> Answer:
    try:
        if head.status in _WHOLE or (ranged and head.status in _RANGED):
            return Answer(url, wire, head)
        if head.status == 407 and proxy is not None:
            raise proxy_refusal(head.status, proxy)
        raise _refusal(head)
    except BaseException:
        wire.close()
        raise


def _refusal(head: Head) -> FailedAttempt:
    """The failed attempt of an answer without the file that was asked for."""
    status = head.status
    words = f"HTTP {status} {http.client.responses.get(status, '')}".strip() + _REMARKS.get(status, "")
    retry = status in RETRIED_STATUSES or status >= 500 or (status == 403 and is_rate_limited(head.headers))
    return FailedAttempt(words, retry=retry, status=status, wait=asked_wait(status, head.headers))


def _redirect_target(address: str, head: Head) -> tuple[str, str | None]:
    """Where a redirect leads, and the Authorization header of a login in its address."""
    status = head.status
    location = (head.headers.every("Location") or [""])[0].strip()
    if not location:
        raise FailedAttempt(f"HTTP {status} without a Location", retry=False, status=status)
    # Headers are read as Latin-1: these are the bytes that came, in UTF-8 or not, as a browser would ask for them.
    as_sent = urllib.parse.quote(location.encode("latin-1"), safe="%/:=&?~#+!$,;'@()*[]|")
    login: str | None = None
    try:
        target = ascii_url(urllib.parse.urljoin(address, _readable_host(location, as_sent)))
        parts = urllib.parse.urlsplit(target)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        bare, login = split_credentials(target)
    except ValueError:
        usable, target, bare = False, "", ""
    if not usable:
        raise FailedAttempt(
            f"a redirect to {shown_url(location)[:200]!r}, which is no http address", retry=False, status=status
        )
    if login is not None and address.startswith("https:") and bare.startswith("http:"):
        raise FailedAttempt("a redirect with a login from https to http, where all could read it", retry=False)
    return bare, login


def _readable_host(location: str, as_sent: str) -> str:
    """The location with raw bytes percent-encoded, but for a host, which becomes punycode."""
    match = re.match(r"(?:https?:)?//([^/?#]*)", location, re.IGNORECASE)
    if match is None or match[1].isascii():
        return as_sent
    host = match[1].encode("latin-1").decode("utf-8")
    rest = urllib.parse.quote(location[match.end() :].encode("latin-1"), safe="%/:=&?~#+!$,;'@()*[]|")
    return location[: match.start(1)] + host + rest


def netrc_login(url: str) -> str | None:
    """The Authorization header that ~/.netrc (or $NETRC) has for an address's host; None where it has none.

    Raises:
        FailedAttempt: The file cannot be read as one.
    """
    import netrc
    import os

    path = os.environ.get("NETRC")
    try:
        entry = netrc.netrc(path).authenticators(urllib.parse.urlsplit(url).hostname or "")
    except FileNotFoundError:
        return None
    except netrc.NetrcParseError as error:
        # Its message may quote a password: only the line is told.
        words = f"netrc=True, but {path or '~/.netrc'} cannot be used, see its line {error.lineno}"
        if error.lineno is None:
            words = f"netrc=True, but {path or '~/.netrc'} must be owned by this user and readable by nobody else"
        failed = FailedAttempt(words, retry=False)
    else:
        if entry is None:
            return None
        return basic_authorization(f"{entry[0]}:{entry[2] or ''}".encode())
    raise failed
