"""What the networks of `polarpix bench accuracy` cost: counted, and measured on training steps taken in turns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch

from polarpix.backbones.insert import attention_blocks
from polarpix.bench.accuracy_page import BASE, Costs
from polarpix.bench.accuracy_run import Job
from polarpix.bench.counting import peak_memory
from polarpix.bench.model import mixed, state_bytes
from polarpix.bench.timing import Candidate, Run, find_device, interleaved, on
from polarpix.costs import run_costs
from polarpix.engine.artifact import load_artifact
from polarpix.engine.fit import build_data, build_task
from polarpix.engine.optim import build_optimizer

__all__ = ["count", "device_of", "measure"]

ROUNDS = 15
SECONDS = 20.0  # for one network
PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}


def device_of(accelerator: str) -> torch.device:
    """The device that a page with this accelerator is trained on.

    Raises:
        InputError: CUDA where there is none.
    """
    return find_device({"gpu": "cuda"}.get(accelerator, accelerator))


def count(jobs: Sequence[Job], outputs: int) -> dict[str, Costs]:
    """Variant -> parameters and multiply-adds of its network; nothing is computed.

    Raises:
        InputError: a network that cannot be built.
    """
    found = {job.variant: run_costs(job.page, outputs) for job in jobs}
    return {name: Costs(one["params"], one["macs"], one["macs_collapsed"]) for name, one in found.items()}


def training_step(job: Job, labels: Any, batch: Any, device: torch.device) -> tuple[Run, Any, Any]:
    """One step of a page's training with its own loss and optimiser; also the network and the optimiser."""
    page = job.page
    torch.manual_seed(job.seed)
    task: Any = build_task(page, labels).to(device).train()
    blocks = attention_blocks(task.model.backbone).values()
    optimizer = build_optimizer(task.model, task.model.backbone, blocks, page.optim)
    precision = PRECISIONS[page.engine.precision]

    def step() -> None:
        with mixed(precision, device):
            loss = task.training_step(batch, 0)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, task.model, optimizer


def measure(
    jobs: Sequence[Job], counted: Mapping[str, Costs], tick: Callable[[], object] = lambda: None
) -> dict[str, Costs]:
    """The counted costs with bytes of the weights, time and memory of a training step.

    Args:
        jobs: a finished one for each variant; all train on the first batch of the first one's page.
        counted: what :func:`count` gave.
        tick: called after every round.
    """
    device = device_of(jobs[0].page.engine.accelerator)
    page = deepcopy(jobs[0].page)
    page.engine.workers = 0
    data: Any = build_data(page)
    batch = next(iter(data.train_dataloader())).to(device)
    costs: dict[str, Costs] = {}
    steps: dict[str, Candidate] = {}
    with on(device), torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the steps have no trainer to report to
        for job in jobs:
            artifact = load_artifact(job.folder)
            step, network, optimizer = training_step(job, artifact.labels, batch, device)
            peak = peak_memory(step, device)
            costs[job.variant] = replace(
                counted[job.variant],
                weights_bytes=sum(tensor.numel() * tensor.itemsize for tensor in artifact.state.values()),
                memory_bytes=state_bytes(network, optimizer) + peak,
            )
            steps[job.variant] = Candidate(step)
        found = interleaved(steps, device, ROUNDS, SECONDS, tick)
    times = {name: samples.timing() for name, samples in found.items()}
    base = times[BASE].median
    return {
        name: replace(one, step_ms=times[name], step_ratio=times[name].median / base) for name, one in costs.items()
    }
