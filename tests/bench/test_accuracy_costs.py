"""What the networks of an ablation cost; the whole measurement is in test_accuracy.py."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from polarpix.bench.accuracy_costs import count, device_of, training_step
from polarpix.bench.accuracy_run import Job, Variant, make_job
from polarpix.engine.fit import build_data
from polarpix.errors import InputError
from polarpix.pages import load_page

WritePage = Callable[[str, Path], Path]


@pytest.fixture(params=["pose", "seg"])
def job(request: pytest.FixtureRequest, write_page: WritePage, tmp_path: Path) -> Job:
    return make_job(load_page(write_page(request.param, tmp_path)), Variant("psa_p"), 0, "val")


def test_a_step_is_the_one_of_the_training(job: Job) -> None:
    data: Any = build_data(job.page)
    batch = next(iter(data.train_dataloader()))
    step, network, optimizer = training_step(job, data.labels, batch, torch.device("cpu"))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no trainer to report the loss to
        step()
    assert network.training
    assert all(value.grad is None for value in network.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in network.named_parameters())
    assert type(optimizer).__name__ == "AdamW"


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
        with pytest.raises(InputError, match="finds 0 CUDA devices"):
            device_of("gpu")
