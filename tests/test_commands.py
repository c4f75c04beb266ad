"""The commands on real files: what they leave behind, and what they say about bad input."""

import csv
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from polarpix import cli
from polarpix.engine.artifact import load_artifact
from polarpix.images import read_image
from polarpix.pages import load_page

TinyPage = Callable[[str], dict[str, Any]]
WritePage = Callable[[str, Path], Path]


@pytest.fixture(params=["pose", "seg"])
def folder(request: pytest.FixtureRequest) -> Path:
    """A finished run of either task."""
    found: Path = request.getfixturevalue(f"{request.param}_folder")
    return found


@pytest.fixture
def polarpix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line as the program would: exit status, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["polarpix", *map(str, arguments)])
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # to be put back: main() sets its own
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert isinstance(left.value.code, int)
        return left.value.code, *capsys.readouterr()

    return call


Polarpix = Callable[..., tuple[int, str, str]]


def refused(found: tuple[int, str, str], *words: str) -> None:
    """Status 2 and one line on stderr that holds the words."""
    status, _, err = found
    assert status == 2
    lines = [line for line in err.splitlines() if line.startswith("polarpix: ") and "warning" not in line]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in lines[0]


def test_training_leaves_a_whole_run(folder: Path) -> None:
    for name in (
        "config.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "weights/best.safetensors",
        "weights/best.json",
        "metrics.csv",
        "report.html",
    ):
        assert (folder / name).is_file(), name
    assert list((folder / "tensorboard").glob("events.*"))
    assert [path.name for path in sorted((folder / "pictures").iterdir())] == ["epoch_000.jpg", "epoch_001.jpg"]
    assert not list(folder.rglob(".*"))  # nothing half written
    page = (folder / "report.html").read_text()
    assert "Course of the training" in page
    assert "<svg" in page
    run = load_page(folder / "config.yaml")
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for row in rows:
        assert all(float(row[name]) > 0 for name in ("loss", "data_ms", "step_ms", "seconds", run.monitor))
        assert any(name.startswith("lr-") for name in row)


def test_weights_say_what_they_are(folder: Path, polarpix: Polarpix) -> None:
    artifact = load_artifact(folder)
    assert (artifact.attention, artifact.form, artifact.layout) == ("psa_p", "paper", "parallel")
    assert artifact.run["optim"]["lr"] == 0.01
    assert artifact.metrics == json.loads((folder / "weights" / "best.json").read_text())
    assert len(artifact.labels.names) == {"pose": 14, "seg": 7}[artifact.task]
    status, out, _ = polarpix("info", folder)
    assert status == 0
    for word in ("test_resnet", "psa_p (paper form, parallel)", artifact.labels.names[3], artifact.run["monitor"]):
        assert word in out


def test_evaluation_leaves_report_and_record(folder: Path, tmp_path: Path, polarpix: Polarpix) -> None:
    record = tmp_path / "record.json"
    status, out, _ = polarpix("eval", folder, "--split", "test", "--out", tmp_path / "e", "--record", record)
    assert status == 0
    found = json.loads(record.read_text())
    assert found == json.loads((tmp_path / "e" / "record.json").read_text())
    assert found["command"].startswith("polarpix eval")
    assert {"commit", "torch", "device", "weights", "seconds"} <= set(found["conditions"])
    assert found["config"]["optim"]["lr"] == 0.01
    assert found["training"]["epochs"] == 2
    assert (tmp_path / "e" / "report.html").is_file()
    assert (tmp_path / "e" / "results.json").is_file() == ("pose" in folder.parts[-2])
    monitor = found["config"]["monitor"]
    assert f"{monitor:<28}{found['metrics'][monitor]:>10.4f}" in out
    assert "protocol of this evaluation" in out


