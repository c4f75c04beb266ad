from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from polarpix import commands
from polarpix.demo import run as demo
from polarpix.errors import InputError
from polarpix.pages import load_page


def test_the_demonstration_leaves_a_page_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SPLITS", {"train": 16, "val": 2, "test": 2})
    small = ["--engine.epochs=1", "--engine.workers=0", "--engine.batch_size=8", "--engine.accelerator=cpu"]
    monkeypatch.setattr(demo, "load_page", lambda path, options: load_page(path, [*options, *small]))
    record = tmp_path / "demo.json"
    assert commands.demo(str(tmp_path / "demo"), str(record), started=time.time() - 1000) == 0
    text = (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    for words in ("keypoint AP (OKS)", "mIoU", "Predictions on new pictures", "What the gates do", "data:image/"):
        assert words in text
    weights = sorted((tmp_path / "demo").glob("*/figures/weights/best.safetensors"))
    assert [path.parts[-4] for path in weights] == ["pose", "seg"]
    before = [path.read_bytes() for path in weights]
    check_record(json.loads(record.read_text()))
    with pytest.raises(InputError, match="is not empty, so a record would not hold the time of it all"):
        commands.demo(str(tmp_path / "demo"), str(record))
    demo.run_demo(tmp_path / "demo")
    assert [path.read_bytes() for path in weights] == before


def check_record(record: dict[str, Any]) -> None:
    """What a figure about the demonstration must carry; the clock began where it was told to."""
    assert record["pictures"] == {"train": 16, "val": 2, "test": 2}
    assert 1000 < record["seconds"] < 2000
    assert {"commit", "torch", "device"} <= set(record["conditions"])
    assert (record["seed"], list(record["runs"])) == (0, ["pose", "seg"])
    for task, name in (("pose", "AP"), ("seg", "mIoU")):
        one = record["runs"][task]
        assert name in one["metrics"]
        assert one["training"]["epochs"] == 1
        assert one["config"]["task"] == task
        assert one["command"].endswith("--split test")


def test_the_embedded_pages_train_polarized_self_attention_on_the_embedded_data() -> None:
    for task in ("pose", "seg"):
        run = load_page(demo.PAGES / f"{task}.yaml")
        assert run.task == task
        assert run.model.backbone.attention == "psa_p"
        assert run.model.backbone.weights is None
