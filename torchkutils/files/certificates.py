"""What a server's certificate is checked against: the caller's bundle, the environment's, or the system's."""

from __future__ import annotations

import os
import pathlib
import ssl

from torchkutils.files.attempts import FailedAttempt

Verify = bool | str | os.PathLike[str] | ssl.SSLContext
_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def checked_verify(verify: object) -> Verify:
    """The `verify` argument; ValueError unless it is True, the path of a CA bundle or folder, or an SSL context."""
    if verify is True or isinstance(verify, ssl.SSLContext):
        return verify
    if not isinstance(verify, (str, os.PathLike)):
        raise ValueError(
            "verify must be True, the path of a CA bundle or an ssl.SSLContext (one of your own may check nothing), "
            f"got {verify!r}"
        )
    path = os.fspath(verify)
    if not isinstance(path, str) or not pathlib.Path(path).exists():
        raise ValueError(f"verify must be the path of a CA bundle or a folder of them, and there is no {path!r}")
    try:
        return _context_of(path)
    except OSError as error:
        raise ValueError(f"verify must be the path of a CA bundle, and {path!r} cannot be read as one") from error


def context_for(verify: Verify) -> ssl.SSLContext:
    """The SSL context of one connection.

    Raises:
        FailedAttempt: The bundle that the environment names cannot be read.
    """
    if isinstance(verify, ssl.SSLContext):
        return verify
    if not isinstance(verify, bool):
        return _context_of(os.fspath(verify))
    for variable in _VARIABLES:
        # SSL_CERT_FILE and SSL_CERT_DIR are read by OpenSSL itself, where neither of these is set.
        if path := os.environ.get(variable):
            try:
                return _context_of(path)
            except OSError:
                raise FailedAttempt(f"{variable} names {path!r}, which is no CA bundle", retry=False) from None
    return ssl.create_default_context(cafile=_certifi_where_nothing_else_is())


def _context_of(path: str) -> ssl.SSLContext:
    if pathlib.Path(path).is_dir():
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)


def _certifi_where_nothing_else_is() -> str | None:
    """The bundle of certifi, if it is installed, on a system that has none (Python from python.org on macOS)."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath or os.name == "nt":
        return None
    try:
        import certifi
    except ImportError:
        return None
    return certifi.where()
