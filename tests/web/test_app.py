from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient


def test_the_openapi_page_fetches_from_here_only(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert {"/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"} <= set(addresses)
    for address in addresses:
        assert client.get(address).status_code == 200, address
    assert client.get("/docs/other.js").status_code == 404


def test_the_page_is_there_without_telemetry_and_fonts_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert config["stylesheets"] == []
    assert "http" not in client.get("/theme.css").text.replace("http://www.w3.org", "")


@pytest.mark.parametrize("path", ["/etc/passwd", str(Path(__file__).resolve()), "/proc/self/environ"])
def test_files_of_the_machine_are_not_served(client: TestClient, path: str) -> None:
    assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_gradio_takes_no_more_than_the_limit(client: TestClient, web_folder: Path) -> None:
    answer = client.post("/gradio_api/upload", files={"files": ("a.bin", bytes(1_100_000))})
    assert answer.status_code == 413
    assert not list(web_folder.rglob("a.bin"))
