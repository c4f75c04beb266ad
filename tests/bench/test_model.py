"""`polarpix bench model` from end to end on a tiny network: what the record holds, not how fast it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polarpix import cli
from polarpix.bench.model import inference, measure_models, model_settings, state_bytes, training
from polarpix.bench.networks import NETWORKS, OTHERS, Network
from polarpix.errors import InputError

TINY = Network("pose", "test_resnet", (64, 32), 3, {"cpu": 2}, {"cpu": 1}, "deconv", (8, 8, 8))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(network: Network) -> nn.Module:
        raise InputError("not installed")

    monkeypatch.setitem(NETWORKS, "tiny", TINY)
    monkeypatch.setitem(OTHERS, "tiny", {"other library": missing})


@pytest.mark.usefixtures("tiny")
def test_the_record_holds_every_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.json"
    options = ["--device", "cpu", "--models", "tiny", "--attention", "psa_p:reference,psa_p:collapsed", "--rounds", "2"]
    assert cli.run(["bench", "model", *options, "--json", str(path)]) == 0
    record: dict[str, Any] = json.loads(path.read_text())
    rows = record["tables"]["rows"]
    variants = ["none", "psa_p:reference", "psa_p:collapsed", "other library"]
    assert [(r["mode"], r["variant"]) for r in rows] == [(m, v) for m in ("train", "infer") for v in variants]
    for row in rows:
        assert row["size"] == [64, 32]
        if row["variant"] == "other library":
            assert row["notes"] == {"eager": "not available: not installed"}
            continue
        assert row["batch"] == (2 if row["mode"] == "train" else 1)
        assert row["times"]["eager"]["samples"] == row["ratio"]["eager"]["samples"] == 2
        speed = 1e3 * row["batch"] / row["times"]["eager"]["median"]
        assert row["images_per_second"]["eager"] == pytest.approx(speed, rel=1e-3)
        assert row["step_bytes"] > 0
    none, reference, collapsed, _ = rows[:4]
    assert none["ratio"]["eager"] == {"median": 1.0, "low": 1.0, "high": 1.0, "samples": 2}
    assert reference["params"] == collapsed["params"] > none["params"]
    assert none["state_bytes"] > 3 * 4 * none["params"]  # weights and AdamW's two moments
    assert 4 * none["params"] < rows[4]["state_bytes"] < none["state_bytes"]
    assert record["kind"] == "bench model"
    assert {"commit", "cpu", "threads"} <= set(record["conditions"])
    assert path.with_suffix(".png").is_file()
    page = path.with_suffix(".md").read_text()
    assert "## tiny, train, 2 of 64x32" in page
    assert capsys.readouterr().out.count("## tiny, infer, 1 of 64x32") == 1


@pytest.mark.usefixtures("tiny")
def test_export_has_rows_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from polarpix.bench import exported

    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    settings = model_settings("cpu", models="tiny", mode="infer", attention="none", onnx=True, batch=1, rounds=1)
    rows = measure_models(settings).tables["rows"]
    assert [(r.mode, r.variant) for r in rows] == [("infer", "none"), ("infer", "other library"), ("onnx", "none")]
    assert "not installed: pip install" in rows[2].notes["onnxruntime"]


def test_a_training_step_changes_the_weights_and_keeps_no_gradient() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    image = torch.randn(2, 3, 4, 4)
    before = net[0].weight.detach().clone()
    run, optimizer = training(net, image, lambda out: out.square().mean() + out.mean(), "fp32")
    run()
    assert not torch.equal(net[0].weight, before)
    assert all(p.grad is None for p in net.parameters())
    parameters, buffers = 8 + 4, 2 + 2  # and one int64 counter
    assert state_bytes(net, None) == 4 * (parameters + buffers) + 8
    steps = 4 * 4  # one count for each of the four parameters
    assert state_bytes(net, optimizer) == 4 * (3 * parameters + buffers) + 8 + steps


def test_an_inference_keeps_nothing_and_uses_running_statistics() -> None:
    net = nn.BatchNorm2d(3)
    run = inference(net, torch.randn(2, 3, 4, 4), "bf16")
    run()
    assert not net.training
    assert net.running_mean is not None
    assert torch.equal(net.running_mean, torch.zeros(3))


def test_defaults() -> None:
    found = model_settings("cpu")
    assert found.networks == ("resnet50_pose", "hrnet_w32_pose", "mobilenetv2_seg")
    assert [v.label for v in found.variants] == [
        "none",
        "se",
        "psa_p:reference",
        "psa_p:collapsed",
        "psa_p:loops",
        "psa_p:fused",
    ]
    assert found.modes == ["train", "infer"]
    assert (found.dtype, found.memory_format, found.batch) == ("fp32", "channels_last", None)
    assert [v.label for v in model_settings("cpu", attention="se").variants] == ["none", "se"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--models", "resnet51"], "--models names 'resnet51': choose among resnet50_pose"),
        (["--attention", "psa"], "--attention names 'psa': choose among none"),
        (["--mode", "fwd"], "--mode names 'fwd': choose among train, infer, all"),
        (["--format", "nhwc"], "--format names 'nhwc'"),
        (["--batch", "-1"], "--batch -1"),
        (["--json", "here"], "--json here: give the name of a .json file"),
    ],
)
def test_bad_options_are_one_line(options: list[str], words: str) -> None:
    with pytest.raises(InputError) as refused:
        cli.run(["bench", "model", "--device", "cpu", *options])
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
