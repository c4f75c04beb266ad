"""The JSON endpoint: predictions, overlays and label maps of uploaded pictures, with one-line errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from polarpix.types import UInt8Array
from polarpix.web.answers import Answer, ErrorLine, Health, ModelCard, PoseAnswer, SegAnswer, answer
from polarpix.web.guard import error_body
from polarpix.web.limits import RefusedError, read_boxes
from polarpix.web.service import Boxes, Service
from polarpix.web.views import (
    FOUND,
    LAYERS,
    Predictor,
    blocks,
    can_look_inside,
    device_of,
    label_png,
    outputs,
    overlay,
    png,
)

__all__ = ["add_api"]

T = TypeVar("T")

Picture = Annotated[UploadFile, File(description="JPEG, PNG, WebP, TIFF, BMP, GIF (its first frame) or PPM.")]
ModelName = Annotated[str | None, Form(description="One of GET /api/models; by default the first.")]
BoxList = Annotated[
    str | None,
    Form(
        description="JSON: [[x, y, width, height], ...] in pixels of the picture, with an optional fifth number, the "
        "score of the box. For pose networks; by default the whole picture.",
        examples=["[[20, 10, 180, 260]]"],
    ),
]
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorLine, "description": "The picture is damaged, or the body is no form."},
    404: {"model": ErrorLine, "description": "No such network."},
    408: {"model": ErrorLine, "description": "The request took too long to arrive."},
    413: {"model": ErrorLine, "description": "Too many bytes, pixels or boxes."},
    415: {"model": ErrorLine, "description": "The file is not a picture."},
    422: {"model": ErrorLine, "description": "A field is missing, or boxes that are none."},
    503: {"model": ErrorLine, "description": "Too many requests are waiting; try again."},
    504: {"model": ErrorLine, "description": "No answer in time."},
}
PNG: dict[str, Any] = {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}


def add_api(app: FastAPI, service: Service, version: str) -> None:
    """Add the routes below /api and the handlers that make every error one line of JSON."""
    router = APIRouter(prefix="/api", tags=["polarpix"])

    async def ask(image: UploadFile, model: str | None, boxes: str | None, make: Callable[..., T]) -> T:
        rows = read_boxes(boxes, service.limits)
        call = service.job(image.file.read, image.filename or "", model, rows, make)
        return await service.worker.answer(call)

    @router.get("/health", summary="Whether the server is up")
    async def health() -> Health:
        device = device_of(next(iter(service.predictors.values())))
        return Health(version=version, device=device, waiting=service.worker.waiting)

    @router.get("/models", summary="The networks that can be asked")
    async def models() -> list[ModelCard]:
        return [card(name, predictor) for name, predictor in service.predictors.items()]

    @router.post("/predict", summary="Keypoints or masks as JSON", responses=ERRORS)
    async def predict(image: Picture, model: ModelName = None, boxes: BoxList = None) -> Answer:
        name, _ = service.find(model)

        def make(predictor: Any, array: UInt8Array, rows: Boxes) -> PoseAnswer | SegAnswer:
            return answer(name, predictor(array, rows))

        return await ask(image, model, boxes, make)

    @router.post(
        "/overlay",
        summary="The picture with skeletons or masks on it, as PNG",
        responses={**ERRORS, 200: PNG},
        response_class=Response,
    )
    async def draw(
        image: Picture,
        model: ModelName = None,
        boxes: BoxList = None,
        with_boxes: Annotated[bool, Form(description="Draw the boxes as well.")] = False,
    ) -> Response:
        def make(predictor: Any, array: UInt8Array, rows: Boxes) -> bytes:
            return png(overlay(predictor(array, rows), LAYERS if with_boxes else (FOUND,), zoom=1))

        return Response(await ask(image, model, boxes, make), media_type="image/png")

    @router.post(
        "/label",
        summary="The label map of a segmentation network, as PNG",
        responses={**ERRORS, 200: PNG},
        response_class=Response,
    )
    async def label(image: Picture, model: ModelName = None) -> Response:
        def make(predictor: Any, array: UInt8Array, rows: Boxes) -> bytes:
            return label_png(predictor(array))

        return Response(await ask(image, model, None, make), media_type="image/png")

    app.include_router(router)
    add_leftovers(app, router)
    app.add_exception_handler(RefusedError, on_refused)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_failure)


def add_leftovers(app: FastAPI, router: APIRouter) -> None:
    """Say in JSON what is wrong with other calls below /api, which would otherwise reach the page."""
    methods = {getattr(route, "path", ""): sorted(getattr(route, "methods", ())) for route in router.routes}

    @app.api_route("/api/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    async def leftover(request: Request) -> Response:
        known = methods.get(request.url.path)
        if known:
            line = f"{request.url.path} takes {', '.join(known)}: see /docs"
            return failure(line, 405, {"allow": ", ".join(known)})
        return failure(f"no such endpoint: there are {', '.join(methods)}, see /docs", 404)


def card(name: str, predictor: Predictor) -> ModelCard:
    """What GET /api/models says of a network."""
    backbone = predictor.run.model.backbone
    return ModelCard(
        name=name,
        task=predictor.run.task,
        outputs=list(outputs(predictor)),
        takes_boxes=predictor.run.task == "pose",
        backbone=backbone.name,
        attention=backbone.attention,
        calibrated=predictor.calibration is not None,
        blocks=blocks(predictor),
        exported=not can_look_inside(predictor),
    )


def failure(line: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """An error as it is sent."""
    return Response(error_body(line), status, headers, "application/json")


async def on_refused(request: Request, error: Exception) -> Response:
    """What we refuse ourselves."""
    assert isinstance(error, RefusedError)
    return failure(str(error), error.status, {"retry-after": "1"} if error.status == 503 else None)


async def on_invalid(request: Request, error: Exception) -> Response:
    """Fields that are missing or of another kind; the first is named."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    if field == "image" and first["type"] == "value_error":
        return failure("image: is text, not a file: send a file, as curl -F image=@photo.jpg does", 422)
    return failure(f"{field}: {first['msg'].lower()}: see /docs for the fields", 422)


async def on_http(request: Request, error: Exception) -> Response:
    """Errors of the framework, such as a body that is no form."""
    assert isinstance(error, HTTPException)
    return failure(str(error.detail), error.status_code, dict(error.headers or {}))


async def on_failure(request: Request, error: Exception) -> Response:
    """A fault of ours; the traceback goes to the terminal, not to the client."""
    return failure("internal error: the server's log says more", 500)
