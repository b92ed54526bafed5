"""Addresses: how they are asked for, how they are shown without their secrets, which file name they give."""

from __future__ import annotations

import base64
import hashlib
import re
import urllib.parse
from collections.abc import Iterable, Mapping

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PARAMETER = re.compile(r"([?&;#])(?:([^=&;#?]*)=)?([^&;#]*)")
# What a query may show: numbers, switches and names of files. Anything else may be a token or a signature.
_HARMLESS_VALUE = re.compile(r"[\d.]{0,12}|true|false|yes|no|[\w%.,/-]{0,80}\.[A-Za-z][A-Za-z0-9]{0,4}", re.ASCII)
_SECRET_NAME = re.compile(r"token|secret|pass|pwd|key|sig|cred|auth|session|jwt|code", re.IGNORECASE)
_SENT_AS_IT_IS = re.compile(r"[a-z]+://[A-Za-z0-9_.~%/:=&?#+!$,;'@()*|-]+", re.ASCII)
MASK = "***"


def is_http(url: str) -> bool:
    """Whether an address is asked for by HTTP, whatever colons follow."""
    return re.match(r"https?://", url, re.IGNORECASE) is not None


def is_ftp(url: str) -> bool:
    """Whether an address is asked for by FTP."""
    return re.match(r"ftp://", url, re.IGNORECASE) is not None


def is_local(url: str) -> bool:
    """Whether no network is needed to read an address."""
    links = url.split("::")
    return re.match(r"(file|local|memory)://", links[-1], re.IGNORECASE) is not None


def shown_url(url: object) -> str:
    """An address as every message, attribute and log shows it.

    Login and password, the values of a query that may be tokens, and control characters are replaced; it takes
    broken addresses and chains (`zip://…::http://…`) too.

    >>> shown_url("https://me:secret@host/data.csv?download=1&token=abc")
    'https://***@host/data.csv?download=1&token=***'
    """
    if not isinstance(url, str):
        return f"<{type(url).__name__}>"
    shown = "::".join(_without_secrets(link) for link in re.split(r"::(?=[A-Za-z])", url))
    if shown.isprintable():
        return shown
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in shown)


def _without_secrets(link: str) -> str:
    head, slashes, rest = link.partition("//")
    if not slashes:
        head, rest = "", link
    authority = re.match(r"[^/?#]*", rest)
    end = authority.end() if authority else 0
    at = rest.rfind("@", 0, end)
    if at < 0 and re.search(r":\D*[^:\d\]]", rest[:end]):
        at = rest.rfind("@")  # no port follows the colon, but the start of a password with / ? or # in it
    shown = rest if at < 0 else f"{MASK}@{rest[at + 1 :]}"
    return head + slashes + _PARAMETER.sub(_shown_parameter, shown)


def _shown_parameter(match: re.Match[str]) -> str:
    sign, name, value = match.groups()
    harmless = _HARMLESS_VALUE.fullmatch(value) and not _SECRET_NAME.search(name or "")
    before = sign if name is None else f"{sign}{name}="
    return before + (value if harmless else MASK)


class Secrets:
    """The secrets that one call was given, to be taken out of texts that others wrote: servers, drivers, the system."""

    _OPEN_HEADERS = frozenset({"user-agent", "accept", "accept-language"})

    def __init__(self, urls: Iterable[str], headers: Mapping[str, str]) -> None:
        found: set[str] = set()
        for url in urls:
            for link in url.split("::"):
                found |= _secrets_of_url(link)
        for name, value in headers.items():
            if name.lower() not in self._OPEN_HEADERS:
                found |= {value, *value.split(), *re.findall(r"=([^;,\s]+)", value)}
        found |= {urllib.parse.quote(text) for text in found}
        self._texts = sorted((text for text in found if len(text) > 4), key=len, reverse=True)

    def hidden_in(self, text: str) -> str:
        """The text with each secret replaced."""
        for secret in self._texts:
            text = text.replace(secret, MASK)
        return text


