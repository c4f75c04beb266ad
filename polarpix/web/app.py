"""The application: the endpoint, its OpenAPI page and the page for people, behind one guard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

from polarpix.web.api import add_api
from polarpix.web.guard import Guard
from polarpix.web.limits import Limits
from polarpix.web.service import Service
from polarpix.web.views import Predictor

__all__ = ["create_app"]

ABOUT = (
    'Keypoints and segmentation masks of uploaded pictures. Every error is one line: `{"error": "..."}`. '
    "Pixels are those of the picture as it is looked at, EXIF orientation applied; (0, 0) is the centre of the first."
)
ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon-32x32.png": "image/png"}


def create_app(predictors: Mapping[str, Predictor], limits: Limits, folder: Path) -> FastAPI:
    """The server as an ASGI application.

    Args:
        predictors: networks by name.
        limits: bounds of requests.
        folder: an absolute path; all that is written goes below it.
    """
    service = Service(predictors, limits, folder)
    app = FastAPI(title="polarpix", version=version("polarpix"), description=ABOUT, docs_url=None, redoc_url=None)
    app.state.service = service
    add_api(app, service, version("polarpix"))
    add_docs(app)
    mount_page(app, service)
    app.add_middleware(Guard, limits=limits)
    return app


def add_docs(app: FastAPI) -> None:
    """The OpenAPI page; its script comes from a package, as FastAPI's own page would fetch it from elsewhere."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="polarpix: JSON endpoint",
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="/docs/favicon-32x32.png",
            swagger_ui_parameters={"defaultModelsExpandDepth": 0},
        )

    @app.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            return Response(status_code=404)
        data = resources.files("fastapi_swagger").joinpath("resources", name).read_bytes()
        return Response(data, media_type=ASSETS[name])


def mount_page(app: FastAPI, service: Service) -> None:
    """Put the page at /, with everything that gradio writes below the server's folder and nothing sent elsewhere."""
    # gradio reads both from nowhere else, the first when components are made, the second when it is imported.
    os.environ["GRADIO_TEMP_DIR"] = str(service.folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    from polarpix.web.page import CSS, build_page, theme

    gr.mount_gradio_app(
        app,
        build_page(service),
        path="/",
        show_error=False,
        max_file_size=service.limits.bytes,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=theme(),
        css=CSS,
    )
