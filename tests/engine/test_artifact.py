"""Weights files: what goes in comes out, and what does not fit is refused."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from polarpix.calibration import Calibration
from polarpix.config import PoseModelConfig, PoseRun, SegModelConfig, SegRun
from polarpix.demo.figures import FIGURE_CLASSES, FIGURE_SCHEMA
from polarpix.engine.artifact import commit, load_artifact, load_state, save_artifact, write_text
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig
from polarpix.pose.model import build_pose_model

ROOT = Path(__file__).resolve().parents[2]


def pose_run(attention: str = "psa_s_released") -> PoseRun:
    return PoseRun(
        name="x", model=PoseModelConfig(BackboneConfig("test_resnet", attention=attention), head_channels=[8])
    )


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    run = pose_run()
    state = {"a": torch.arange(6.0).reshape(2, 3).t(), "n": torch.tensor(3)}
    path = tmp_path / "deep" / "best.safetensors"
    calibration = Calibration((0.1, 0.9), (0.2, 0.8), "val", 300, {"flip_test": True}, (0.5, 0.1))
    save_artifact(path, state, run, FIGURE_SCHEMA, {"AP": 0.5}, calibration)
    found = load_artifact(path)
    assert found.calibration == calibration
    assert found.task == "pose"
    assert (found.attention, found.form, found.layout) == ("psa_s_released", "released", "sequential")
    assert found.run == json.loads(json.dumps(dataclasses.asdict(run)))
    assert found.labels == FIGURE_SCHEMA
    assert found.metrics == {"AP": 0.5}
    assert found.commit == commit()
    assert found.file == str(path)
    for name, tensor in state.items():
        torch.testing.assert_close(found.state[name], tensor, rtol=0, atol=0)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["run"])["model"]["backbone"]["attention"] == "psa_s_released"
    assert [p.name for p in path.parent.iterdir()] == ["best.safetensors"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it as any file


def test_what_a_training_writes_outlives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    write_text(tmp_path / "config.yaml", "x")
    assert len(synced) == 2  # the file and its name
    save_artifact(tmp_path / "best.safetensors", {"a": torch.ones(1)}, pose_run(), FIGURE_SCHEMA, {})
    assert len(synced) == 4


def test_a_run_folder_is_as_good_as_its_file(tmp_path: Path) -> None:
    run = SegRun(name="x", model=SegModelConfig(BackboneConfig("test_resnet", attention="se")))
    save_artifact(tmp_path / "weights" / "best.safetensors", {"a": torch.ones(1)}, run, FIGURE_CLASSES, {})
    found = load_artifact(tmp_path)
    assert found.labels == FIGURE_CLASSES
    assert (found.form, found.layout) == ("", "")


def test_the_commit_is_that_of_the_source() -> None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    head = done.stdout.strip() if done.returncode == 0 else ""
    assert commit().rstrip("+") == head[:12]


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such weights file"):
        load_artifact(tmp_path / "none.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(1)}, other)
    with pytest.raises(InputError, match="not a polarpix weights file"):
        load_artifact(other)
    other.write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(InputError, match="not a readable safetensors file") as caught:
        load_artifact(other)
    assert "\n" not in str(caught.value)


def relabelled(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The file with another header."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["a"].update(data_offsets=[0, 2**40]),
        lambda h: h["a"].update(shape=[2**31, 2**31]),
        lambda h: h["a"].update(dtype="F31"),
        lambda h: h["b"].update(data_offsets=h["a"]["data_offsets"]),
        lambda h: h["__metadata__"].update(run="{"),
        lambda h: h["__metadata__"].update(run="[1]"),
        lambda h: h["__metadata__"].update(labels='{"names": ["a"]}'),
        lambda h: h["__metadata__"].update(labels="[" * 100_000),
        lambda h: h["__metadata__"].update(metrics="3"),
        lambda h: h["__metadata__"].pop("labels"),
    ],
)
def test_a_header_that_lies_is_one_line(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = tmp_path / "w.safetensors"
    save_artifact(path, {"a": torch.ones(2), "b": torch.ones(2)}, pose_run(), FIGURE_SCHEMA, {})
    load_artifact(path)
    relabelled(path, lambda h: h["__metadata__"].pop("sha256"))  # as who wants to deceive would do
    relabelled(path, change)
    with pytest.raises(InputError, match=r"^\S+: (not a readable safetensors file|its metadata is damaged)") as caught:
        load_artifact(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 10**9, 2**63, 2**64 - 1])
def test_a_header_of_another_length_is_one_line(tmp_path: Path, length: int) -> None:
    path = tmp_path / "w.safetensors"
    save_artifact(path, {"a": torch.ones(2)}, pose_run(), FIGURE_SCHEMA, {})
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_artifact(path)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    run = pose_run("psa_p")
    save_artifact(tmp_path / "w.safetensors", build_pose_model(run.model, 3).state_dict(), run, FIGURE_SCHEMA, {})
    return tmp_path / "w.safetensors"


def test_a_model_gets_its_own_weights(saved: Path) -> None:
    artifact = load_artifact(saved)
    model = build_pose_model(pose_run("psa_p").model, 3)
    assert any((p != artifact.state[name]).any() for name, p in model.named_parameters())
    load_state(model, artifact)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, artifact.state[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("attention", "outputs", "words"),
    [
        ("psa_p", 4, r"of another shape \(head.final_layer.*holds attention 'psa_p' and 14 outputs"),
        ("none", 3, "not expected"),
        ("se", 3, "missing"),
        ("psa_p_released", 3, "this model has the released form, parallel: set model.backbone.attention to 'psa_p'"),
        ("psa_s", 3, "holds attention of the paper form, parallel; this model has the paper form, sequential"),
    ],
)
def test_another_network_is_refused(saved: Path, attention: str, outputs: int, words: str) -> None:
    model = build_pose_model(pose_run(attention).model, outputs)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=words) as caught:
        load_state(model, load_artifact(saved))
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_saving_keeps_the_random_state(tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    save_artifact(tmp_path / "w.safetensors", {"a": torch.ones(1)}, pose_run(), FIGURE_SCHEMA, {})
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "broken \ud800")
    assert path.read_text() == "first"
    write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_an_altered_file_is_refused_and_an_older_one_read(saved: Path) -> None:
    artifact = load_artifact(saved)
    state = {name: tensor.clone() for name, tensor in artifact.state.items()}  # those lie in the file
    assert len(artifact.digest) == 64
    data = bytearray(saved.read_bytes())
    data[-1000] ^= 4
    saved.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"w\.safetensors: altered since it was written.*: copy, download or train it"):
        load_artifact(saved)
    data[-1000] ^= 4
    saved.write_bytes(bytes(data))
    relabelled(saved, lambda h: h["__metadata__"].pop("sha256"))
    older = load_artifact(saved)
    assert older.digest == ""
    assert all(torch.equal(older.state[name], tensor) for name, tensor in state.items())
