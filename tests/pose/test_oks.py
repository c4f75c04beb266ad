"""OKS, its suppression, and AP and AR against pycocotools."""

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from polarpix.errors import InputError
from polarpix.pose.oks import OKS_METRICS, coco_results, evaluate_oks, oks, oks_nms
from polarpix.pose.schema import COCO_SIGMAS

K = 5
SIGMAS = (0.026, 0.079, 0.072, 0.107, 0.089)


def make_truth(rng: np.random.Generator, images: int, most: int, crowds: bool = True) -> dict[str, Any]:
    """A COCO page with people of all sizes, some unlabelled, some crowds, and images with nobody."""
    notes = []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, most + 1)):
            side = float(rng.choice([20, 60, 150]))
            corner = rng.uniform(0, 300, 2)
            visibility = rng.choice([0, 1, 2], K, p=[0.2, 0.3, 0.5]) * int(rng.random() > 0.1)
            points = np.round(corner + rng.uniform(0, side, (K, 2)), 2) * (visibility > 0)[:, None]
            crowd = int(crowds and rng.random() < 0.15)
            notes.append(
                {
                    "id": len(notes) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "keypoints": np.concatenate((points, visibility[:, None]), 1).ravel().tolist(),
                    "num_keypoints": int((visibility > 0).sum()),
                    "bbox": [*corner.tolist(), side, side],
                    "area": side * side * 0.5,
                    "iscrowd": crowd,
                }
            )
    category = {"id": 1, "name": "person", "keypoints": list("abcde"), "skeleton": []}
    pictures = [{"id": i, "file_name": f"{i}.jpg", "width": 500, "height": 500} for i in range(1, images + 1)]
    return {"images": pictures, "categories": [category], "annotations": notes}


def make_results(truth: dict[str, Any], rng: np.random.Generator, noise: float, strays: int) -> list[dict[str, Any]]:
    """Noisy copies of the annotations, with equal scores among them, and detections of nobody."""
    notes = [note for note in truth["annotations"] if not note["iscrowd"] and rng.random() < 0.9]
    points = np.array([note["keypoints"] for note in notes], np.float64).reshape(-1, K, 3)[..., :2]
    images = [note["image_id"] for note in notes] + rng.choice(len(truth["images"]), strays).__add__(1).tolist()
    points = np.concatenate((points + rng.normal(size=points.shape) * noise, rng.uniform(0, 400, (strays, K, 2))))
    scores = np.round(rng.random(len(points)), 1)
    return coco_results(images, points, np.ones(points.shape[:2]), scores)


def oracle(truth: dict[str, Any], results: list[dict[str, Any]], sigmas: tuple[float, ...]) -> dict[str, float]:
    """What pycocotools says."""
    with contextlib.redirect_stdout(io.StringIO()):
        page = COCO()
        page.dataset = copy.deepcopy(truth)
        page.createIndex()
        run = COCOeval(page, page.loadRes(copy.deepcopy(results)), "keypoints")
        run.params.kpt_oks_sigmas = np.array(sigmas)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(OKS_METRICS, run.stats.tolist(), strict=True))


