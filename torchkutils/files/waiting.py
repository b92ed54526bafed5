"""How long a server asks to wait: Retry-After, and the headers about rate limits."""

from __future__ import annotations

import datetime
import email.utils
import re
import time

from torchkutils.files.http_wire import Headers

_EPOCH_FROM = 1e8
"""A number of seconds above it is a moment since 1970, below it a span: servers write both."""


def asked_wait(status: int, headers: Headers) -> float | None:
    """The seconds that an answer asks to wait before the next request; None where it says nothing."""
    wait = retry_after(headers.get("Retry-After"))
    if wait is None and (status == 429 or is_rate_limited(headers)):
        wait = _rate_limit_reset(headers)
    return wait


def is_rate_limited(headers: Headers) -> bool:
    """Whether a refusal says that it is for too many requests: GitHub gives 403 for them."""
    return headers.get("X-RateLimit-Remaining").strip() == "0"


def retry_after(text: str) -> float | None:
    """The seconds of a Retry-After header, which is a number or a date."""
    number = _seconds(text)
    if number is not None or not text:
        return number
    try:
        moment = email.utils.parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _rate_limit_reset(headers: Headers) -> float | None:
    """The seconds until requests are allowed again, as the drafts and large sites have written it."""
    policies = headers.get("RateLimit")
    texts = [
        # RateLimit: "api";r=0;t=3 of the newest draft, and limit=10, remaining=0, reset=3 of the older ones.
        *re.findall(r"[;,\s](?:t|reset)=(\d+)", f" {policies}"),
        headers.get("RateLimit-Reset"),
        headers.get("X-RateLimit-Reset-After"),
        headers.get("X-RateLimit-Reset"),
    ]
    known = [seconds for text in texts if (seconds := _seconds(text)) is not None]
    if not known:
        return None
    return max(0.0, known[0] - time.time()) if known[0] >= _EPOCH_FROM else known[0]


def _seconds(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text.strip(), re.ASCII) else None
