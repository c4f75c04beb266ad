from __future__ import annotations

from pathlib import Path

import pytest

from polarpix.demo import run as demo
from polarpix.pages import load_page


def test_the_demonstration_leaves_a_page_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SPLITS", {"train": 16, "val": 2, "test": 2})
    small = ["--engine.epochs=1", "--engine.workers=0", "--engine.batch_size=8", "--engine.accelerator=cpu"]
    monkeypatch.setattr(demo, "load_page", lambda path, options: load_page(path, [*options, *small]))
    page = demo.run_demo(tmp_path / "demo")
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "demo" / "index.html"
    for words in ("keypoint AP (OKS)", "mIoU", "Predictions on new pictures", "What the gates do", "data:image/"):
        assert words in text
    weights = sorted((tmp_path / "demo").glob("*/figures/weights/best.safetensors"))
    assert [path.parts[-4] for path in weights] == ["pose", "seg"]
    before = [path.read_bytes() for path in weights]
    demo.run_demo(tmp_path / "demo")
    assert [path.read_bytes() for path in weights] == before


def test_the_embedded_pages_train_polarized_self_attention_on_the_embedded_data() -> None:
    for task in ("pose", "seg"):
        run = load_page(demo.PAGES / f"{task}.yaml")
        assert run.task == task
        assert run.model.backbone.attention == "psa_p"
        assert run.model.backbone.weights is None
