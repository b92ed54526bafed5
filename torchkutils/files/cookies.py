"""The cookies of one download: set and asked for along its redirects, forgotten afterwards."""

from __future__ import annotations

import urllib.request
from email.message import Message
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from http.cookiejar import CookieJar

    from torchkutils.files.http_wire import Headers


class Cookies:
    """What the servers of one download set; http.cookiejar decides which server gets which."""

    def __init__(self) -> None:
        self._jar: CookieJar | None = None

    def take(self, url: str, headers: Headers) -> None:
        """Keep what an answer of `url` sets."""
        lines = headers.every("Set-Cookie")
        if not lines:
            return
        if self._jar is None:
            from http.cookiejar import CookieJar

            self._jar = CookieJar()
        message = Message()
        for line in lines:
            message["Set-Cookie"] = line
        self._jar.extract_cookies(_Answer(message), urllib.request.Request(url))  # type: ignore[arg-type]

    def header(self, url: str) -> str | None:
        """The Cookie header for a request of `url`; None where no cookie belongs to it."""
        if self._jar is None:
            return None
        request = urllib.request.Request(url)
        self._jar.add_cookie_header(request)
        return request.get_header("Cookie")


class _Answer:
    """What http.cookiejar wants to know of an answer."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def info(self) -> Message:
        return self._message
