"""Who may ask the server, and how much at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

from ddim.app import LOCAL

_MOST = 8 << 20  # bytes of what is no upload
_TRIES = 10  # passwords that one address may try in a minute
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def guards(host: str) -> list[Middleware]:
    """What stands before the page: for this machine alone, only its own pages may ask.

    Other pages in the same browser can reach 127.0.0.1 too, by a name that leads there.
    """
    if host not in LOCAL:
        return [Middleware(Guard, own=False)]
    return [Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL]), Middleware(Guard, own=True)]


class Guard:
    """Refuses large requests, many passwords and, where `own`, what another page sends."""

    def __init__(self, app: Any, *, own: bool) -> None:
        self._app, self._own = app, own
        self._tried = deque[tuple[float, str]]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As the standard ASGI says."""
        if scope["type"] == "http" and (refusal := self._refusal(scope)):
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        heads = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        origin = heads.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != heads.get("host")
        if self._own and (foreign or heads.get("sec-fetch-site") == "cross-site"):
            return PlainTextResponse("another page may not ask this one", 403)
        if scope["path"].rstrip("/").endswith("/login") and self._many(scope):
            return PlainTextResponse("too many passwords; wait a minute", 429)
        length = heads.get("content-length", "0")
        upload = scope["path"].endswith("/upload")
        if not upload and (not length.isdecimal() or int(length) > _MOST):
            return PlainTextResponse(f"a request may have {_MOST >> 20} MB", 413)
        return None

    def _many(self, scope: Scope) -> bool:
        """Whether an address has tried enough for now; if not, this is one more."""
        now, (address, *_) = time.monotonic(), scope.get("client") or ("",)
        while self._tried and now - self._tried[0][0] > 60:
            self._tried.popleft()
        many = sum(address == each for _, each in self._tried) >= _TRIES
        if not many:
            self._tried.append((now, address))
        return many
