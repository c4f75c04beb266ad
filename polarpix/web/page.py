"""The page: drop a photo, draw boxes, look at overlay, heatmaps and gates, download. Made with gradio."""

from __future__ import annotations

import base64
import html
import json
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import gradio as gr

from polarpix.errors import InputError
from polarpix.images import write_bytes, write_image
from polarpix.types import UInt8Array
from polarpix.web.limits import check_rows
from polarpix.web.service import Boxes, Service
from polarpix.web.views import (
    ALL,
    LAYERS,
    SEALED,
    Predictor,
    blocks,
    can_look_inside,
    gate_picture,
    heatmap_picture,
    label_png,
    outputs,
    overlay,
    png,
)

__all__ = ["CSS", "build_page", "theme"]

T = TypeVar("T")

PREVIEW = 1280  # pixels of the longer side of the picture that boxes are drawn on
KEPT_SECONDS = 600  # for which uploads and downloads stay on disk
CSS = """
.fail { color: #b3261e; font-weight: 600 }
.dark .fail { color: #ff8a80 }
#photo { min-height: 7rem }
.key span { margin-right: 1rem; white-space: nowrap }
.key i { display: inline-block; width: 0.9em; height: 0.9em; margin-right: 0.3em; border: 1px solid #8888 }
"""
STAGE = """
<div class="stage" style="${src ? `--ratio: ${width} / ${height}` : 'display: none'}">
  <img src="${src}" alt="the photo" draggable="false">
  <svg class="boxes" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none">
    ${(value || []).map(box => `<rect x="${box[0]}" y="${box[1]}" width="${box[2]}" height="${box[3]}"/>`).join("")}
  </svg>
</div>
<div class="row" style="${src ? '' : 'display: none'}">
  <span>${(value || []).length ? `boxes: ${value.length}` : 'the whole image; drag to draw a box'}</span>
  <button data-action="undo">undo</button><button data-action="whole">whole image</button>
</div>
"""
STAGE_CSS = """
.stage { position: relative; margin: 0 auto; max-width: 100%; max-height: 27rem; aspect-ratio: var(--ratio) }
.stage img { width: 100%; height: 100%; display: block; user-select: none; border-radius: 4px }
.stage svg { position: absolute; inset: 0; width: 100%; height: 100%; cursor: crosshair; touch-action: none }
.stage rect { fill: rgba(255, 230, 80, 0.12); stroke: #ffe650; stroke-width: 2px; vector-effect: non-scaling-stroke }
.row { display: flex; gap: 0.5rem; align-items: baseline; margin-top: 0.4rem; font-size: 0.9rem }
.row span { flex: 1 }
.row button { padding: 0.1rem 0.7rem; border: 1px solid var(--border-color-primary); border-radius: 4px }
"""


def theme() -> gr.themes.Base:
    """A theme with the fonts of the visitor's machine: others would be fetched from elsewhere."""
    return gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )


def said(line: str, failed: bool = False) -> str:
    """A line for the reader; what clients call their files must not become markup."""
    return f'<p class="{"fail" if failed else "done"}">{html.escape(" ".join(line.split()))}</p>'