def _secrets_of_url(url: str) -> set[str]:
    rest = url.partition("//")[2]
    user_info = re.split(r"[/?#]", rest)[0].rpartition("@")[0]
    parts = {user_info, *user_info.split(":", 1)} if user_info else set()
    if user_info:
        parts.add(basic_authorization(urllib.parse.unquote_to_bytes(user_info)).split()[1])
    parts |= {value for _, _, value in _PARAMETER.findall(rest) if not _HARMLESS_VALUE.fullmatch(value)}
    decoded = {urllib.parse.unquote(part) for part in parts}
    return parts | decoded


def ascii_url(url: str) -> str:
    """The address as it is sent: an international host in punycode, other characters percent-encoded, `%` as it is.

    Raises:
        ValueError: The host cannot be written in ASCII, or the address cannot be taken apart.
    """
    url = url.strip()
    if _SENT_AS_IT_IS.fullmatch(url):
        return url
    parts = urllib.parse.urlsplit(url)
    if not parts.netloc.isascii():
        user_info, at, host_and_port = parts.netloc.rpartition("@")
        host, colon, port = host_and_port.partition(":")
        quoted_user = urllib.parse.quote(user_info, safe="%:!$&'()*+,;=~")
        parts = parts._replace(netloc=quoted_user + at + _ascii_host(host) + colon + port)
    return urllib.parse.quote(urllib.parse.urlunsplit(parts), safe="%/:=&?~#+!$,;'@()*[]|")


def _ascii_host(host: str) -> str:
    if host.isascii():
        return host
    try:
        import idna
    except ImportError:
        # The rules of 2003, which differ for a few letters (ß, ς): all that Python has by itself.
        return host.encode("idna").decode("ascii")
    return str(idna.encode(host, uts46=True).decode("ascii"))


def split_credentials(url: str) -> tuple[str, str | None]:
    """Take `user:password@` out of an address; the second value is the Authorization header for it."""
    parts = urllib.parse.urlsplit(url)
    user_info, at, host = parts.netloc.rpartition("@")
    address = urllib.parse.urlunsplit(parts._replace(netloc=host, fragment=""))
    return address, basic_authorization(urllib.parse.unquote_to_bytes(user_info)) if at else None


def basic_authorization(user_and_password: bytes) -> str:
    """The value of an Authorization header, of `user:password`."""
    if b":" not in user_and_password:
        user_and_password += b":"
    return f"Basic {base64.b64encode(user_and_password).decode('ascii')}"


def is_same_origin(first: str, second: str) -> bool:
    """Whether secrets meant for the first address may go to the second: same host and port, or its TLS twin."""
    one, two = urllib.parse.urlsplit(first), urllib.parse.urlsplit(second)
    ports = one.port or _DEFAULT_PORTS[one.scheme], two.port or _DEFAULT_PORTS[two.scheme]
    upgraded = one.scheme == "http" and two.scheme == "https" and ports == (80, 443)
    return one.hostname == two.hostname and (upgraded or (one.scheme == two.scheme and ports[0] == ports[1]))


def address_key(url: str) -> str:
    """Names an address in our hidden files; its credentials do not count, and nobody can read it back."""
    bare = re.sub(r"//[^/?#]*@", "//", url)
    return hashlib.sha256(bare.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def last_part(url: str) -> str:
    """The decoded last part of an address's path; '' for none.

    >>> last_part("https://host/a/My%20Data.zip?dl=1")
    'My Data.zip'
    """
    link = url if is_http(url) else url.split("::")[0]
    return urllib.parse.unquote(urllib.parse.urlsplit(link).path.rsplit("/", 1)[-1])


def has_ending(name: str) -> bool:
    """Whether a file's name ends in something like `.csv`."""
    return re.search(r"[^./]\.[^./\s]{1,20}$", name) is not None
