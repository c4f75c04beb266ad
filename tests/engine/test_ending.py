"""Asked to end, before a training, in it and behind it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback

from polarpix import commands, summary
from polarpix.engine import fit as engine
from polarpix.engine.ending import Ending
from polarpix.errors import TerminatedError

TinyPage = Callable[[str], dict[str, Any]]


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Asked(Callback):
    """Asks the process to end in its first epoch."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if index == 1:
            ask()


@pytest.fixture
def page(tiny_page: TinyPage, tmp_path: Path) -> Path:
    path = tmp_path / "page.yaml"
    content = tiny_page("seg") | {"out": str(tmp_path)}
    content["engine"] |= {"epochs": 1, "batch_size": 2, "pictures": 0}
    path.write_text(yaml.safe_dump(content))
    return path


def asked_in(wait: bool, then: Callable[[], object]) -> bool:
    """A command that is asked to end, and what it does afterwards; true where that is all."""
    with Ending() as ending:
        if wait:
            ending.wait()
        ask()
        then()
    return True


def test_before_the_training_it_ends_at_once() -> None:
    usual = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TerminatedError, match="before the training began"):
        asked_in(False, lambda: pytest.fail("goes on"))
    assert signal.getsignal(signal.SIGTERM) is usual


def test_behind_the_training_it_waits_for_the_end_of_the_command() -> None:
    done: list[int] = []
    with pytest.raises(TerminatedError, match="report are written"):
        asked_in(True, lambda: done.append(1))
    assert done
    with pytest.raises(ZeroDivisionError):  # what went wrong meanwhile is said
        asked_in(True, lambda: 1 / 0)
    with Ending() as ending:
        ending.wait()


def test_while_the_process_goes_away_it_changes_nothing() -> None:
    code = (
        "import atexit, os, signal\n"
        "from polarpix.engine.ending import Ending\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"  # called after what is registered later
        "with Ending():\n    print('said')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "said\n", "")


def test_in_another_thread_it_does_nothing() -> None:
    usual = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    def work() -> None:
        with Ending():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [usual]


def test_the_train_command_writes_what_is_left_and_says_so(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = summary.write_training

    def asked(*arguments: Any) -> Path:
        ask()
        return usual(*arguments)

    monkeypatch.setattr(summary, "write_training", asked)
    with pytest.raises(TerminatedError, match="its weights and report are written"):
        commands.train(str(page))
    assert (tmp_path / "seg" / "tiny" / "report.html").is_file()
    assert (tmp_path / "seg" / "tiny" / "weights" / "best.safetensors").is_file()
    assert "weights: " in capsys.readouterr().out


def test_in_the_training_the_trainer_ends_it(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = engine.training_callbacks
    monkeypatch.setattr(engine, "training_callbacks", lambda *a: [Asked(), *usual(*a)])
    with pytest.raises(TerminatedError, match="add --resume to go on"):
        commands.train(str(page))
    assert (tmp_path / "seg" / "tiny" / "checkpoints" / "last.ckpt").is_file()
