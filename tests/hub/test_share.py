"""What is given away can be loaded again, from a folder and from the Hub, and predicts the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch

import polarpix
from polarpix.engine.artifact import load_artifact
from polarpix.errors import InputError
from polarpix.hub import Facts, push, save_pretrained
from polarpix.predict import PosePredictor, SegPredictor
from polarpix.zoo import MODELS, BoxedModel

PICTURE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


@pytest.fixture
def evaluated(pose_folder: Path, tmp_path: Path) -> Path:
    """The pose run with the record of an evaluation beside it."""
    folder = tmp_path / "run"
    shutil.copytree(pose_folder / "weights", folder / "weights")
    record = {"metrics": {"AP": 0.123}, "protocol": {"split": "val"}, "conditions": {}, "config": {"name": "tiny"}}
    (folder / "eval" / "val").mkdir(parents=True)
    (folder / "eval" / "val" / "record.json").write_text(json.dumps(record))
    return folder


def test_a_folder_comes_back(pose: PosePredictor, tmp_path: Path) -> None:
    folder = pose.save_pretrained(tmp_path / "given", facts=Facts(licence="apache-2.0"))
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "README.md",
        "config.yaml",
        "weights/best.safetensors",
    ]
    again = PosePredictor.from_pretrained(folder, device="cpu")
    np.testing.assert_array_equal(again(PICTURE).prediction.keypoints, pose(PICTURE).prediction.keypoints)
    before, after = pose.artifact, load_artifact(folder)
    assert (after.run, after.labels, after.metrics, after.commit) == (
        before.run,
        before.labels,
        before.metrics,
        before.commit,
    )
    assert "license: apache-2.0" in (folder / "README.md").read_text()
    with pytest.raises(InputError, match=r"is for a PosePredictor, not a SegPredictor: use polarpix.load"):
        SegPredictor.from_pretrained(folder, device="cpu")


def test_a_file_has_its_card_beside_it_and_the_runs_record_in_it(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lone = save_pretrained(evaluated, tmp_path / "body.safetensors")
    assert f'polarpix.load("{lone}")' in lone.with_suffix(".md").read_text()
    monkeypatch.setitem(MODELS, "body", BoxedModel(tmp_path / "box" / "body.safetensors", "figures"))
    file = save_pretrained(evaluated, tmp_path / "box" / "body.safetensors", half=True)
    card = file.with_suffix(".md").read_text()
    assert "| AP | 0.1230 |" in card
    assert 'polarpix.load("body")' in card
    full, half = load_artifact(evaluated).state, load_artifact(file).state
    assert file.stat().st_size < 0.6 * (evaluated / "weights" / "best.safetensors").stat().st_size
    for name, tensor in full.items():
        assert half[name].dtype == (torch.float16 if tensor.dim() > 1 else tensor.dtype)
        torch.testing.assert_close(half[name].to(tensor.dtype), tensor, rtol=1e-3, atol=1e-4)
    loaded, own = polarpix.load(file, "cpu"), polarpix.load(evaluated, "cpu")
    assert next(loaded.model.parameters()).dtype == torch.float32
    np.testing.assert_allclose(
        loaded(PICTURE).prediction.scores, own(PICTURE).prediction.scores, rtol=0, atol=0.01
    )  # to three digits


class Hub:
    """Stands for the Hugging Face Hub: keeps what is uploaded in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, list[tuple[str, Any]]()

    def api(self, token: str | None = None) -> "Hub":
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo: str, private: bool, exist_ok: bool) -> str:
        self.calls.append(("create", (repo, private, exist_ok)))
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> None:
        shutil.copytree(folder_path, self.folder / repo_id)

    def model_info(self, repo: str, timeout: float) -> None:
        assert (self.folder / repo).is_dir()

    def download(self, repo: str, name: str, local_files_only: bool) -> str:
        assert not local_files_only
        return str(self.folder / repo / name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", found.api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", found.download)
    return found


def test_what_is_pushed_is_loaded_by_its_name(hub: Hub, seg: SegPredictor) -> None:
    assert seg.push_to_hub("me/masks", private=True, token="secret") == "https://huggingface.co/me/masks"
    assert hub.calls == [("token", "secret"), ("create", ("me/masks", True, True))]
    assert 'polarpix.load("me/masks")' in (hub.folder / "me" / "masks" / "README.md").read_text()
    again = SegPredictor.from_pretrained("me/masks", device="cpu")
    np.testing.assert_array_equal(again(PICTURE).prediction.label, seg(PICTURE).prediction.label)


def test_an_upload_that_fails_is_one_line(hub: Hub, seg_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(InputError, match=r"me/masks: could not be uploaded \(Name or service not known\): check"):
        push(seg_folder, "me/masks")
    with pytest.raises(InputError, match=r"repository 'masks': give user/name"):
        push(seg_folder, "masks")