def data_url(image: UInt8Array) -> str:
    """A picture inside a page, as JPEG of at most PREVIEW pixels a side."""
    scale = min(1.0, PREVIEW / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


class Visit:
    """What the page calls. Every method gives values for components, and a line instead of an exception."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def ask(self, path: str | None, model: str, boxes: Any, make: Callable[[Any, UInt8Array, Boxes], T]) -> T:
        """Have the worker make something of the uploaded photo.

        Raises:
            InputError: no photo, or what the limits and the network refuse.
        """
        if not path:
            raise InputError("no photo yet: drop one into the field above")
        _, predictor = self.service.find(model)
        rows = check_rows(boxes, self.service.limits) if boxes and hasattr(predictor, "schema") else None
        place = Path(path)
        return self.service.worker.wait(self.service.job(place.read_bytes, place.name, model, rows, make))

    def photo(self, path: str | None, model: str) -> tuple[Any, str]:
        """A new photo: shown to be drawn on."""
        empty = gr.HTML(value=[], src="", width=1, height=1)
        if not path:
            return empty, ""
        try:
            image: UInt8Array = self.ask(path, model, None, lambda predictor, array, rows: array)
        except InputError as error:
            return empty, said(str(error), failed=True)
        height, width = image.shape[:2]
        return gr.HTML(value=[], src=data_url(image), width=width, height=height), said(f"{width} x {height} pixels")

    def predict(
        self, path: str | None, boxes: Any, model: str, layers: list[str], output: str, block: str | None
    ) -> list[Any]:
        """Everything for one photo: overlay, heatmaps, gates, JSON, three files, a line."""
        folder = self.service.folder / "page" / uuid.uuid4().hex

        def make(predictor: Any, image: UInt8Array, rows: Boxes) -> list[Any]:
            result = predictor(image, rows)
            drawn = overlay(result, layers)
            stem = Path(str(path)).stem
            coco = result.to_coco(image_id=1)
            files = [folder / f"{stem}.json", folder / f"{stem}_overlay.png", folder / f"{stem}_label.png"]
            write_bytes(files[0], json.dumps(coco).encode())
            write_bytes(files[1], png(drawn))
            if hasattr(result, "save_label"):
                write_bytes(files[2], label_png(result))
            shown = [picture_file(folder / "overlay.jpg", drawn)]
            inside = can_look_inside(predictor)
            heat = heatmap_picture(predictor, image, rows, output) if inside else None
            shown.append(picture_file(folder / "heat.jpg", heat))
            gates = gate_picture(predictor, image, rows, block) if block and inside else None
            shown.append(picture_file(folder / "gates.jpg", gates))
            return [
                *shown,
                coco,
                *map(download, files),
                said(f"{model}: {found(result)}{unused(boxes, rows)}") + key(result) + sealed(predictor),
            ]

        try:
            return self.ask(path, model, boxes, make)
        except InputError as error:
            return [None, None, None, None, *map(download, [None] * 3), said(str(error), failed=True)]

    def heat(self, path: str | None, boxes: Any, model: str, output: str) -> tuple[str | None, str]:
        """The heatmaps of another keypoint or class."""
        return self.look(path, boxes, model, partial(heatmap_picture, name=output))

    def gates(self, path: str | None, boxes: Any, model: str, block: str | None) -> tuple[str | None, str]:
        """The gates of another block."""
        if not block and can_look_inside(self.service.find(model)[1]):
            return None, said(f"{model} has no polarized self-attention, so there are no gates")
        return self.look(path, boxes, model, partial(gate_picture, block=str(block)))

    def look(self, path: str | None, boxes: Any, model: str, make: Callable[..., UInt8Array]) -> tuple[str | None, str]:
        """One picture and a line."""
        try:
            drawn = self.ask(path, model, boxes, make)
        except InputError as error:
            return None, said(str(error), failed=True)
        return picture_file(self.service.folder / "page" / uuid.uuid4().hex / "view.jpg", drawn), said("")

    def model(self, name: str) -> tuple[Any, Any, str]:
        """Another network: what there is to choose of it, and a word where it cannot be looked into."""
        _, predictor = self.service.find(name)
        return output_choice(predictor), block_choice(predictor), sealed(predictor)


def found(result: Any) -> str:
    """What a prediction holds, in a few words."""
    if hasattr(result, "schema"):
        count = len(result.prediction.boxes)
        return f"{count} instance{'' if count == 1 else 's'} of {len(result.schema.names)} keypoints"
    return f"{len(result.to_coco())} of {len(result.classes.names)} classes occur"


def key(result: Any) -> str:
    """What the colours of the masks stand for, as markup; "" for keypoints."""
    if not hasattr(result, "classes"):
        return ""
    rows = [row["category_id"] - 1 for row in result.to_coco()]
    names, colors = result.classes.names, result.classes.colors
    chips = (f'<span><i style="background: rgb{tuple(colors[i])}"></i>{html.escape(names[i])}</span>' for i in rows)
    return f'<p class="key">{" ".join(chips)}</p>'


def sealed(predictor: Predictor) -> str:
    """A line where there are no heatmaps and gates to be shown."""
    return "" if can_look_inside(predictor) else said(SEALED)


def unused(boxes: Any, rows: Boxes) -> str:
    """A word about boxes that were drawn for a network that takes none."""
    return "; a segmentation network takes the whole image, the boxes were not used" if boxes and not rows else ""


def picture_file(path: Path, picture: UInt8Array | None) -> str | None:
    """A picture as a file that the page may show."""
    if picture is None:
        return None
    write_image(path, picture)
    return str(path)


def download(path: Path | None) -> gr.DownloadButton:
    """A button for a file, shut where there is none."""
    there = path is not None and path.is_file()
    return gr.DownloadButton(value=str(path) if there else None, interactive=there)


def output_choice(predictor: Predictor) -> gr.Dropdown:
    """Keypoints or classes to look at."""
    choices, inside = [ALL, *outputs(predictor)], can_look_inside(predictor)
    return gr.Dropdown(choices=choices, value=ALL, label="Keypoint or class", interactive=inside)


def block_choice(predictor: Predictor) -> gr.Dropdown:
    """Polarized self-attentions to look into."""
    names = blocks(predictor)
    last = names[-1] if names else None
    return gr.Dropdown(choices=names, value=last, label="Polarized self-attention", interactive=bool(names))


def picture(label: str, name: str) -> gr.Image:
    """A place for a picture."""
    return gr.Image(label=label, interactive=False, elem_id=name, type="filepath", buttons=["fullscreen"])


def build_page(service: Service) -> gr.Blocks:
    """The whole page, to be mounted into an application."""
    visit = Visit(service)
    names = list(service.predictors)
    first = service.predictors[names[0]]
    limits = service.limits
    script = (Path(__file__).parent / "boxes.js").read_text(encoding="utf-8")
    page: gr.Blocks
    with gr.Blocks(title="polarpix", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown("# polarpix\nKeypoints and masks with polarized self-attention. [JSON endpoint](/docs)")
        with gr.Row():
            with gr.Column():
                with gr.Row():
                    bound = f"{limits.megabytes:g} MB, {limits.pixels / 1e6:g} megapixels"
                    photo = gr.File(label=f"Photo: {bound}", file_types=["image"], height=140, elem_id="photo")
                    with gr.Column():
                        model = gr.Dropdown(choices=names, value=names[0], label="Model", elem_id="model")
                        layers = gr.CheckboxGroup(list(LAYERS), value=list(LAYERS), label="Layers of the overlay")
                stage = gr.HTML(
                    value=[],
                    html_template=STAGE,
                    css_template=STAGE_CSS,
                    js_on_load=script,
                    src="",
                    width=1,
                    height=1,
                    elem_id="stage",
                )
                button = gr.Button("Predict", variant="primary", elem_id="predict")
                line = gr.HTML(sealed(first), elem_id="line")
            with gr.Column():
                with gr.Tab("Overlay"):
                    drawn = picture("Overlay", "overlay")
                with gr.Tab("Heatmaps"):
                    output = output_choice(first)
                    heat = picture("Heatmaps of the first box, or of the classes", "heat")
                with gr.Tab("Gates"):
                    block = block_choice(first)
                    gates = picture("Spatial gate, and below it the channel gate", "gates")
                with gr.Tab("JSON"):
                    table = gr.JSON(label="COCO results", elem_id="coco")
                with gr.Row():
                    downloads = [
                        gr.DownloadButton(text, interactive=False, elem_id=f"get-{text.split()[0].lower()}")
                        for text in ("COCO JSON", "Overlay PNG", "Label PNG")
                    ]
        hidden: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None}
        photo.change(visit.photo, [photo, model], [stage, line], **hidden)
        model.change(visit.model, [model], [output, block, line], **hidden)
        asked = [photo, stage, model, layers, output, block]
        button.click(visit.predict, asked, [drawn, heat, gates, table, *downloads, line], **hidden)
        output.input(visit.heat, [photo, stage, model, output], [heat, line], **hidden)
        block.input(visit.gates, [photo, stage, model, block], [gates, line], **hidden)
    page.queue(max_size=limits.queue + 1)
    for component in page.blocks.values():
        move = local_only(component.async_move_resource_to_block_cache)
        component.async_move_resource_to_block_cache = move  # type: ignore[method-assign]  # gradio has no option for it
    return page


def local_only(move: Callable[..., Any]) -> Callable[..., Any]:
    """gradio fetches the address that a client names in place of its upload; this server fetches nothing."""

    async def moved(place: str | Path | None) -> Any:
        if place is not None and "://" in str(place):
            raise gr.Error("addresses are not fetched: upload the file")
        return await move(place)

    return moved
