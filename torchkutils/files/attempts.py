"""One attempt to fetch an address: how it fails, and how long it may take."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from typing import NamedTuple


class FailedAttempt(Exception):  # noqa: N818 - one failed attempt is no error yet
    """One attempt failed; `retry` says whether the same address may be asked again.

    Attributes:
        retry: Whether another attempt at the same address may help.
        status: The HTTP status of the answer, None where there was none.
        wait: Seconds that the server asks to wait before the next attempt, None where it says nothing.
    """

    def __init__(self, words: str, *, retry: bool, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(words)
        self.retry = retry
        self.status = status
        self.wait = wait


class Timeouts(NamedTuple):
    """Seconds to connect, between two arrivals of data, and for the whole download; None waits for ever."""

    connect: float | None
    read: float | None
    total: float | None = None


_TIMER_ERROR = 0.05
"""Timers of the system may end a little too early."""


class Deadline:
    """The moment at which something must be finished; without seconds there is none."""

    def __init__(self, seconds: float | None, words: str = "the total time limit") -> None:
        self._words = f"{words} of {seconds:g} s is over (timeout)" if seconds is not None else ""
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the moment has passed."""
        return self._end is not None and time.monotonic() >= self._end

    def raise_if_reached(self) -> None:
        """Raise where this moment, and not a shorter limit, has ended a wait; called when a wait has timed out.

        Raises:
            FailedAttempt: The moment has come.
        """
        if self._end is not None and time.monotonic() >= self._end - _TIMER_ERROR:
            raise FailedAttempt(self._words, retry=True)

    def left(self, limit: float | None = None) -> float | None:
        """Seconds that the next step may take: `limit`, or less where the end is nearer; None without both.

        Raises:
            FailedAttempt: The moment has passed.
        """
        if self._end is None:
            return limit
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise FailedAttempt(self._words, retry=True)
        return seconds if limit is None else min(seconds, limit)


CERTIFICATE_ADVICE = (
    "if the server's certificate is your organisation's own, give its CA bundle as verify='/path/ca.pem' or in "
    "SSL_CERT_FILE or REQUESTS_CA_BUNDLE; if it has expired, check this machine's clock"
)


@contextlib.contextmanager
def server_faults() -> Iterator[None]:
    """Turn whatever a server, a proxy or a connection can cause into a FailedAttempt.

    Only code that talks to the other side belongs into the block: a full disk is no fault of a server.
    """
    try:
        yield
    except FailedAttempt:
        raise
    except Exception as error:
        # Without `from`: a chained exception may hold an address or a header, and tracebacks print it.
        failed = _as_failed_attempt(error)
    else:
        return
    raise failed


def _as_failed_attempt(error: Exception) -> FailedAttempt:
    if isinstance(error, ssl.SSLCertVerificationError):
        return FailedAttempt(f"the certificate is refused: {error.verify_message}; {CERTIFICATE_ADVICE}", retry=False)
    if isinstance(error, TimeoutError):
        return FailedAttempt("no data within the time limit (timeout)", retry=True)
    if isinstance(error, socket.gaierror):
        return FailedAttempt(f"the host's name is not known here: {error.strerror or error}", retry=True)
    if isinstance(error, (UnicodeError, http.client.InvalidURL)):
        return FailedAttempt(f"{type(error).__name__}: the address cannot be asked for", retry=False)
    name = type(error).__name__
    return FailedAttempt(f"{name}: {error}" if str(error) else name, retry=True)
