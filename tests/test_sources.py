"""Every kind of source as frames, and what is wrong with them; a server on this machine stands in for the net."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from polarpix import sources
from polarpix.errors import InputError
from polarpix.images import write_image
from polarpix.sources import Medium, find_media, frame_tasks, is_single, open_frame, read_frames


@pytest.fixture
def address(video: Path, picture: npt.NDArray[np.uint8]) -> Iterator[str]:
    """A server that holds a picture, the video and a page."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    pages = {
        "/a%20b.png": ("image/png", stream.getvalue()),
        "/clip.mp4": ("video/mp4", video.read_bytes()),
        "/page.jpg": ("text/html", b"<html>"),
        "/plain": ("application/octet-stream", stream.getvalue()),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, data = pages.get(self.path.partition("?")[0], ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind or "text/plain")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_folder_holds_pictures_and_videos_in_order(
    video: Path, picture: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    write_image(tmp_path / "d.png", picture)
    write_image(tmp_path / "a.png", 255 - picture)
    shutil.copy(video, tmp_path / "c.mp4")
    (tmp_path / "notes.txt").write_text("no picture")
    media = find_media(tmp_path)
    assert [(one.kind, one.path.name) for one in media] == [
        ("picture", "a.png"),
        ("video", "c.mp4"),
        ("picture", "d.png"),
    ]
    assert [one.length() for one in media] == [1, 5, 1]
    frames = list(read_frames([str(tmp_path), picture, tmp_path / "*.png"]))
    assert [frame.medium.path.name for frame in frames] == [
        "a.png",
        *["c.mp4"] * 5,
        "d.png",
        "image",
        "a.png",
        "d.png",
    ]
    assert [frame.index for frame in frames[:7]] == [0, 0, 1, 2, 3, 4, 0]
    np.testing.assert_array_equal(frames[6].image, picture)
    np.testing.assert_array_equal(frames[7].image, picture)
    assert (frames[7].file, frames[6].file) == ("", str(tmp_path / "d.png"))


def test_a_video_gives_its_frames_in_rgb_with_their_times(video: Path, picture: npt.NDArray[np.uint8]) -> None:
    frames = list(read_frames(video))
    assert [frame.time for frame in frames] == pytest.approx([i / 12 for i in range(5)], abs=2e-3)
    assert {round(frame.rate, 3) for frame in frames} == {12}
    for index, frame in enumerate(frames):
        expected = np.roll(picture, 4 * index, axis=1).astype(int)
        assert np.abs(frame.image - expected).mean() < np.abs(frame.image[:, :, ::-1] - expected).mean()
    assert len(list(frame_tasks(find_media(video), limit=2))) == 2


def test_videos_are_read_lazily(video: Path, tmp_path: Path) -> None:
    frames = read_frames([video, tmp_path / "gone.jpg"])
    assert next(frames).index == 0
    with pytest.raises(InputError, match=r"gone\.jpg: no such file"):
        list(frames)


def test_webcams_are_numbers(video: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = cv2.VideoCapture
    opened: list[Any] = []

    def camera(place: Any) -> Any:
        opened.append(place)
        return real(str(video)) if place == 3 else real(str(video.with_name("gone.mp4")))

    monkeypatch.setattr(cv2, "VideoCapture", camera)
    monkeypatch.chdir(tmp_path)
    for source in (3, "3"):
        frames = list(read_frames(source))
        assert [frame.file for frame in frames] == ["webcam3"] * 5
        assert frames[0].time == 0
        assert all(a.time <= b.time for a, b in pairwise(frames))
    assert find_media("3")[0].length() is None
    assert opened == [3, 3]
    with pytest.raises(InputError, match="webcam 7: cannot be opened"):
        list(read_frames("7"))
    (tmp_path / "3").write_bytes(b"")  # a file of that name comes first
    assert find_media("3")[0].kind == "picture"


def test_addresses_are_fetched(address: str, picture: npt.NDArray[np.uint8]) -> None:
    frame = next(read_frames(f"{address}/a%20b.png?size=large"))
    np.testing.assert_array_equal(frame.image, picture)
    assert (frame.medium.path.name, frame.file) == ("a b.png", f"{address}/a%20b.png?size=large")
    np.testing.assert_array_equal(next(read_frames(f"{address}/plain")).image, picture)
    frames = list(read_frames(f"{address}/clip.mp4"))
    assert [(frame.medium.kind, frame.index) for frame in frames] == [("video", index) for index in range(5)]


def test_addresses_that_answer_with_something_else(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, words in (
        ("/gone.jpg", "the server answers 404"),
        ("/page.jpg", "answers with text/html: give the address of the image itself"),
    ):
        with pytest.raises(InputError, match=words):
            next(read_frames(address + place))
    monkeypatch.setattr(sources, "MAX_PICTURE", 100)
    with pytest.raises(InputError, match="is larger than 0 MiB"):
        next(read_frames(f"{address}/a%20b.png"))
    with pytest.raises(InputError, match="names no host"):
        find_media("http:///a.png")


def test_no_network_is_said_in_one_line() -> None:
    with pytest.raises(
        InputError, match=r"cannot be fetched \(.*refused.*\): check the address and the network"
    ) as caught:
        next(read_frames("http://127.0.0.1:9/a.png"))  # nothing listens there
    assert "\n" not in str(caught.value)


def test_videos_that_are_none(video: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"text\.mp4: cannot be read as a video"):
        next(read_frames(tmp_path / "text.mp4"))
    assert Medium("video", str(tmp_path / "text.mp4")).length() is None
    film = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for shade in range(20):
        film.write(np.random.default_rng(shade).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    film.release()
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match=r"cut\.avi: ends after \d+ of 20 frames: it may be cut off"):
        assert 0 < len(list(read_frames(tmp_path / "cut.avi"))) < 20


def test_one_frame_of_what_has_many(video: Path) -> None:
    for source in (0, video):
        with pytest.raises(InputError, match=r"has many frames: give it to stream\(\)"):
            open_frame(source)


def test_one_source_or_several() -> None:
    assert all(is_single(one) for one in ("a", Path("a"), 0, np.int64(0), np.zeros((4, 4))))
    assert not any(is_single(one) for one in (["a"], iter(["a"]), (0, 1)))