def test_the_same_weights_score_the_same_again(folder: Path, tmp_path: Path, polarpix: Polarpix) -> None:
    """The weights file holds the best epoch, and its metrics are that epoch's."""
    monitor = load_artifact(folder).run["monitor"]
    with (folder / "metrics.csv").open(newline="") as file:
        course = [float(row[monitor]) for row in csv.DictReader(file)]
    best = {"mean_error": min, "mIoU": max}[monitor](course)
    assert load_artifact(folder).metrics[monitor] == pytest.approx(best, abs=1e-6)
    status, _, _ = polarpix("eval", folder, "--out", tmp_path)
    assert status == 0
    again = json.loads((tmp_path / "record.json").read_text())["metrics"]
    metrics = load_artifact(folder).metrics
    assert {name: again[name] for name in metrics} == pytest.approx(metrics, abs=1e-4)
    assert 0 <= again["ECE"] <= 1


def test_evaluation_beside_lone_weights(seg_folder: Path, tmp_path: Path, polarpix: Polarpix) -> None:
    lone = tmp_path / "mine.safetensors"
    shutil.copy(seg_folder / "weights" / "best.safetensors", lone)
    assert polarpix("eval", lone)[0] == 0
    assert (tmp_path / "eval" / "val" / "report.html").is_file()


def test_prediction_writes_overlays_and_results(
    pose_folder: Path, seg_folder: Path, figures: Path, tmp_path: Path, polarpix: Polarpix
) -> None:
    images = sorted((figures / "images" / "test").iterdir())
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(images[0].read_bytes()[:700])
    with pytest.warns(UserWarning, match="no --boxes"):
        status, out, err = polarpix("predict", pose_folder, images[0], broken, images[1], "--out", tmp_path / "pose")
    assert "2 of 3 images predicted" in out
    refused((status, out, err), str(broken), "damaged or cut off")
    assert [p.name for p in sorted((tmp_path / "pose" / "overlays").iterdir())] == ["0000.jpg", "0001.jpg"]
    assert len(json.loads((tmp_path / "pose" / "keypoints.json").read_text())) == 2
    status, out, err = polarpix("predict", seg_folder, figures / "images" / "test", "--out", tmp_path / "seg")
    assert (status, "3 of 3 images predicted" in out) == (0, True)
    assert len(list((tmp_path / "seg" / "labels").glob("*.png"))) == 3
    assert not (tmp_path / "seg" / "keypoints.json").exists()


def test_prediction_of_a_video_says_where_the_time_went(
    pose_folder: Path, video: Path, tmp_path: Path, polarpix: Polarpix
) -> None:
    options = ["--boxes", "4,4,40,40", "--batch", "2", "--frames", "3", "--timing", "--out", tmp_path / "out"]
    status, out, _ = polarpix("predict", pose_folder, video, *options)
    assert status == 0
    assert "3 of 3 images predicted" in out
    assert "seconds: network" in out
    assert (tmp_path / "out" / "overlays" / "clip.mp4").is_file()


def test_prediction_options_that_do_not_go_together(
    pose_folder: Path, seg_folder: Path, figures: Path, tmp_path: Path, polarpix: Polarpix
) -> None:
    image = figures / "images" / "test" / "0000.jpg"
    for folder, options, words in (
        (pose_folder, ["--boxes", "1,2,3,4", "--detector", "ssd300_vgg16"], "give one of the two"),
        (pose_folder, ["--detector", "yolo"], "no such detector"),
        (pose_folder, ["--boxes", "1,2,3,4", "--category", "dog"], "--category dog: give the number"),
        (pose_folder, ["--batch", "0"], "batch is 0"),
        (pose_folder, ["--frames", "-1"], "--frames -1"),
        (seg_folder, ["--detector", "ssd300_vgg16"], "takes no boxes"),
        (seg_folder, ["--ray", "--boxes", "1,2,3,4"], "takes no boxes"),
        (pose_folder, ["--ray", "--category", "dog"], "--category dog: give the number"),
        (pose_folder, ["--ray", "--workers", "0"], "--workers 0"),
    ):
        refused(polarpix("predict", folder, image, "--out", tmp_path / "x", *options), words)
    assert not (tmp_path / "x").exists()


