"""Training: resumed as if nothing had happened, shared by processes as if there were one."""

import csv
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.trainer.states import TrainerStatus
from torch import Tensor

from polarpix.backbones.insert import attention_blocks
from polarpix.config import PoseRun, SegRun
from polarpix.engine import fit as engine
from polarpix.engine.artifact import load_artifact
from polarpix.engine.callbacks import EvenBuffers, Pictures
from polarpix.engine.ending import Ending
from polarpix.engine.fit import Fitted, build_trainer, fit
from polarpix.errors import InputError
from polarpix.pages import make_run

TinyPage = Callable[[str], dict[str, Any]]


class PowerCutError(Exception):
    """What ends a run early."""


class Cut(Callback):
    """Ends the run in its epoch 1 (of 0, 1, 2, 3): at the end of it, or in the midst of the next; or in its first."""

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == {"first epoch": 0, "epoch end": 1}.get(self.moment):
            raise PowerCutError

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.moment == "mid epoch" and trainer.current_epoch == 2:
            raise PowerCutError


@pytest.fixture
def run_in(tiny_page: TinyPage) -> Callable[..., PoseRun | SegRun]:
    """A tiny run below a folder, with options."""

    def make(task: str, out: Path, *options: str) -> PoseRun | SegRun:
        return make_run(tiny_page(task) | {"out": str(out)}, ["--engine.pictures=0", *options])

    return make


RunIn = Callable[..., PoseRun | SegRun]


def rows_of(folder: Path, without: tuple[str, ...] = ("data_ms", "step_ms", "seconds")) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(file)]


def tensors_of(value: Any, path: str = "") -> dict[str, Tensor]:
    """All tensors in nested dicts and lists, by their place."""
    if isinstance(value, Tensor):
        return {path: value}
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {name: tensor for key, one in inner for name, tensor in tensors_of(one, f"{path}/{key}").items()}


def same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("task", "ema"), [("seg", "0.0"), ("seg", "0.7"), ("pose", "0.7")])
def test_a_resumed_run_is_the_uninterrupted_one(
    task: str, ema: str, run_in: RunIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--engine.epochs=4", f"--engine.ema={ema}")
    straight = fit(run_in(task, tmp_path / "straight", *options)).folder
    whole = torch.load(straight / "checkpoints" / "last.ckpt", weights_only=False)
    kept = {key: tensors_of(whole[key]) for key in ("state_dict", "optimizer_states", "lr_schedulers")}
    if float(ema):
        kept["current"] = tensors_of(whole["current_model_state"])
        assert not same_tensors(kept["current"], kept["state_dict"])
    usual = engine.training_callbacks
    for moment in ("epoch end", "mid epoch") if task == "pose" else ("first epoch", "epoch end", "mid epoch"):
        run = run_in(task, tmp_path / moment, *options)
        monkeypatch.setattr(engine, "training_callbacks", lambda *a, m=moment: [Cut(m), *usual(*a)])
        with pytest.raises(PowerCutError):
            fit(run)
        monkeypatch.setattr(engine, "training_callbacks", usual)
        kept_at = tmp_path / moment / task / "tiny" / "checkpoints"
        if moment == "first epoch":  # its weights are written, its last checkpoint is not
            assert (kept_at / "best.ckpt").exists()
            assert not (kept_at / "last.ckpt").exists()
        else:
            left = torch.load(kept_at / "last.ckpt", weights_only=False)
            assert left["epoch"] == {"epoch end": 0, "mid epoch": 1}[moment]  # the last whole one, best or not
        with pytest.raises(InputError, match="add --resume"):
            fit(run)
        torch.manual_seed(999)  # whatever state the new process is in
        torch.rand(5)
        folder = fit(run, resume=True).folder
        assert rows_of(folder) == rows_of(straight)
        assert [row["epoch"] for row in rows_of(folder)] == ["0", "1", "2", "3"]
        found = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)
        assert found["epoch"] == whole["epoch"]
        assert found["global_step"] == whole["global_step"]
        for key, tensors in kept.items():
            assert same_tensors(tensors_of(found["current_model_state" if key == "current" else key]), tensors), key
        ours, theirs = load_artifact(folder), load_artifact(straight)
        assert ours.metrics == theirs.metrics
        assert same_tensors(ours.state, theirs.state)


def test_a_finished_run_stays_as_it_is(run_in: RunIn, tmp_path: Path) -> None:
    run = run_in("seg", tmp_path, "--engine.epochs=1")
    first = fit(run)
    weights = first.weights.read_bytes()
    again = fit(run, resume=True)
    assert again.metrics == first.metrics
    assert again.weights.read_bytes() == weights
    assert len(rows_of(again.folder)) == 1


