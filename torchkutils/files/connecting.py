"""Connections: to a host or through a proxy, with TLS, within a time limit that no server can stretch."""

from __future__ import annotations

import selectors
import socket
import ssl
import urllib.parse

from torchkutils.files.attempts import Deadline, FailedAttempt, Timeouts
from torchkutils.files.certificates import Verify, context_for
from torchkutils.files.http_wire import Wire, request_head
from torchkutils.files.proxies import Proxy

_PORTS = {"http": 80, "https": 443}


def host_and_port(url: str) -> str:
    """An address's host as the Host header and CONNECT write it, with its port."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    bracketed = f"[{host.split('%')[0]}]" if ":" in host else host
    return f"{bracketed}:{parts.port or _PORTS[parts.scheme]}"


def open_wire(url: str, proxy: Proxy | None, verify: Verify, timeouts: Timeouts, deadline: Deadline) -> Wire:
    """Connect for one request to an http or https address.

    Raises:
        FailedAttempt: The proxy refused.
        OSError: The host cannot be reached, or its certificate is refused.
    """
    parts = urllib.parse.urlsplit(url)
    host, port = urllib.parse.unquote(parts.hostname or ""), parts.port or _PORTS[parts.scheme]
    within = Deadline(deadline.left(timeouts.connect), "the time limit to connect")
    if proxy is None:
        sock = _connected(host, port, within)
    else:
        sock = _connected(proxy.host, proxy.port, within)
    try:
        if proxy is not None and proxy.scheme == "https":
            if parts.scheme == "https":
                raise FailedAttempt(
                    f"the proxy {proxy.shown} speaks TLS, through which https addresses cannot be asked here; name it "
                    "with http://",
                    retry=False,
                )
            sock = _secured(sock, proxy.host, context_for(verify), within)
        if parts.scheme == "https":
            if proxy is not None:
                _tunnel(sock, url, proxy, within)
            sock = _secured(sock, host.split("%")[0], context_for(verify), within)
    except BaseException:
        sock.close()
        raise
    return Wire(sock, timeouts.read, deadline)


def _connected(host: str, port: int, within: Deadline) -> socket.socket:
    """A socket to the first of the host's addresses that answers; each gets its share of the time."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failed: OSError | None = None
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        left = within.left()
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(None if left is None else left / (len(addresses) - number))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failed = error
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    raise failed or OSError("the host has no address")


def _tunnel(sock: socket.socket, url: str, proxy: Proxy, within: Deadline) -> None:
    target = host_and_port(url)
    headers = {"Host": target}
    if proxy.authorization is not None:
        headers["Proxy-Authorization"] = proxy.authorization
    wire = Wire(sock, within.left(), within)
    wire.send(request_head("CONNECT", target, headers))
    status = wire.head().status
    if not 200 <= status < 300:
        raise proxy_refusal(status, proxy)
    if wire.has_ahead:
        raise FailedAttempt(f"the proxy {proxy.shown} sent bytes that nobody asked for", retry=False)


def proxy_refusal(status: int, proxy: Proxy) -> FailedAttempt:
    """The failed attempt of an answer that the proxy itself gave."""
    words = f"HTTP {status} from the proxy {proxy.shown}"
    if status == 407:
        words += ": Proxy Authentication Required; put a login into its address (http://user:password@proxy:port)"
    return FailedAttempt(words, retry=status in {408, 429} or status >= 500, status=status)


def _secured(sock: socket.socket, host: str, context: ssl.SSLContext, within: Deadline) -> ssl.SSLSocket:
    """The socket under TLS; the handshake as a whole, not each of its reads, stays within the time."""
    secured = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False)
    try:
        secured.settimeout(0)
        with selectors.DefaultSelector() as selector:
            selector.register(secured, selectors.EVENT_READ)
            while (waits_for := _handshake_step(secured)) is not None:
                selector.modify(secured, waits_for)
                selector.select(within.left())
    except BaseException:
        secured.close()
        raise
    return secured


def _handshake_step(secured: ssl.SSLSocket) -> int | None:
    """Go on with the handshake; what it waits for, None when it is done."""
    try:
        secured.do_handshake()
    except ssl.SSLWantReadError:
        return selectors.EVENT_READ
    except ssl.SSLWantWriteError:
        return selectors.EVENT_WRITE
    return None
