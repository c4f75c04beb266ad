"""Every page of the paper's pose tables: built, trained for two steps, evaluated, its results in the server's format.

On a tiny copy of COCO's official layout and on small crops; the networks are the published ones.
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pytorch_lightning.callbacks import ModelCheckpoint

from polarpix import commands
from polarpix.backbones.insert import attention_blocks
from polarpix.config import PoseRun
from polarpix.engine.fit import build_data, build_task, build_trainer, configure
from polarpix.pages import load_page
from polarpix.pose.evaluate import pose_protocol
from polarpix.published import PUBLISHED

PAPER = Path(__file__).resolve().parents[2] / "configs" / "paper" / "coco"
PAGES = {path.stem: path for path in sorted(PAPER.glob("*.yaml"))}
SMALL = [
    *("--engine.accelerator=cpu", "--engine.devices=1", "--engine.strategy=auto", "--engine.workers=0"),
    *("--engine.batch_size=2", "--engine.epochs=1", "--engine.eval_every=1", "--engine.pictures=1"),
    *("--model.backbone.weights=null", "--model.input_size=[64,32]"),
]


def small_page(root: Path, out: Path) -> list[str]:
    """The options that shrink a page to the tiny copy of COCO."""
    return [*SMALL, f"--data.root={root}", f"--eval.boxes={root / 'detections.json'}", f"--out={out}"]


def test_there_is_a_page_for_every_row() -> None:
    assert {f"paper/coco/{name}" for name in PAGES} == {name for name in PUBLISHED if "/coco/" in name}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_row_says(name: str) -> None:
    """The recipe, and the figures of the head comment."""
    run, row, text = load_page(PAGES[name]), PUBLISHED[f"paper/coco/{name}"], PAGES[name].read_text()
    assert isinstance(run, PoseRun)
    words = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    assert f"Table {row.table}: {row.row}" in words
    assert all(f"{key} {value}" in words for key, value in row.figures.items())
    assert f"{row.params}M parameters, {row.macs}G multiply-adds" in words
    assert "--eval.boxes gt --eval.detector_ap null" in words
    simple, udp = name.startswith("simplebaseline"), name.startswith("udp")
    assert run.model.input_size == ((256, 192) if "256x192" in name else (384, 288))
    assert run.model.backbone.attention == (name[name.index("psa") :] if "psa" in name else "none")
    assert run.model.backbone.weights == (None if simple and "psa" in name else "timm")
    assert (run.model.head, run.model.codec) == (
        "deconv" if simple else "linear",
        "udp_offset" if udp else "gaussian",
    )
    assert (run.model.sigma, run.loss) == ((4.0, "offset") if udp else (3.0, "mse"))
    assert (run.engine.epochs, run.optim.milestones) == ((140, [90, 120]) if simple else (210, [170, 200]))
    assert (run.optim.name, run.optim.lr, run.optim.weight_decay, run.optim.decay_norm) == ("adam", 1e-3, 1e-4, True)
    data = run.data
    assert (data.rotation, data.scale, data.half_body) == ((40, 0.3, 0) if simple else (45, 0.35, 0.3))
    assert (data.rotation_prob, data.flip, data.half_body_min, data.box_padding) == (0.6, 0.5, 8, 1.25)
    protocol = run.eval
    assert (protocol.flip_test, protocol.shift_flipped) == (True, not udp)
    assert (protocol.oks_nms, protocol.visibility, protocol.box_threshold) == (0.9, 0.2, 0.0)
    assert protocol.detector_ap == (65.1 if udp else 56.4)
    assert load_page(PAGES[name], ["--eval.boxes", "gt", "--eval.detector_ap", "null"])


@pytest.mark.parametrize("name", PAGES)
def test_a_page_trains_is_evaluated_and_written(name: str, tiny_coco: Path, tmp_path: Path) -> None:
    run = load_page(PAGES[name], small_page(tiny_coco, tmp_path))
    assert isinstance(run, PoseRun)
    torch.manual_seed(0)
    data = build_data(run)
    train, val = data.dataset("train"), data.dataset("val")
    train.instances = train.instances[:4]
    task = build_task(run, data.labels, configure)
    assert bool(attention_blocks(task.model.backbone)) == (run.model.backbone.attention != "none")
    before = {key: value.clone() for key, value in task.model.head.named_parameters()}
    trainer = build_trainer(run, tmp_path, [])
    trainer.callbacks[:] = [one for one in trainer.callbacks if not isinstance(one, ModelCheckpoint)]  # a gigabyte each
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 2
    assert torch.isfinite(trainer.callback_metrics["loss"])
    assert all((value != before[key]).any() for key, value in task.model.head.named_parameters())
    boxes = hashlib.sha256((tiny_coco / "detections.json").read_bytes()).hexdigest()
    told = pose_protocol(run, val)
    assert (told["protocol"], told["boxes_sha256"], told["images"]) == ("detected_boxes", boxes, 2)
    # Two steps leave points anywhere: the format and the figure for it are what counts.
    file = tmp_path / "person_keypoints_val2017_results.json"
    file.write_text(json.dumps(task.coco))
    assert {one["image_id"] for one in task.coco} == {140, 141}
    assert all(set(one) == {"image_id", "category_id", "keypoints", "score"} for one in task.coco)
    assert all(one["category_id"] == 1 and len(one["keypoints"]) == 51 for one in task.coco)
    truth = COCO(str(val.annotations))
    judge = COCOeval(truth, truth.loadRes(str(file)), "keypoints")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert task.results["AP"] == pytest.approx(judge.stats[0], abs=1e-6)
    assert task.results["AR"] == pytest.approx(judge.stats[5], abs=1e-6)


def test_the_commands_from_page_to_server(tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """UDP's page with a smaller network, through train, eval by both protocols, and predict."""
    options = [*small_page(tiny_coco, tmp_path), "--name=tiny", "--model.backbone.name=hrnet_w18_small"]
    assert commands.train(str(PAGES["udp_hrnet_w48_psa_p_released"]), options=options) == 0
    weights = tmp_path / "pose" / "tiny"
    records = {}
    for protocol, more in (("detected_boxes", []), ("gt_boxes", ["--eval.boxes=gt", "--eval.detector_ap=null"])):
        assert commands.evaluate(str(weights), out=str(tmp_path / protocol), options=more) == 0
        records[protocol] = json.loads((tmp_path / protocol / "record.json").read_text())["protocol"]
        assert records[protocol]["protocol"] == protocol
        results = json.loads((tmp_path / protocol / "results.json").read_text())
        assert {len(one["keypoints"]) for one in results} == {51}
    assert records["detected_boxes"]["detector_ap"] == 65.1
    assert records["gt_boxes"]["boxes_sha256"] is None
    assert records["gt_boxes"]["sigmas_from"] == "coco"
    assert commands.evaluate(str(weights), "test", out=str(tmp_path / "server")) == 0
    record = json.loads((tmp_path / "server" / "record.json").read_text())
    assert record["metrics"] == {}  # the labels are with the server
    assert record["protocol"]["images"] == 2
    sent = (tmp_path / "server" / "results.json").read_text()
    assert sent == (tmp_path / "detected_boxes" / "results.json").read_text()
    found = capsys.readouterr().out
    assert "detected_boxes" in found
    assert "gt_boxes" in found
    boxes = str(tiny_coco / "detections.json")
    pictures = [str(tiny_coco / "val2017")]
    assert commands.predict(str(weights), pictures, boxes, category="1", out=str(tmp_path / "out"), device="cpu") == 0
    written = json.loads((tmp_path / "out" / "keypoints.json").read_text())
    assert {one["image_id"] for one in written} == {140, 141}
    detected = json.loads((tmp_path / "detected_boxes" / "results.json").read_text())
    for one in written:  # prediction and evaluation are one path
        same = [other for other in detected if other["score"] == pytest.approx(one["score"], rel=1e-4)]
        assert any(other["keypoints"] == pytest.approx(one["keypoints"], abs=0.05) for other in same)
