from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from fastapi import FastAPI

from polarpix.demo.figures import FIGURE_CLASSES
from polarpix.export.run import Export
from polarpix.images import read_image, write_image
from polarpix.predict import PosePredictor
from polarpix.runtime.predictors import load_exported
from polarpix.web.limits import Limits
from polarpix.web.page import Visit, local_only, said
from polarpix.web.service import Service, named
from polarpix.web.views import LAYERS, blocks, heatmap_picture


@pytest.fixture
def visit(service: Service) -> Visit:
    return Visit(service)


@pytest.fixture
def path(tmp_path: Path, photo: Callable[..., bytes]) -> str:
    (tmp_path / "photo.png").write_bytes(photo())
    return str(tmp_path / "photo.png")


def test_a_photo_is_shown_to_be_drawn_on(visit: Visit, path: str) -> None:
    stage, line = visit.photo(path, "tiny-pose")
    assert (stage.props["width"], stage.props["height"]) == (60, 40)
    assert stage.props["src"].startswith("data:image/jpeg;base64,")
    assert "60 x 40 pixels" in line
    stage, line = visit.photo(None, "tiny-pose")
    assert stage.props["src"] == line == ""


def test_a_prediction_fills_the_page(visit: Visit, path: str, pose: PosePredictor) -> None:
    box, block = [[5, 5, 30, 30]], blocks(pose)[0]
    drawn, heat, gates, coco, *files, line = visit.predict(path, box, "tiny-pose", list(LAYERS), "all", block)
    assert coco == pose(path, box).to_coco(image_id=1)
    assert json.loads(Path(files[0].value["path"]).read_text()) == coco
    assert read_image(files[1].value["path"]).shape == (400, 600, 3)
    assert [one.interactive for one in files] == [True, True, False]
    assert all(Path(one).is_file() for one in (drawn, heat, gates))
    assert "1 instance of 14 keypoints" in line
    seen, said_nothing = visit.heat(path, box, "tiny-pose", "neck")
    assert seen
    assert read_image(seen).shape == heatmap_picture(pose, read_image(path), box, "neck").shape
    assert "fail" not in said_nothing


def test_masks_fill_it_too_and_boxes_are_said_to_be_unused(visit: Visit, path: str) -> None:
    _, _, gates, coco, *files, line = visit.predict(path, [[5, 5, 30, 30]], "tiny-seg", list(LAYERS), "all", None)
    assert gates is None
    assert coco[0]["segmentation"]["size"] == [40, 60]
    assert [one.interactive for one in files] == [True, True, True]
    assert "were not used" in line
    names = [FIGURE_CLASSES.names[row["category_id"] - 1] for row in coco]
    assert re.findall(r"</i>(\w+)", line) == names


def test_an_exported_file_has_results_and_says_that_it_has_no_more(
    pose: PosePredictor, pose_export: Export, seg_export: Export, path: str, limits: Limits, tmp_path: Path
) -> None:
    served = named([load_exported(pose_export.file, "cpu"), load_exported(seg_export.file, "cpu")])
    service = Service(served, limits, tmp_path)
    try:
        visit, box = Visit(service), [[5, 5, 30, 30]]
        for name in served:
            drawn, heat, gates, coco, *files, line = visit.predict(path, box, name, list(LAYERS), "all", None)
            assert (heat, gates) == (None, None)
            assert Path(drawn).is_file()
            assert coco
            assert files[0].interactive
            assert "gives results only" in line
            assert "fail" not in line
            assert "gives results only" in visit.heat(path, box, name, "all")[1]
            assert "gives results only" in visit.gates(path, box, name, None)[1]
            output, block, said_at_once = visit.model(name)
            assert (output.interactive, block.interactive) == (False, False)
            assert "gives results only" in said_at_once
        found = visit.predict(path, box, "tiny-pose", list(LAYERS), "all", None)[3]
        np.testing.assert_allclose(found[0]["keypoints"], pose(path, box).to_coco(image_id=1)[0]["keypoints"], atol=0.2)
    finally:
        service.worker.close()


def test_what_goes_wrong_is_a_line_on_the_page(visit: Visit, path: str, tmp_path: Path) -> None:
    bad = tmp_path / "<b>bad.png"
    bad.write_bytes(b"hello")
    for place, boxes, words in (
        (None, [], "no photo yet"),
        (str(bad), [], "&lt;b&gt;bad.png: not an image"),
        (path, [[1, 2, 3]], "row 0 is not"),
        (path, [[900, 2, 3, 4]], "lies outside"),
        (path, [[1, 2, 3, 4]] * 4, "at most 3"),
    ):
        *values, line = visit.predict(place, boxes, "tiny-pose", [], "all", None)
        assert words in line
        assert 'class="fail"' in line
        assert values[:4] == [None] * 4
    assert "not an image" in visit.photo(str(bad), "tiny-pose")[1]
    assert "no output" in visit.heat(path, [], "tiny-pose", "tail")[1]
    assert "no polarized self-attention" in visit.gates(path, [], "tiny-pose", None)[1]


def test_choices_follow_the_model(visit: Visit) -> None:
    output, block, line = visit.model("tiny-seg")
    assert line == ""
    assert ("background", "background") in output.choices
    assert block.value == blocks(visit.service.predictors["tiny-seg"])[-1]


def test_words_of_others_are_no_markup() -> None:
    assert said("<script>\nalert()</script>") == '<p class="done">&lt;script&gt; alert()&lt;/script&gt;</p>'


def test_addresses_in_place_of_uploads_are_not_fetched() -> None:
    async def move(place: object) -> object:
        return place

    moved = local_only(move)
    assert asyncio.run(moved("/tmp/a.png")) == "/tmp/a.png"
    with pytest.raises(gr.Error, match="not fetched"):
        asyncio.run(moved("https://example.org/a.png"))


def test_every_component_of_the_page_is_kept_from_fetching(app: FastAPI) -> None:
    page = next(route.app for route in app.routes if hasattr(getattr(route, "app", None), "get_blocks")).get_blocks()
    assert len(page.blocks) > 10
    for component in page.blocks.values():
        with pytest.raises(gr.Error, match="not fetched"):
            asyncio.run(component.async_move_resource_to_block_cache("http://127.0.0.1:1/a.png"))


def test_pictures_keep_their_shape_when_they_are_shown(visit: Visit, tmp_path: Path) -> None:
    write_image(tmp_path / "wide.png", np.zeros((3, 13_000, 3), np.uint8))
    stage, _ = visit.photo(str(tmp_path / "wide.png"), "tiny-pose")
    assert (stage.props["width"], stage.props["height"]) == (13_000, 3)