def test_options_reach_the_network(pose_folder: Path, figures: Path, tmp_path: Path, polarpix: Polarpix) -> None:
    image = figures / "images" / "test" / "0000.jpg"
    found = []
    for flag in ("true", "false"):
        assert polarpix("predict", pose_folder, "--eval.flip_test", flag, image, "--out", tmp_path / flag)[0] == 0
        found.append(json.loads((tmp_path / flag / "keypoints.json").read_text())[0]["keypoints"])
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.backbone.attention", "psa_s"], ["parallel", "sequential", "psa_p"]),
        (["--model.backbone.attention", "none"], ["not expected", "psa_p"]),
        (["--model.backbone.attention", "psa_p_released"], ["released form", "psa_p"]),
        (["--model.backbone.attention", "psaa"], ["attention 'psaa' is not on the shelf", "psa_p"]),
        (["--model.backbone.name", "test_efficientnet"], ["does not fit this model"]),
        (["--model.backbone.name", "test_resnett"], ["is not a timm model", "test_resnet"]),
        (["--eval.fliptest", "true"], ["no option --eval.fliptest", "--eval.flip"]),
        (["--device", "tpu"], ["device 'tpu' cannot be used"]),
        (["--device", "nonsense"], ["device 'nonsense' cannot be used"]),
    ],
)
def test_weights_of_another_network(
    folder: Path, figures: Path, tmp_path: Path, polarpix: Polarpix, options: list[str], words: list[str]
) -> None:
    image = figures / "images" / "test" / "0000.jpg"
    refused(polarpix("predict", folder, image, "--out", tmp_path / "x", *options), *words)
    assert not (tmp_path / "x").exists()


def test_evaluation_of_what_does_not_fit(
    pose_folder: Path, seg_folder: Path, tmp_path: Path, tiny_page: TinyPage, polarpix: Polarpix
) -> None:
    refused(polarpix("eval", pose_folder, "--split", "tset"), "split is 'tset': choose val or test")
    refused(polarpix("eval", pose_folder, "--data.test_images", "null", "--split", "test"), "data.test_images")
    refused(polarpix("eval", seg_folder, "--model.backbone.attention", "psa_s"), "parallel", "sequential")
    fewer = tiny_page("seg")
    fewer["data"]["classes"] = [*fewer["data"]["classes"], "one more"]
    page = tmp_path / "page.yaml"
    page.write_text(yaml.safe_dump(fewer))
    refused(polarpix("eval", seg_folder, "--config", page), "trained on 7 labels", "the data has 8 labels")
    page.write_text(yaml.safe_dump(tiny_page("pose")))
    refused(polarpix("eval", seg_folder, "--config", page), "holds a seg network, the page is for pose")
    refused(polarpix("eval", seg_folder, "--engine.accelerator", "gpuu"), "engine.accelerator gpuu")


