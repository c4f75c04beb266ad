from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from polarpix.web.guard import Guard, Message, Receive, Send, error_body
from polarpix.web.limits import Limits

BOUND = Limits(megabytes=0.001, upload_seconds=0.05)  # 1000 bytes


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Answers with the number of bytes it was sent."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"referrer-policy", b"unsafe-url")]})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def swallow(scope: Message, receive: Receive, send: Send) -> None:
    """Makes an answer of its own out of every trouble, as a framework does."""
    try:
        await echo(scope, receive, send)
    except Exception:
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"oh"})


def call(
    pieces: Sequence[bytes],
    path: str = "/api/x",
    headers: dict[str, str] | None = None,
    app: Any = echo,
    hang: bool = False,
) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of one request whose body comes in pieces, and whose rest may never come."""
    left, sent = list(pieces), list[Message]()

    async def receive() -> Message:
        if not left and hang:
            await asyncio.Event().wait()
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left) or hang}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    asyncio.run(Guard(app, BOUND)({"type": "http", "path": path, "headers": raw}, receive, send))
    start = sent[0]
    body = b"".join(message["body"] for message in sent[1:])
    assert [message.get("more_body", False) for message in sent[-1:]] == [False]
    return start["status"], body, {name.decode(): value.decode() for name, value in start["headers"]}


def test_what_is_small_passes_with_our_headers() -> None:
    status, body, headers = call([b"a" * 400, b"b" * 600])
    assert (status, body) == (200, b"1000")
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("app", [echo, swallow])
def test_a_body_without_announced_length_is_counted(app: Any) -> None:
    status, body, headers = call([b"a" * 600, b"b" * 600], app=app)
    assert status == 413
    assert json.loads(body) == {"error": "request is too large: at most 0.001 MB are taken"}
    assert headers["connection"] == "close"


@pytest.mark.parametrize("length", ["1001", "99999999999999999999", "-5", "many"])
def test_an_announced_length_is_judged_at_once(length: str) -> None:
    async def never(scope: Message, receive: Receive, send: Send) -> None:
        pytest.fail("was asked")

    assert call([b""], headers={"content-length": length}, app=never)[0] == 413


@pytest.mark.parametrize(("size", "read"), [(3, 3), (100, 4)])
def test_the_rest_of_a_large_body_is_read_after_the_answer_but_not_for_ever(size: int, read: int) -> None:
    seen: list[str] = []

    async def receive() -> Message:
        seen.append("read")
        return {"type": "http.request", "body": bytes(1000), "more_body": seen.count("read") < size}

    async def send(message: Message) -> None:
        seen.append("answer" if message.get("body") else "end" if message["type"] == "http.response.body" else "start")

    head = {"type": "http", "path": "/api/x", "headers": [(b"content-length", b"%d" % (1000 * size))]}
    asyncio.run(Guard(echo, BOUND)(head, receive, send))
    assert seen == ["start", "answer", *["read"] * read, "end"]


def test_an_application_may_answer_before_it_has_read_all() -> None:
    async def hasty(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    assert call([b"a", b"b"], app=hasty)[:2] == (400, b"no")


@pytest.mark.parametrize("app", [echo, swallow])
@pytest.mark.parametrize("pieces", [[], [b"a"]])
def test_who_stops_sending_is_told(pieces: list[bytes], app: Any) -> None:
    status, body, _ = call(pieces, app=app, hang=True)
    assert status == 408
    assert "did not arrive within 0.05 s" in json.loads(body)["error"]


@pytest.mark.parametrize(
    "path", ["/", "/api/predict", "/docs", "/gradio_api/upload", "/assets/x.js", "/gradio_api/file=/t/a.png"]
)
def test_pages_that_are_needed_pass(path: str) -> None:
    assert call([b""], path)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://elsewhere/x",
        "/gradio_api/proxy=https://x.hf.space/",
        "/gradio_api/vibe-edit",
        "/gradio_api/process_recording",
        "/gradio_api/run/predict",
        "/gradio_api/call/predict",
        "/monitoring",
        "/docs/../x",
        "/admin",
    ],
)
def test_other_paths_are_shut(path: str) -> None:
    status, body, _ = call([b""], path)
    assert status == 404
    assert json.loads(body)["error"].startswith("no such page")


def test_errors_of_the_application_stay_errors() -> None:
    async def broken(scope: Message, receive: Receive, send: Send) -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        call([b""], app=broken)


def test_an_error_is_one_line_of_json() -> None:
    body = error_body('two\nlines "quoted"')
    assert body.count(b"\n") == 1
    assert json.loads(body) == {"error": 'two lines "quoted"'}
