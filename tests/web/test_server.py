"""The process and its protocol; the page in a real browser."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from fastapi import FastAPI

from polarpix import cli
from polarpix.errors import InputError
from polarpix.images import read_image, read_label
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.web.server import PatientProtocol, end, open_socket

BROWSER = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"),
    *("--disable-component-update", "--disable-default-apps", "--disable-sync", "--no-first-run"),
]


class Wire:
    """A transport that remembers whether it was closed."""

    def __init__(self) -> None:
        self.closed, self.sent = asyncio.Event(), b""

    def close(self) -> None:
        self.closed.set()

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def write(self, data: bytes) -> None:
        self.sent += data

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_protocol(self, protocol: Any) -> None: ...


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


async def talk(pieces: list[bytes], until: bytes = b"") -> tuple[bytes, bool]:
    """What the protocol sends for pieces of requests and whether it closed: waits for that, or for an answer's end."""
    config = uvicorn.Config(hello, ws="none", timeout_keep_alive=1000, log_level="critical")
    config.load()
    protocol, wire = PatientProtocol(config, uvicorn.server.ServerState(), {}), Wire()
    protocol.seconds = 0.02
    protocol.connection_made(wire)
    for piece in pieces:
        protocol.data_received(piece)
        await asyncio.sleep(0)
    while not (until and wire.sent.endswith(until)) and not wire.is_closing():
        await asyncio.sleep(0.001)
    found = wire.sent, wire.is_closing()
    protocol.connection_lost(None)
    return found


@pytest.mark.parametrize("pieces", [[], [b"GET /api/he"], [b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-More: 1\r\n"]])
def test_unfinished_headers_end_the_connection(pieces: list[bytes]) -> None:
    assert asyncio.run(talk(pieces)) == (b"", True)


def test_a_request_is_answered_and_the_next_one_may_not_dawdle_either() -> None:
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    sent, closed = asyncio.run(talk([whole], until=b"hi"))
    assert sent.startswith(b"HTTP/1.1 200")
    assert not closed
    sent, closed = asyncio.run(talk([whole, b"GET / HT"]))
    assert sent.endswith(b"hi")
    assert closed


def test_places_that_cannot_be_listened_on_are_named() -> None:
    with open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: cannot listen"):
            open_socket("127.0.0.1", port)
    with pytest.raises(InputError, match="cannot listen"):
        open_socket("203.0.113.7", 0)
    with pytest.raises(InputError, match="0 to 65535"):
        open_socket("127.0.0.1", 70_000)


def test_the_command_needs_its_extra_and_sensible_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--queue is 0"):
        cli.run(["serve", "x", "--queue", "0"])
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"serve needs gradio.*pip install 'polarpix\[serve\]'"):
        cli.run(["serve", "x"])


def test_sigterm_ends_as_ctrl_c_does() -> None:
    with pytest.raises(KeyboardInterrupt):
        end(signal.SIGTERM, None)


def test_the_process_writes_in_its_own_folder_and_ends_cleanly(
    pose_folder: Path, tmp_path: Path, photo: Callable[..., bytes]
) -> None:
    places = {name: tmp_path / name for name in ("home", "tmp", "work")}
    for place in places.values():
        place.mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GRADIO", "XDG", "COV"))},
        "HOME": str(places["home"]),
        "TMPDIR": str(places["tmp"]),
        "OMP_NUM_THREADS": "1",
        # Caches of the user, which every command uses: compiled loops, and matplotlib's list of fonts.
        "TORCH_HOME": str(Path(torch.hub.get_dir()).parent),
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(tmp_path / "fonts")),
        "PYTHONPATH": str(Path(cli.__file__).parents[1]),
    }
    command = [sys.executable, "-m", "polarpix", "serve", str(pose_folder), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        command, cwd=places["work"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            address = re.search(r"http://127\.0\.0\.1:\d+", lines[0])
            assert address, lines
            large = photo((2000, 1500), "BMP")  # 9 MB, more than stays in memory
            answer = httpx.post(f"{address[0]}/api/overlay", files={"image": ("a.bmp", large)}, timeout=60)
            assert answer.status_code == 200
            assert httpx.get(address[0]).status_code == 200
            there = list(places["tmp"].iterdir())
            assert [path.name.startswith("polarpix-serve-") for path in there] == [True]
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, errors) == (0, "stopped\n", "")
    assert [list(place.iterdir()) for place in places.values()] == [[], [], []]


@pytest.fixture
def address(app: FastAPI) -> Iterator[str]:
    """The application behind a real socket."""
    with open_socket("127.0.0.1", 0) as listener:
        config = uvicorn.Config(app, http=PatientProtocol, ws="none", log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def draw_box(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over the photo, between places in parts of its width and height."""
    frame = page.locator("#stage svg.boxes").bounding_box()
    for (x, y), step in ((start, page.mouse.down), (end, page.mouse.up)):
        page.mouse.move(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])
        step()


def fetch(page: Any, button: str, path: Path) -> Path:
    """Press a download button and keep what comes."""
    with page.expect_download() as download:
        page.click(button)
    download.value.save_as(path)
    return path


@pytest.mark.browser
def test_a_visit(
    address: str, chromium: str, pose: PosePredictor, seg: SegPredictor, tmp_path: Path, photo: Callable[..., bytes]
) -> None:
    from playwright.sync_api import expect, sync_playwright

    (tmp_path / "photo.png").write_bytes(photo((120, 80)))
    image = read_image(tmp_path / "photo.png")
    with sync_playwright() as player, player.chromium.launch(executable_path=chromium, args=BROWSER) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        asked: list[str] = []
        faults: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        page.click("#predict")
        expect(page.locator("#line")).to_contain_text("no photo yet")

        page.set_input_files("#photo input[type=file]", tmp_path / "photo.png")
        expect(page.locator("#line")).to_contain_text("120 x 80 pixels")
        draw_box(page, (0.25, 0.25), (0.75, 0.75))
        expect(page.locator("#stage")).to_contain_text("boxes: 1")
        page.click("#predict")
        expect(page.locator("#line")).to_contain_text("1 instance of 14 keypoints")
        expect(page.locator("#overlay img")).to_be_visible()
        assert page.evaluate("document.querySelector('#overlay img').naturalWidth") == 600
        (one,) = json.loads(fetch(page, "#get-coco", tmp_path / "a.json").read_text())
        drawn = re.findall(r'(?:x|y|width|height)="([\d.]+)"', page.inner_html("#stage svg.boxes"))
        box = [float(value) for value in drawn]
        assert box == pytest.approx([30, 20, 60, 40], abs=1)
        expected = pose(image, [box])
        assert one["keypoints"] == pytest.approx(expected.to_coco(image_id=1)[0]["keypoints"], abs=1e-4)
        assert read_image(fetch(page, "#get-overlay", tmp_path / "o.png")).shape == (400, 600, 3)

        page.click("#model input")
        page.get_by_role("option", name="tiny-seg").click()
        page.click("[data-action=whole]")
        expect(page.locator("#stage")).to_contain_text("the whole image")
        page.get_by_role("tab", name="Gates").click()
        page.click("#predict")
        expect(page.locator("#line")).to_contain_text("classes occur")
        expect(page.locator("#gates img")).to_be_visible()
        label = read_label(fetch(page, "#get-label", tmp_path / "l.png"))
        assert (label == seg(image).prediction.label).all()

        page.goto(f"{address}/docs")
        expect(page.locator(".opblock")).to_have_count(5)
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert faults == []
