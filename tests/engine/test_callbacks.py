"""What happens around the loop, seen on the smallest loop there is."""

import contextlib
import csv
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from polarpix.calibration import Calibration
from polarpix.config import SegModelConfig, SegRun
from polarpix.demo.figures import FIGURE_CLASSES
from polarpix.engine.artifact import load_artifact
from polarpix.engine.callbacks import (
    Divergence,
    EpochSeed,
    EvenBuffers,
    Interruption,
    LastValidation,
    MetricsTable,
    MovedFolder,
    StepClock,
    WeightsFile,
)
from polarpix.errors import InputError
from polarpix.images import read_image
from polarpix.page_parts import BackboneConfig


class Loop(pl.LightningModule):
    """One weight; the scores of the validations are given."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1, bias=False)
        self.scores = scores
        self.run = SegRun(name="x", model=SegModelConfig(BackboneConfig(attention="none")))
        self.labels = FIGURE_CLASSES
        self.results: dict[str, float] = {}
        self.calibration: Calibration | None = None
        self.drawn: list[list[float]] = []

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.125)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.drawn[-1:] = (
            [[*self.drawn[-1], float(torch.rand(()))]] if index else [*self.drawn[-1:], [float(torch.rand(()))]]
        )
        loss = self.model(batch).mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        score = self.scores[self.trainer.current_epoch]
        self.results, self.calibration = {"score": score}, Calibration((0.5,), (score,), "val", 1)
        self.log_dict(self.results)


def train(task: Loop, callbacks: list[Callback], epochs: int, every: int = 1, resume: Path | None = None) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=every,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
    )
    loader = DataLoader(torch.ones(6, 1), batch_size=2)  # type: ignore[arg-type]  # a tensor is a data set
    trainer.fit(task, loader, loader, ckpt_path=resume, weights_only=False)
    return trainer


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("scores", [[0.1, 0.5, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
def test_the_weights_file_is_the_best_checkpoint(scores: list[float], tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path, "best", monitor="score", mode="max", save_on_train_epoch_end=False)
    writer = WeightsFile(checkpoints, tmp_path / "w.safetensors")
    train(Loop(scores), [writer, checkpoints] if scores[0] == 0.4 else [checkpoints, writer], epochs=4)
    best = torch.load(checkpoints.best_model_path, weights_only=False)
    assert best["epoch"] == scores.index(max(scores))
    found = load_artifact(tmp_path / "w.safetensors")
    assert found.metrics == {"score": max(scores)}
    assert found.calibration is not None
    assert found.calibration.probabilities == (max(scores),)
    assert list(found.state) == ["weight"]
    torch.testing.assert_close(found.state["weight"], best["state_dict"]["model.weight"], rtol=0, atol=0)


def test_a_weights_file_that_was_missed_is_made_up_for(tmp_path: Path) -> None:
    """As after a stop between checkpoint and weights file: the metrics are the best epoch's, not the present one's."""

    class Late(WeightsFile):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch > 0:
                super().on_validation_end(trainer, pl_module)

    checkpoints = ModelCheckpoint(tmp_path, "best", monitor="score", mode="max", save_on_train_epoch_end=False)
    train(Loop([0.9, 0.1]), [checkpoints, Late(checkpoints, tmp_path / "w.safetensors")], epochs=2)
    assert load_artifact(tmp_path / "w.safetensors").metrics == {"score": pytest.approx(0.9)}


def even_out(rank: int, folder: Path) -> None:
    """One of two processes, each with batch statistics of its own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    task = Loop([])
    task.norm = nn.BatchNorm2d(2)
    task.norm.running_mean += 1 + rank
    EvenBuffers().on_validation_epoch_start(pl.Trainer.__new__(pl.Trainer), task)
    torch.save(task.norm.running_mean, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_processes_validate_with_the_same_statistics(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=even_out, args=(rank, tmp_path)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
        assert process.exitcode == 0
    assert [torch.load(tmp_path / f"{rank}.pt").tolist() for rank in (0, 1)] == [[1.0, 1.0], [1.0, 1.0]]


def test_epochs_draw_their_own_numbers() -> None:
    def drawn(seed: int, skip: int) -> list[list[float]]:
        torch.manual_seed(5)
        task = Loop([0.0] * 3)
        torch.rand(skip)
        train(task, [EpochSeed(seed)], epochs=3)
        return task.drawn

    first = drawn(0, 0)
    assert first == drawn(0, 7)
    assert first != drawn(1, 0)
    assert len({number for epoch in first for number in epoch}) == 9


@pytest.fixture
def handle() -> Iterator[Callable[[Any], Any]]:
    """Sets what happens on SIGINT, and puts back what did: a process in the background of a script ignores it."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


def test_an_interruption_that_got_lost_is_heard_at_the_next_batch(handle: Callable[[Any], Any]) -> None:
    class Lost(Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            with contextlib.suppress(KeyboardInterrupt):  # as in a destructor
                signal.raise_signal(signal.SIGINT)

    task = Loop([0.0] * 5)
    handle(signal.default_int_handler)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(task, [Interruption(), Lost()], epochs=5)
    assert len([epoch for epoch in task.drawn if epoch]) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(Loop([0.0]), [Interruption()], epochs=1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_training_that_ignores_interruptions_still_does(handle: Callable[[Any], Any]) -> None:
    class Interrupting(Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            signal.raise_signal(signal.SIGINT)

    handle(signal.SIG_IGN)
    task = Loop([0.0] * 2)
    train(task, [Interruption(), Interrupting()], epochs=2)
    assert len([epoch for epoch in task.drawn if epoch]) == 2
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("every", [1, 9])
def test_a_training_that_diverged_ends_with_a_line_and_keeps_what_was_good(tmp_path: Path, every: int) -> None:
    class Diverging(Loop):
        def training_step(self, batch: Tensor, index: int) -> Tensor:
            return super().training_step(batch, index) * (1.0 if self.current_epoch < 2 else torch.nan)

    last = ModelCheckpoint(dirpath=tmp_path, filename="last", save_on_train_epoch_end=True)
    with pytest.raises(InputError, match=r"^weight is not finite in epoch 2, the training has diverged"):
        train(Diverging([0.5] * 5), [Divergence(), last], epochs=5, every=every)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 1
    assert torch.isfinite(kept["state_dict"]["model.weight"]).all()


def test_the_clock_tells_waiting_from_working(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "m.csv")
    clock = StepClock()
    train(Loop([0.0] * 2), [clock, table], epochs=2)
    assert clock.count == 2  # of three steps: the first one waits for the loader to start
    for row in rows_of(tmp_path / "m.csv"):
        assert float(row["data_ms"]) > 0
        assert float(row["step_ms"]) > 0
        assert float(row["seconds"]) > 2 * (float(row["data_ms"]) + float(row["step_ms"])) / 1000
        assert float(row["step_ms"]) == pytest.approx(1000 * clock.step / clock.count) or row["epoch"] == "0"


def test_the_table_has_a_row_per_epoch_and_nothing_stale(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("epoch,old\n0,7\n1,8\n9,9\n")  # rows from the epoch on that is written are replaced
    task = Loop([0.0, 0.5, 0.0, 0.75, 0.25])
    train(task, [MetricsTable(path), LastValidation()], epochs=5, every=2)
    rows = rows_of(path)
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["score"] for row in rows] == ["", "0.5", "", "0.75", "0.25"]
    assert all(row["loss"] for row in rows)
    assert all(not row.get("old") for row in rows)


def test_going_on_from_the_best_checkpoint_keeps_its_row(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    best = ModelCheckpoint(tmp_path, "best", monitor="score", mode="max", save_on_train_epoch_end=False)
    train(Loop([0.1, 0.5, 0.3]), [MetricsTable(path), best], epochs=3)
    before = rows_of(path)
    train(Loop([0.1, 0.5, 0.4]), [MetricsTable(path), best], epochs=3, resume=Path(best.best_model_path))
    assert rows_of(path)[:2] == before[:2]
    assert [float(row["score"]) for row in rows_of(path)] == pytest.approx([0.1, 0.5, 0.4])


def test_pictures_are_drawn_after_each_validation(seg_folder: Path) -> None:
    first, last = (read_image(seg_folder / "pictures" / f"epoch_00{i}.jpg") for i in (0, 1))
    assert first.shape == last.shape
    assert (first != last).any()


def test_a_moved_run_keeps_its_best_score(tmp_path: Path) -> None:
    def usual(folder: Path) -> list[Callback]:
        place, plain = folder / "checkpoints", {"enable_version_counter": False}
        best = ModelCheckpoint(place, "best", monitor="score", mode="max", save_on_train_epoch_end=False, **plain)
        last = ModelCheckpoint(place, "last", save_on_train_epoch_end=True, **plain)
        return [MovedFolder(folder), best, WeightsFile(best, folder / "weights" / "best.safetensors"), last]

    before, now = tmp_path / "before", tmp_path / "now"
    train(Loop([0.9, 0.2]), usual(before), epochs=2)
    before.rename(now)
    weights = (now / "weights" / "best.safetensors").read_bytes()
    callbacks = usual(now)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*dirpath has changed.*")
        train(Loop([0.9, 0.2, 0.5]), callbacks, epochs=3, resume=now / "checkpoints" / "last.ckpt")
    best: Any = callbacks[1]
    assert float(best.best_model_score) == pytest.approx(0.9)
    assert best.best_model_path == str((now / "checkpoints" / "best.ckpt").resolve())
    assert (now / "weights" / "best.safetensors").read_bytes() == weights
    assert not before.exists()
