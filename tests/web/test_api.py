from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.openapi.models import OpenAPI
from fastapi.testclient import TestClient
from PIL import Image

from polarpix.export.run import Export
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.runtime.predictors import load_exported
from polarpix.web.api import add_api
from polarpix.web.limits import Limits, open_picture
from polarpix.web.service import Service

Photo = Callable[..., bytes]


def upload(data: bytes, name: str = "a.png") -> dict[str, tuple[str, bytes]]:
    return {"image": (name, data)}


def error_of(answer: Any, status: int) -> str:
    """The line of an error that has the form of all errors."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    page = answer.json()
    assert list(page) == ["error"]
    assert "\n" not in page["error"]
    assert "Traceback" not in page["error"]
    return str(page["error"])


def test_health_and_models(client: TestClient) -> None:
    health = client.get("/api/health").json()
    assert health["status"] == "ok"
    assert health["device"] == "cpu"
    pose, seg = client.get("/api/models").json()
    assert (pose["name"], pose["task"], pose["takes_boxes"]) == ("tiny-pose", "pose", True)
    assert (seg["name"], seg["task"], seg["takes_boxes"]) == ("tiny-seg", "seg", False)
    assert pose["attention"] == "psa_p"
    assert pose["blocks"]
    assert not pose["exported"]


def test_an_exported_file_is_a_network_like_others(
    pose_export: Export, pose: PosePredictor, limits: Limits, photo: Photo, tmp_path: Path
) -> None:
    app = FastAPI()
    service = Service({"file": load_exported(pose_export.file, "cpu")}, limits, tmp_path)
    add_api(app, service, "1")
    client = TestClient(app)
    try:
        assert "exported" in client.get("/api/health").json()["device"]
        (told,) = client.get("/api/models").json()
        assert (told["exported"], told["blocks"], told["outputs"]) == (True, [], list(pose.schema.names))
        answer = client.post("/api/predict", files=upload(photo())).json()
        assert [point["name"] for point in answer["instances"][0]["keypoints"]] == list(pose.schema.names)
        assert client.post("/api/overlay", files=upload(photo())).headers["content-type"] == "image/png"
    finally:
        service.worker.close()


def test_keypoints_are_the_predictors(client: TestClient, pose: PosePredictor, service: Service, photo: Photo) -> None:
    boxes = [[5, 5, 30, 30, 0.5], [0, 0, 60, 40, 1.0]]
    page = client.post("/api/predict", files=upload(photo()), data={"boxes": json.dumps(boxes)}).json()
    found = pose(open_picture(photo(), "a.png", service.limits), boxes).prediction
    assert (page["task"], page["model"], page["width"], page["height"]) == ("pose", "tiny-pose", 60, 40)
    assert page["names"] == list(pose.schema.names)
    assert len(page["instances"]) == len(found.boxes)
    order = np.argsort(-found.instance_scores, kind="stable")
    for one, index in zip(page["instances"], order, strict=True):
        assert one["box"] == pytest.approx(found.boxes[index])
        assert one["score"] == pytest.approx(found.instance_scores[index])
        points = [[point["x"], point["y"], point["score"]] for point in one["keypoints"]]
        expected = np.concatenate([found.keypoints[index], found.scores[index][:, None]], axis=1)
        np.testing.assert_allclose(points, expected, rtol=1e-5, atol=1e-5)


def test_masks_are_the_predictors(client: TestClient, seg: SegPredictor, service: Service, photo: Photo) -> None:
    from faster_coco_eval.core import mask as masks

    page = client.post("/api/predict", files=upload(photo()), data={"model": "tiny-seg"}).json()
    label = seg(open_picture(photo(), "a.png", service.limits)).prediction.label
    assert [one["class_index"] for one in page["masks"]] == np.unique(label).tolist()
    assert sum(one["share"] for one in page["masks"]) == pytest.approx(1)
    for one in page["masks"]:
        assert one["name"] == seg.classes.names[one["class_index"]]
        np.testing.assert_array_equal(masks.decode(one["segmentation"]), label == one["class_index"])


def test_pictures_come_as_png(client: TestClient, seg: SegPredictor, service: Service, photo: Photo) -> None:
    image = open_picture(photo(), "a.png", service.limits)
    for model in ("tiny-pose", "tiny-seg"):
        answer = client.post("/api/overlay", files=upload(photo()), data={"model": model, "with_boxes": "true"})
        assert answer.headers["content-type"] == "image/png"
        drawn = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert drawn.shape == image.shape
        assert (drawn != image).any()
    answer = client.post("/api/label", files=upload(photo()), data={"model": "tiny-seg"})
    label = np.asarray(Image.open(io.BytesIO(answer.content)))
    np.testing.assert_array_equal(label, seg(image).prediction.label)
    assert "no label map" in error_of(client.post("/api/label", files=upload(photo())), 422)


@pytest.mark.parametrize("size", [(1, 1), (13_000, 3), (3, 13_000), (2, 2)])
@pytest.mark.parametrize("model", ["tiny-pose", "tiny-seg"])
def test_odd_sizes_are_answered(size: tuple[int, int], model: str, client: TestClient, photo: Photo) -> None:
    answer = client.post("/api/predict", files=upload(photo(size)), data={"model": model})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["width"], answer.json()["height"]) == size


def test_bad_requests_are_told_what_is_wrong(client: TestClient, photo: Photo) -> None:
    good, cut = photo(), photo((60, 40), "JPEG")[:900]
    for files, data, status, words in (
        ({}, {}, 422, "image: field required"),
        ({"photo": ("a.png", good)}, {}, 422, "image: field required"),
        ({}, {"image": "hello"}, 422, "image: is text, not a file"),
        (upload(b"hello"), {}, 415, "a.png: not an image"),
        (upload(b""), {}, 400, "empty"),
        (upload(cut, "../x/cut.jpg"), {}, 400, "cut.jpg: image is damaged or cut off"),
        (upload(photo((300, 200))), {}, 413, "image is 300x200: at most 40000 pixels"),
        (upload(photo((800, 500), "BMP")), {}, 413, "request is too large: at most 1 MB"),
        (upload(good), {"model": "x"}, 404, "choose one of tiny-pose, tiny-seg"),
        (upload(good), {"boxes": "[[1, 2"}, 422, "boxes: not JSON"),
        (upload(good), {"boxes": "[[1, 2, 3, 4]" + ", [1, 2, 3, 4]" * 3 + "]"}, 413, "4 of them: at most 3"),
        (upload(good), {"boxes": "[[500, 2, 3, 4]]"}, 422, "lies outside the 60x40 image"),
        (upload(good), {"boxes": "[[1, 2, -3, 4]]"}, 422, "has no area"),
        (upload(good), {"boxes": "[[1, 2, 3, 4]]", "model": "tiny-seg"}, 422, "takes none: leave them out"),
    ):
        answer = client.post("/api/predict", files=files, data=data)
        assert words in error_of(answer, status)
    assert client.post("/api/predict", files=upload(good)).status_code == 200


def test_other_calls_are_told_where_to_go(client: TestClient) -> None:
    assert "takes POST" in error_of(client.get("/api/predict"), 405)
    assert client.get("/api/predict").headers["allow"] == "POST"
    assert "there are /api/health" in error_of(client.get("/api/nothing"), 404)
    assert "no such page" in error_of(client.get("/wp-admin"), 404)
    broken = client.post(
        "/api/predict", content=b"--x\r\nbroken", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert 400 <= broken.status_code < 500
    error_of(broken, broken.status_code)
    plain = client.post("/api/predict", content=b"{}", headers={"content-type": "application/json"})
    assert "image: field required" in error_of(plain, 422)


@pytest.fixture
def busy(service: Service) -> Iterator[None]:
    """A worker that is at work, and a line that is full."""
    begun, go = threading.Event(), threading.Event()
    futures = [service.worker.submit(lambda: (begun.set(), go.wait(30))), service.worker.submit(lambda: None)]
    assert begun.wait(30)
    yield
    go.set()
    for future in futures:
        future.result(30)


def test_a_full_line_is_said_at_once(client: TestClient, photo: Photo, busy: None) -> None:
    answer = client.post("/api/predict", files=upload(photo()))
    assert "busy: 1 requests are waiting" in error_of(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert client.get("/api/health").json()["waiting"] == 1


def test_a_fault_of_ours_stays_in_the_log(
    client: TestClient, photo: Photo, pose: PosePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(pose), "__call__", lambda *_: 1 / 0)
    assert error_of(client.post("/api/predict", files=upload(photo())), 500).startswith("internal error")


def test_the_openapi_page_describes_what_is_answered(client: TestClient, photo: Photo) -> None:
    page = client.get("/openapi.json").json()
    OpenAPI.model_validate(page)
    assert set(page["paths"]) == {"/api/health", "/api/models", "/api/predict", "/api/overlay", "/api/label"}
    parts = page["components"]["schemas"]
    for name in references(page):
        assert name in parts
    answers = page["paths"]["/api/predict"]["post"]["responses"]
    assert {"200", "400", "404", "408", "413", "415", "422", "503", "504"} <= set(answers)
    for status in ("400", "413", "422", "503"):
        assert answers[status]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorLine")
    pose = client.post("/api/predict", files=upload(photo())).json()
    assert set(pose) == set(parts["PoseAnswer"]["properties"])
    assert set(pose["instances"][0]) == set(parts["Instance"]["properties"])
    seg = client.post("/api/predict", files=upload(photo()), data={"model": "tiny-seg"}).json()
    assert set(seg) == set(parts["SegAnswer"]["properties"])
    form = parts["Body_predict_api_predict_post"]
    assert form["required"] == ["image"]
    assert set(form["properties"]) == {"image", "model", "boxes"}


def references(value: Any) -> Iterator[str]:
    """The names of all schemas that a page refers to."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rpartition("/")[2]
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from references(one)


def test_nothing_is_left_behind(client: TestClient, photo: Photo, web_folder: Path) -> None:
    before = sorted(web_folder.rglob("*"))
    client.post("/api/label", files=upload(photo()), data={"model": "tiny-seg"})
    client.post("/api/predict", files=upload(b"hello"))
    assert sorted(web_folder.rglob("*")) == before