@pytest.mark.parametrize("task", ["pose", "seg"])
def test_a_training_that_diverged_is_one_line(task: str, run_in: RunIn, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the training has diverged"):
        fit(run_in(task, tmp_path, "--optim.name=sgd", "--optim.lr=1e30", "--optim.warmup=0"))


def test_what_is_validated_and_drawn_is_the_average(run_in: RunIn, tmp_path: Path) -> None:
    """Pictures before the averaged weights are swapped out, statistics made even after they are swapped in."""
    run = run_in("seg", tmp_path, "--engine.ema=0.5")
    kinds = [type(one) for one in engine.training_callbacks(run, engine.build_data(run), tmp_path, Ending())]
    assert kinds.index(Pictures) < kinds.index(EMAWeightAveraging) < kinds.index(EvenBuffers)


def test_the_last_epoch_is_always_validated(run_in: RunIn, tmp_path: Path) -> None:
    fitted = fit(run_in("seg", tmp_path, "--engine.epochs=5", "--engine.eval_every=2"))
    rows = rows_of(fitted.folder)
    assert [bool(row["mIoU"]) for row in rows] == [False, True, False, True, True]
    assert all(row["loss"] for row in rows)
    checkpoint = torch.load(fitted.folder / "checkpoints" / "last.ckpt", weights_only=False)
    assert checkpoint["epoch"] == 4


def test_the_best_epoch_is_kept(run_in: RunIn, tmp_path: Path) -> None:
    """With a rate that grows absurd, an early epoch is the best, and its weights and metrics are what is kept."""
    options = ("--engine.epochs=3", "--optim.name=sgd", "--optim.lr=30.0", "--optim.warmup=3.0")
    fitted = fit(run_in("pose", tmp_path, *options))
    course = [float(row["mean_error"]) for row in rows_of(fitted.folder)]
    best = course.index(min(course))
    checkpoint = torch.load(fitted.folder / "checkpoints" / "best.ckpt", weights_only=False)
    assert checkpoint["epoch"] == best
    assert fitted.metrics["mean_error"] == pytest.approx(min(course), rel=1e-6)
    artifact = load_artifact(fitted.folder)
    assert artifact.metrics == fitted.metrics
    state = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
    assert same_tensors(artifact.state, state)


def gradients(run: PoseRun | SegRun, monkeypatch: pytest.MonkeyPatch) -> tuple[Fitted, list[float], list[torch.dtype]]:
    """Train, and note the gradient norm of each update and the type the network computes in."""
    norms: list[float] = []
    types: list[torch.dtype] = []

    class Note(Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            block: Any = next(iter(attention_blocks(pl_module).values()))
            block.register_forward_hook(lambda _m, args, _o: types.append(args[0].dtype))

        def on_train_batch_end(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if (batch_idx + 1) % run.engine.accumulate == 0:
                grads = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
                norms.append(float(torch.cat(grads).norm()))

    usual = engine.training_callbacks
    with monkeypatch.context() as patch:
        patch.setattr(engine, "training_callbacks", lambda *a: [*usual(*a), Note()])
        return fit(run), norms, types


def test_accumulation_clipping_and_precision(run_in: RunIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--engine.epochs=1", "--engine.batch_size=2", "--engine.accumulate=2", "--engine.clip=0.01")
    run = run_in("seg", tmp_path, *options, "--engine.precision=bf16-mixed")
    fitted, norms, types = gradients(run, monkeypatch)
    checkpoint = torch.load(fitted.folder / "checkpoints" / "last.ckpt", weights_only=False)
    assert checkpoint["global_step"] == 2  # 8 pictures, by 2, two steps each
    assert len(norms) == 2
    assert all(norm <= 0.01 + 1e-6 for norm in norms)
    assert torch.bfloat16 in types
    assert all(value.dtype != torch.bfloat16 for value in checkpoint["state_dict"].values())
    _, free, types = gradients(run_in("seg", tmp_path / "free", "--engine.epochs=1"), monkeypatch)
    assert max(free) > 0.01
    assert set(types) == {torch.float32}


def test_batch_norm_is_shared_without_losing_attention(
    run_in: RunIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Converted layers keep their activations and hooks: the run is that of ordinary layers, in one process."""
    seen: list[pl.LightningModule] = []
    usual = pl.Trainer.fit
    monkeypatch.setattr(pl.Trainer, "fit", lambda self, task, **more: (seen.append(task), usual(self, task, **more))[1])
    options = ("--engine.epochs=1", "--model.backbone.name=mobilenetv2_035", "--model.backbone.output_stride=32")
    plain = fit(run_in("seg", tmp_path / "plain", *options))
    shared = fit(run_in("seg", tmp_path / "shared", *options, "--engine.sync_batchnorm=true"))
    kinds = [{type(m).__name__ for m in task.modules() if "BatchNorm" in type(m).__name__} for task in seen]
    assert any("Sync" in kind for kind in kinds[1])
    assert not any("Sync" in kind for kind in kinds[0])
    assert not [kind for kind in kinds[1] if "Sync" not in kind]
    assert len(attention_blocks(seen[0])) == len(attention_blocks(seen[1])) > 0
    assert rows_of(plain.folder) == rows_of(shared.folder)
    assert same_tensors(load_artifact(plain.weights).state, load_artifact(shared.weights).state)


def test_what_this_machine_does_not_have(run_in: RunIn, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"engine\.accelerator gpuu, devices 1"):
        build_trainer(run_in("seg", tmp_path, "--engine.accelerator=gpuu"), tmp_path, [])
    options = ("--engine.sync_batchnorm=true", "--engine.strategy=ddp", "--engine.devices=2")
    with pytest.raises(InputError, match=r"engine\.sync_batchnorm works on GPUs only"):
        fit(run_in("seg", tmp_path, *options))


@pytest.mark.parametrize(
    ("options", "kind", "unread"),
    [
        ([], str, None),
        (["--engine.devices=auto"], str, None),
        (["--engine.devices=-1"], str, None),
        (["--engine.devices=[0]"], str, None),
        (["--engine.devices=2"], DDPStrategy, False),
        (["--engine.devices=0,1"], DDPStrategy, False),
        (["--engine.nodes=2"], DDPStrategy, False),
        (["--engine.strategy=ddp"], DDPStrategy, False),
        (["--engine.strategy=ddp", "--model.backbone.name=hrnet_w18_small"], DDPStrategy, True),
        (["--engine.strategy=ddp", "--model.head=linear"], DDPStrategy, True),
    ],
)
def test_several_processes_are_told_what_has_no_gradient(
    options: list[str], kind: type, unread: bool | None, run_in: RunIn, tmp_path: Path
) -> None:
    found: Any = engine.strategy_of(run_in("pose", tmp_path, *options))
    assert isinstance(found, kind)
    assert unread is None or found._ddp_kwargs["find_unused_parameters"] == unread


@pytest.mark.parametrize(("interrupted", "wanted"), [(True, KeyboardInterrupt), (False, SystemExit)])
def test_an_interruption_is_not_swallowed(interrupted: bool, wanted: type[BaseException], tmp_path: Path) -> None:
    """The trainer tidies up and then leaves the program with status 1, and so without the line that users get."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)

    def step(*_: object) -> None:
        trainer.state.status = TrainerStatus.INTERRUPTED if interrupted else TrainerStatus.RUNNING
        raise SystemExit(1)

    with pytest.raises(wanted):
        engine.run_trainer(trainer, step)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_train_as_one(tiny_page: TinyPage, tmp_path: Path) -> None:
    """2 x 2 pictures and 1 x 4 give one course. Batch statistics, which processes do not share on a CPU, are frozen."""
    page = tiny_page("pose")
    page["model"] |= {"head": "linear"}
    page["model"]["backbone"] |= {"freeze_norm": True}
    page["optim"] = {"name": "sgd", "lr": 0.5, "backbone_lr": 0.02, "attention_lr": 0.02}
    page["engine"] |= {"epochs": 3, "pictures": 1}
    one = fit(make_run(page | {"out": str(tmp_path / "one")}))
    page["engine"] |= {"batch_size": 2, "devices": 2, "strategy": "ddp"}
    path = tmp_path / "page.yaml"
    path.write_text(yaml.safe_dump(page | {"out": str(tmp_path / "two")}))
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "polarpix.cli", "train", "--config", str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("weights:") == 1, done.stdout
    two = tmp_path / "two" / "pose" / "tiny"
    losses = [[float(row["loss"]) for row in rows_of(folder)] for folder in (one.folder, two)]
    assert losses[0][0] > 1.01 * losses[0][-1]
    for ours, theirs in zip(rows_of(one.folder), rows_of(two), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-4, abs=1e-4), name
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    ours, theirs = load_artifact(one.weights).state, load_artifact(two).state
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-6)
    assert len(list((two / "tensorboard").glob("events.*"))) == 1
