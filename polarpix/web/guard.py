"""What stands in front of every request: which paths there are, how large and how slow a body may be."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from polarpix.web.limits import Limits, RefusedError

__all__ = ["Guard", "error_body"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

# The page needs these of gradio; the rest of what gradio offers (fetching URLs, proxies, recordings, ...) is shut.
PATHS = re.compile(
    r"/|/api/.*|/docs(/[\w.-]+)?|/openapi\.json"
    r"|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?"
    r"|/(assets|static|svelte)/.*"
    r"|/gradio_api/(info|app_id|startup-events|theme\.css|user|queue/join|queue/data|cancel|reset|upload|upload_progress)/?"
    r"|/gradio_api/heartbeat/\w+"
    r"|/gradio_api/file=/.*"
)
# Nothing from elsewhere, whatever a library's page may ask for.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def error_body(line: str) -> bytes:
    """The JSON of an error: ``{"error": line}``, on one line."""
    return json.dumps({"error": " ".join(line.split())}).encode() + b"\n"


class Guard:
    """ASGI middleware that refuses unknown paths, large bodies, and clients that take too long to send one.

    Args:
        app: what it guards.
        limits: bytes of a body and seconds for it.
    """

    def __init__(self, app: Application, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await Exchange(self.app, self.limits, scope, receive, send).run()
        # websockets are not spoken here; uvicorn answers them with 403 or 404 by itself


class Exchange:
    """One request and its answer."""

    def __init__(self, app: Application, limits: Limits, scope: Message, receive: Receive, send: Send) -> None:
        self.app, self.limits, self.scope = app, limits, scope
        self._receive, self._send = receive, send
        self.refused: RefusedError | None = None
        self.started = self.complete = False
        self.taken = 0
        self.end = asyncio.get_running_loop().time() + limits.upload_seconds

    async def run(self) -> None:
        """Let the application answer, or answer in its place."""
        try:
            self.check_head()
            await self.app(self.scope, self.receive, self.send)
        except RefusedError as error:
            self.refused = error
        except Exception:
            if self.refused is None:  # what the application makes of a body that was cut off does not matter
                raise
        if self.refused is not None and not self.started:
            await self.refuse(self.refused)

    def check_head(self) -> None:
        """Refuse by path and announced length."""
        if not PATHS.fullmatch(self.scope["path"]):
            raise RefusedError("no such page: see / and /docs", 404)
        announced = dict(self.scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self.limits.bytes:
            raise self.too_large()

    def too_large(self) -> RefusedError:
        """The refusal of a large body."""
        return RefusedError(f"request is too large: at most {self.limits.megabytes:g} MB are taken", 413)

    async def receive(self) -> Message:
        """The next piece of the body, counted and timed."""
        if self.complete:
            return await self._receive()  # waits for the client to leave
        if self.refused is not None:
            raise self.refused
        try:
            left = self.end - asyncio.get_running_loop().time()
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except TimeoutError:
            line = f"request did not arrive within {self.limits.upload_seconds:g} s: send it faster or make it smaller"
            self.refused = RefusedError(line, 408)
            raise self.refused from None
        self.taken += len(message.get("body", b""))
        if self.taken > self.limits.bytes:
            self.refused = self.too_large()
            raise self.refused
        self.complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """The application's answer with our headers, unless the request was refused meanwhile."""
        if self.refused is not None and not self.started:
            return
        if message["type"] == "http.response.start":
            self.started = True
            own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            kept = [(name, value) for name, value in message.get("headers", []) if name.decode().lower() not in HEADERS]
            message = {**message, "headers": [*kept, *own]}
        if message["type"] == "http.response.body" and not message.get("more_body") and not self.complete:
            await self.finish(message.get("body", b""))
        else:
            await self._send(message)

    async def finish(self, body: bytes) -> None:
        """Answer while the client is still sending: it may lose an answer if the connection ends in its face."""
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        await self.drain()
        await self._send({"type": "http.response.body", "body": b""})

    async def drain(self) -> None:
        """Read what still comes, and drop it, within the time for a body and four times its size."""
        if not self.taken and b"expect" in dict(self.scope["headers"]):  # waits for a word before it sends
            return
        most = 4 * self.limits.bytes
        while not self.complete and self.taken < most:
            left = self.end - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(self._receive(), max(0.0, left))
            except TimeoutError:
                return
            self.taken += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)

    async def refuse(self, error: RefusedError) -> None:
        """Answer with the error and end the connection."""
        body = error_body(str(error))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"connection", b"close")]
        self.started = True
        await self._send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.finish(body)