@pytest.mark.parametrize("noise", [0.5, 3.0, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    truth = make_truth(rng, images=8, most=6)
    results = make_results(truth, rng, noise, strays=10)
    got, want = evaluate_oks(truth, results, SIGMAS), oracle(truth, results, SIGMAS)
    assert list(got) == list(OKS_METRICS)
    assert got == pytest.approx(want, abs=1e-9)
    assert 0.01 < got["AP"] < 0.999


def test_at_most_twenty_instances_of_an_image_count() -> None:
    rng = np.random.default_rng(3)
    truth = make_truth(rng, images=1, most=0)
    one = make_truth(rng, images=1, most=1, crowds=False)
    while not (one["annotations"] and one["annotations"][0]["num_keypoints"] == K):
        one = make_truth(rng, images=1, most=1, crowds=False)
    truth["annotations"] = one["annotations"]
    points = np.array(one["annotations"][0]["keypoints"]).reshape(1, K, 3)[..., :2]
    many = np.concatenate((np.full((20, K, 2), 5000.0), points))
    scores = np.linspace(1, 0.1, 21)  # the right one comes last
    results = coco_results([1] * 21, many, np.ones((21, K)), scores)
    assert evaluate_oks(truth, results, SIGMAS)["AR"] == oracle(truth, results, SIGMAS)["AR"] == 0
    assert evaluate_oks(truth, results[1:], SIGMAS)["AR"] == oracle(truth, results[1:], SIGMAS)["AR"] == 1


def test_perfect_predictions_score_one_and_none_score_zero(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    truth = make_truth(rng, images=6, most=4, crowds=False)
    notes = [note for note in truth["annotations"] if note["num_keypoints"]]
    points = np.array([note["keypoints"] for note in notes]).reshape(-1, K, 3)[..., :2]
    results = coco_results([note["image_id"] for note in notes], points, np.ones(points.shape[:2]), np.ones(len(notes)))
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    before = copy.deepcopy(results)
    assert evaluate_oks(path, results, SIGMAS) == pytest.approx(dict.fromkeys(OKS_METRICS, 1.0))
    assert results == before
    assert evaluate_oks(path, [], SIGMAS) == dict.fromkeys(OKS_METRICS, 0.0)
    assert capfd.readouterr().out == ""


def test_sizes_without_annotations_are_minus_one() -> None:
    truth = make_truth(np.random.default_rng(1), images=6, most=4)
    for note in truth["annotations"]:
        note["area"] = 50**2
    results = make_results(truth, np.random.default_rng(1), 1.0, 2)
    got = evaluate_oks(truth, results, SIGMAS)
    assert got["APL"] == got["ARL"] == -1
    assert got == pytest.approx(oracle(truth, results, SIGMAS), abs=1e-9)
    assert got["APM"] > 0


def test_what_an_annotation_leaves_out_is_filled_in() -> None:
    rng = np.random.default_rng(5)
    truth = make_truth(rng, images=6, most=4, crowds=False)
    for note in truth["annotations"]:
        note["area"] = note["bbox"][2] * note["bbox"][3]
    results = make_results(truth, rng, 4.0, 4)
    bare = copy.deepcopy(truth)
    for note in bare["annotations"]:
        for key in ("area", "iscrowd", "num_keypoints"):
            del note[key]
    assert evaluate_oks(bare, results, SIGMAS) == evaluate_oks(truth, results, SIGMAS)


def test_other_categories_are_left_out() -> None:
    rng = np.random.default_rng(6)
    truth = make_truth(rng, images=6, most=4)
    results = make_results(truth, rng, 4.0, 4)
    want = evaluate_oks(truth, results, SIGMAS)
    truth["categories"].append({"id": 2, "name": "dog", "keypoints": ["x"]})
    truth["annotations"].append(
        {"id": 999, "image_id": 1, "category_id": 2, "keypoints": [1, 1, 2], "bbox": [0, 0, 9, 9], "area": 81}
    )
    assert evaluate_oks(truth, results, SIGMAS, category_id=1) == want
    with pytest.raises(InputError, match="annotation 999 has 3 keypoint numbers; 5 sigmas need 15"):
        evaluate_oks(truth, results, SIGMAS)


def test_results_that_do_not_fit() -> None:
    truth = make_truth(np.random.default_rng(0), images=2, most=2)
    stray = coco_results([77], np.zeros((1, K, 2)), np.ones((1, K)), np.ones(1))
    with pytest.raises(InputError, match="result 0 is of image_id 77"):
        evaluate_oks(truth, stray, SIGMAS)
    short = coco_results([1], np.zeros((1, 3, 2)), np.ones((1, 3)), np.ones(1))
    with pytest.raises(InputError, match="result 0 has 9 keypoint numbers; 5 sigmas need 15"):
        evaluate_oks(truth, short, SIGMAS)
    lost = coco_results([1], np.zeros((1, K, 2)), np.ones((1, K)), np.array([np.nan]))
    with pytest.raises(InputError, match="result 0 has the score nan: the network diverged"):
        evaluate_oks(truth, lost, SIGMAS)
    del truth["annotations"][0]["area"], truth["annotations"][0]["bbox"]
    with pytest.raises(InputError, match="neither area nor bbox"):
        evaluate_oks(truth, [], SIGMAS)


def test_oks_by_hand() -> None:
    gt = np.array([[10.0, 10.0], [20.0, 20.0], [0.0, 0.0]])
    pred = np.array([[13.0, 14.0], [20.0, 20.0], [500.0, 500.0]])
    got = oks(pred, gt, np.array([2, 1, 0]), 100.0, (0.1, 0.2, 0.3))
    assert got == pytest.approx((np.exp(-25 / (2 * 100 * 0.04)) + 1) / 2)
    assert oks(pred, gt, np.zeros(3, int), 100.0, (0.1, 0.2, 0.3)) == 0


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), factor=st.floats(0.1, 10), shift=st.floats(-100, 100))
def test_oks_is_bounded_symmetric_and_free_of_scale(seed: int, factor: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 30, (2, 4, K, 2))
    visibility = rng.integers(0, 3, (4, K))
    area = rng.uniform(100, 1000, 4)
    got = oks(a, b, visibility, area, SIGMAS)
    assert got.shape == (4,)
    assert ((got >= 0) & (got <= 1)).all()
    np.testing.assert_allclose(got, oks(b, a, visibility, area, SIGMAS))
    moved = oks(a * factor + shift, b * factor + shift, visibility, area * factor**2, SIGMAS)
    np.testing.assert_allclose(moved, got, atol=1e-6)
    perfect = oks(a, a, visibility, area, SIGMAS)
    np.testing.assert_array_equal(perfect, visibility.any(axis=1))


def test_nms_keeps_the_best_of_each_group() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 100, (1, 17, 2))
    keypoints = np.concatenate((base, base + 1, base + 300, base + 301, base + 40))
    scores, areas = np.array([0.5, 0.9, 0.8, 0.7, 0.1]), np.full(5, 10000.0)
    sigmas = tuple(COCO_SIGMAS.values())
    assert oks_nms(keypoints, scores, areas, sigmas, 0.9).tolist() == [1, 2, 4]
    assert oks_nms(keypoints, scores, areas, sigmas, 0).tolist() == [1, 2, 3, 0, 4]
    assert oks_nms(keypoints, scores, areas, sigmas, 1).tolist() == [1, 2, 3, 0, 4]
    assert oks_nms(keypoints[:0], scores[:0], areas[:0], sigmas, 0.9).tolist() == []


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), threshold=st.floats(0.05, 0.95))
def test_nms_leaves_no_two_alike_and_drops_nothing_without_a_reason(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(0, 60, (1, K, 2)) + rng.normal(size=(12, K, 2)) * 8
    scores, areas = rng.random(12), rng.uniform(500, 5000, 12)
    kept = oks_nms(keypoints, scores, areas, SIGMAS, threshold).tolist()
    assert kept[0] == scores.argmax()
    ones = np.ones(K, int)

    def alike(i: int, j: int) -> bool:
        return bool(oks(keypoints[i], keypoints[j], ones, (areas[i] + areas[j]) / 2, SIGMAS) > threshold)

    assert not any(alike(i, j) for i in kept for j in kept if i != j)
    for dropped in set(range(12)) - set(kept):
        assert any(alike(dropped, i) for i in kept if scores[i] > scores[dropped])


def test_results_are_plain_json() -> None:
    keypoints = np.array([[[1.5, 2.5], [3.0, 4.0]]], np.float32)
    results = coco_results([3], keypoints, np.array([[0.5, 0.25]], np.float32), np.array([0.75], np.float32), 7)
    want = [{"image_id": 3, "category_id": 7, "keypoints": [1.5, 2.5, 0.5, 3.0, 4.0, 0.25], "score": 0.75}]
    assert json.loads(json.dumps(results)) == want
