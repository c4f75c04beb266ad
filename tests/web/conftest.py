from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from polarpix.predict import PosePredictor, SegPredictor
from polarpix.web.app import create_app
from polarpix.web.limits import Limits
from polarpix.web.service import Service, named

LIMITS = Limits(megabytes=1, pixels=40_000, boxes=3, queue=1, seconds=60, upload_seconds=30)


def encoded(size: tuple[int, int] = (60, 40), form: str = "PNG", seed: int = 0) -> bytes:
    """A picture of noise, width x height, as a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


@pytest.fixture(scope="session")
def photo() -> Callable[..., bytes]:
    """Makes picture files: width and height, format, seed."""
    return encoded


@pytest.fixture(scope="session")
def limits() -> Limits:
    """Narrow bounds, so that they are reached with little."""
    return LIMITS


@pytest.fixture(scope="session")
def web_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's temporary folder."""
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="session")
def app(pose: PosePredictor, seg: SegPredictor, web_folder: Path) -> Iterator[FastAPI]:
    """The application with both small networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")  # put back afterwards
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "")
        app = create_app(named([pose, seg]), LIMITS, web_folder)
        yield app
        app.state.service.worker.close()


@pytest.fixture(scope="session")
def service(app: FastAPI) -> Service:
    """The networks behind it."""
    found = app.state.service
    assert isinstance(found, Service)
    return found


@pytest.fixture(scope="session")
def client(app: FastAPI) -> TestClient:
    """A client that sees what a browser would, errors included."""
    return TestClient(app, raise_server_exceptions=False)
