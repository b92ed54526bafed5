"""Which proxy the environment names for an address, and which addresses go without one."""

from __future__ import annotations

import ipaddress
import os
import urllib.parse
import urllib.request
from typing import NamedTuple

from torchkutils.files.addresses import basic_authorization, shown_url
from torchkutils.files.attempts import FailedAttempt

_PORTS = {"http": 80, "https": 443}


class Proxy(NamedTuple):
    """An HTTP proxy; `authorization` is the value of its Proxy-Authorization header."""

    scheme: str
    host: str
    port: int
    authorization: str | None
    shown: str


def proxy_for(url: str) -> Proxy | None:
    """The proxy for an http or https address: `<scheme>_proxy`, else `all_proxy`, unless `no_proxy` names the host.

    Raises:
        FailedAttempt: What the environment names is no HTTP proxy (SOCKS, for instance).
    """
    parts = urllib.parse.urlsplit(url)
    # On macOS and Windows this asks the system's settings where the environment names none.
    named = urllib.request.getproxies()
    if "REQUEST_METHOD" in os.environ and "http_proxy" not in os.environ:
        named.pop("http", None)  # in a CGI program HTTP_PROXY is a header that the client sent
    proxy = named.get(parts.scheme) or named.get("all")
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    if not proxy or _goes_direct(host, port, named.get("no", "")):
        return None
    return _parsed(proxy, parts.scheme)


def _goes_direct(host: str, port: int, no_proxy: str) -> bool:
    if not urllib.request.getproxies_environment() and urllib.request.proxy_bypass(host):
        return True
    return any(_names(entry, host.lower(), port) for entry in no_proxy.replace(",", " ").split())


def _names(entry: str, host: str, port: int) -> bool:
    """Whether an entry of no_proxy names a host: `*`, a domain, a host with a port, an address or a network."""
    entry = entry.lower()
    if entry == "*":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            pass
    name, colon, its_port = entry.rpartition(":")
    if colon and its_port.isdigit():
        if int(its_port) != port:
            return False
        entry = name.strip("[]")
    entry = entry.removeprefix("*").lstrip(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


def _parsed(proxy: str, scheme: str) -> Proxy:
    shown = shown_url(proxy)
    where = f"the proxy {shown} of the environment ({scheme}_proxy or all_proxy)"
    try:
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        kind, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:
        kind, host, port = "http", None, None
    if kind not in _PORTS:
        raise FailedAttempt(
            f"{where} is a {kind} proxy, and only http and https proxies are supported; name one, or put the host "
            "into no_proxy",
            retry=False,
        )
    if not host:
        raise FailedAttempt(f"{where} is no address of a proxy", retry=False)
    user_info = parts.netloc.rpartition("@")[0]
    login = basic_authorization(urllib.parse.unquote_to_bytes(user_info)) if user_info else None
    return Proxy(kind, host, port or _PORTS[kind], login, shown)
