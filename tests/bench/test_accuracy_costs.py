"""What the networks of an ablation cost; the whole measurement is in test_accuracy.py."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from polarpix.bench import accuracy_costs
from polarpix.bench.accuracy_costs import count, device_of, training_step
from polarpix.bench.accuracy_run import Job, Variant, make_job
from polarpix.engine.fit import build_data, build_task
from polarpix.errors import InputError
from polarpix.pages import load_page

WritePage = Callable[[str, Path], Path]


@pytest.fixture(params=["pose", "seg"])
def job(request: pytest.FixtureRequest, write_page: WritePage, tmp_path: Path) -> Job:
    return make_job(load_page(write_page(request.param, tmp_path)), Variant("psa_p"), 0, "val")


def test_a_step_is_the_one_of_the_training(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It updates the weights by the optimiser of the page, and leaves no gradient."""
    data: Any = build_data(job.page)
    batch = next(iter(data.train_dataloader()))
    tasks: list[Any] = []

    def built(*arguments: Any) -> Any:
        tasks.append(build_task(*arguments))
        return tasks[-1]

    monkeypatch.setattr(accuracy_costs, "build_task", built)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no trainer to report the loss to
        step = training_step(job, data.labels, batch, torch.device("cpu"))
        network = tasks[0].model
        before = {name: value.detach().clone() for name, value in network.named_parameters()}
        step.run()
    assert network.training
    assert all(value.grad is None for value in network.parameters())
    moved = [name for name, value in network.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) > len(before) / 2
    size = 4 * sum(value.numel() for value in network.parameters())
    assert step.state > 3 * size  # AdamW keeps two moments
    assert step.peak > size  # the gradients


def test_outputs_are_those_of_the_data(job: Job) -> None:
    few, many = (count([job], outputs)["psa_p"] for outputs in (2, 4))
    assert many.params > few.params
    assert many.macs > few.macs > few.macs_collapsed
    assert few.step_ms is None
    backbone = job.page.model.backbone
    assert "impl" not in backbone.attention_options  # the page stays as it is


def test_devices() -> None:
    assert device_of("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device 'cuda' cannot be used"):
            device_of("gpu")