def test_a_place_that_takes_no_files_is_said_before_the_work(
    folder: Path, figures: Path, tmp_path: Path, polarpix: Polarpix, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    monkeypatch.setattr("polarpix.engine.evaluate.evaluate", None)  # measures nothing
    refused(polarpix("eval", folder, "--out", file), str(file), "is no folder: choose another place")
    refused(polarpix("eval", folder, "--record", file / "r.json"), str(file / "r.json"), "choose another place")
    refused(polarpix("predict", folder, figures / "images" / "test", "--out", file), str(file), "choose another place")


def test_files_that_are_no_weights(seg_folder: Path, tmp_path: Path, polarpix: Polarpix) -> None:
    text = tmp_path / "a.safetensors"
    text.write_text("weights")
    refused(polarpix("info", text), str(text), "not a readable safetensors file")
    data = (seg_folder / "weights" / "best.safetensors").read_bytes()
    text.write_bytes(data[: len(data) // 2])
    refused(polarpix("predict", text, "x.jpg"), str(text), "not a readable safetensors file")
    refused(polarpix("info", seg_folder / "checkpoints" / "best.ckpt"), "best.ckpt", "not a readable safetensors file")
    refused(polarpix("info", tmp_path), str(tmp_path), "no such weights file")


@pytest.fixture
def own_figures(figures: Path, tmp_path: Path) -> Path:
    """A copy of the set, for breaking."""
    return shutil.copytree(figures, tmp_path / "figures")


def train(polarpix: Polarpix, page: dict[str, Any], tmp_path: Path, *options: object) -> tuple[int, str, str]:
    path = tmp_path / "page.yaml"
    path.write_text(yaml.safe_dump(page | {"out": str(tmp_path / "runs")}))
    return polarpix("train", "--config", path, *options)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("task", ["pose", "seg"])
def test_a_truncated_training_image(
    task: str, workers: int, own_figures: Path, tiny_page: TinyPage, tmp_path: Path, polarpix: Polarpix
) -> None:
    page = tiny_page(task)
    page["data"]["root"], page["engine"]["workers"] = str(own_figures), workers
    image = own_figures / "images" / "train" / "0003.jpg"
    image.write_bytes(image.read_bytes()[:900])
    refused(train(polarpix, page, tmp_path), str(image), "damaged or cut off")


def spoil_label(own_figures: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    path = own_figures / "labels" / "train" / name
    Image.fromarray(change(np.asarray(Image.open(path)))).save(path)
    return path


def test_bad_label_maps(own_figures: Path, tiny_page: TinyPage, tmp_path: Path, polarpix: Polarpix) -> None:
    page = tiny_page("seg")
    page["data"]["root"] = str(own_figures)
    path = spoil_label(own_figures, "0002.png", lambda label: label[:-3])
    refused(train(polarpix, page, tmp_path), str(path), "label is 64x61, its image 64x64")
    spoil_label(own_figures, "0002.png", lambda label: np.full((64, 64), 9, np.uint8))
    refused(train(polarpix, page, tmp_path), str(path), "label holds 9", "data.classes")
    for file in (own_figures / "labels" / "train").iterdir():
        spoil_label(own_figures, file.name, lambda label: (label > 0).astype(np.uint8) * 255)
    refused(train(polarpix, page, tmp_path), "mask holds only ", "255 means ignore: divide the masks by 255")
    path.unlink()
    refused(train(polarpix, page, tmp_path), "0002.jpg", "no label PNG")
    page["data"]["train"] = "trian"
    refused(train(polarpix, page, tmp_path), "no split 'trian'", "train")
    page["data"]["train"] = "empty"
    for kind in ("images", "labels"):
        (own_figures / kind / "empty").mkdir()
    refused(train(polarpix, page, tmp_path), "empty: folder holds no images")


def test_bad_annotations(own_figures: Path, tiny_page: TinyPage, tmp_path: Path, polarpix: Polarpix) -> None:
    page = tiny_page("pose")
    page["data"]["root"] = str(own_figures)
    path = own_figures / "annotations" / "train.json"
    good = json.loads(path.read_text())
    for text, words in [
        ("{", ["not JSON"]),
        ("[1, 2]", ["COCO"]),
        (json.dumps({"images": []}), ["annotations"]),
        (json.dumps(good | {"annotations": []}), ["empty"]),
    ]:
        path.write_text(text)
        refused(train(polarpix, page, tmp_path), str(path), *words)
    path.write_text(json.dumps(good))
    (own_figures / "images" / "train" / "0001.jpg").unlink()
    refused(train(polarpix, page, tmp_path), "0001.jpg")
    path.unlink()
    refused(train(polarpix, page, tmp_path), str(path))


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("pose", ["--model.backbone.name", "resnet5"], ["is not a timm model"]),
        ("pose", ["--model.codec", "drak"], ["model.codec"]),
        ("pose", ["--model.input_size", "[60, 64]"], ["multiples of 32", "[64, 64]"]),
        ("pose", ["--monitor", "mIoU"], ["monitor is 'mIoU'", "AP"]),
        ("seg", ["--monitor", "miou"], ["monitor is 'miou'", "did you mean 'mIoU'?"]),
        ("seg", ["--model.backbone.attention", "pas_p"], ["pas_p", "psa_p"]),
        ("seg", ["--model.backbone.attention_options", "{ratio: 3}"], ["ratio"]),
        ("seg", ["--model.backbone.weights", "nowhere.pth"], ["nowhere.pth"]),
        ("seg", ["--optim.schedule", "step"], ["without optim.milestones"]),
        ("seg", ["--engine.accelerator", "gpu"], ["engine.accelerator gpu"]),
        ("seg", ["--engine.devices", "many"], ["engine.accelerator cpu, devices many"]),
    ],
)
def test_choices_that_do_not_exist(
    task: str, options: list[str], words: list[str], tiny_page: TinyPage, tmp_path: Path, polarpix: Polarpix
) -> None:
    refused(train(polarpix, tiny_page(task), tmp_path, *options), *words)


def test_a_run_is_not_written_over(seg_folder: Path, tmp_path: Path, polarpix: Polarpix) -> None:
    before = {path: path.read_bytes() for path in seg_folder.rglob("*") if path.is_file()}
    page = seg_folder / "config.yaml"
    refused(polarpix("train", "--config", page), "already holds a run", "--resume")
    refused(polarpix("train", "--config", page, "--resume", "--model.backbone.attention", "none"), "psa_p", "none")
    refused(polarpix("train", "--config", page, "--resume", "--data.classes", "[a, b, c, d, e, f, g]"), "other labels")
    assert before == {path: path.read_bytes() for path in seg_folder.rglob("*") if path.is_file()}


def test_a_damaged_checkpoint_is_not_resumed(
    seg_folder: Path, write_page: WritePage, tmp_path: Path, polarpix: Polarpix
) -> None:
    page = write_page("seg", tmp_path)
    folder = Path(shutil.copytree(seg_folder, tmp_path / "runs" / "seg" / "tiny"))
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = polarpix("train", "--config", page, "--resume")
    refused(found, str(last), "damaged or cut off", f"copy {last.with_name('best.ckpt')} over it")
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_may_be_of_no_epoch_and_a_place_of_no_use(
    write_page: WritePage, tmp_path: Path, polarpix: Polarpix
) -> None:
    page = write_page("seg", tmp_path)
    status, out, _ = polarpix("train", "--config", page, "--engine.epochs", "0")
    assert status == 0
    assert "best.safetensors" in out
    (tmp_path / "file").touch()
    refused(polarpix("train", "--config", page, "--out", tmp_path / "file"), str(tmp_path / "file"), "another place")


def test_what_counts_for_less_is_a_warning_of_one_line(
    own_figures: Path, tiny_page: TinyPage, tmp_path: Path, polarpix: Polarpix
) -> None:
    """Points outside the image and boxes of no area: named with the mend, and the training goes on."""
    page = tiny_page("pose")
    page["data"]["root"] = str(own_figures)
    for split, change in (("train", {"bbox": [1, 1, 0, 9]}), ("val", {"keypoints": [999.0, 5, 2] + [9, 9, 2] * 13})):
        path = own_figures / "annotations" / f"{split}.json"
        content = json.loads(path.read_text())
        content["annotations"][0] |= change
        path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="mend") as caught:
        assert train(polarpix, page, tmp_path, "--engine.epochs", "1", "--engine.pictures", "0")[0] == 0
    said = [str(one.message) for one in caught if ".json" in str(one.message)]
    flat, outside = (line for line in said if "no OKS sigmas given" not in line)
    assert "train.json: annotation 1 (bbox [1, 1, 0, 9]): dropped" in flat
    assert "mend bbox" in flat
    assert "val.json: annotation 1 (head_top at [999.0, 5.0]): keypoints outside the image" in outside
    assert "mend them" in outside


def test_the_overlay_is_a_picture_of_the_image(
    pose_folder: Path, figures: Path, tmp_path: Path, polarpix: Polarpix
) -> None:
    image = figures / "images" / "val" / "0000.jpg"
    assert polarpix("predict", pose_folder, image, "--boxes", "5,5,50,50", "--out", tmp_path)[0] == 0
    assert read_image(tmp_path / "overlays" / "0000.jpg").shape == read_image(image).shape
    refused(polarpix("predict", pose_folder, image, "--boxes", "5,5,0,50", "--out", tmp_path), str(image), "no area")
    refused(polarpix("predict", pose_folder, image, "--boxes", "5,5,50", "--out", tmp_path), "--boxes 5,5,50")
    assert json.loads((tmp_path / "keypoints.json").read_text())  # of the first call, kept
