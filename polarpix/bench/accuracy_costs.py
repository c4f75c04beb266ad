"""What the networks of `polarpix bench accuracy` cost: counted, and measured on training steps taken in turns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch

from polarpix.backbones.insert import attention_blocks
from polarpix.bench.accuracy_page import BASE, Costs
from polarpix.bench.accuracy_run import Job
from polarpix.bench.counting import peak_memory
from polarpix.bench.model import mixed, state_bytes
from polarpix.bench.timing import Candidate, Run, interleaved, measured_device, on, paired_ratio
from polarpix.costs import run_costs
from polarpix.engine.artifact import load_artifact
from polarpix.engine.fit import build_data, build_task
from polarpix.engine.optim import build_optimizer

__all__ = ["Step", "count", "device_of", "measure", "training_step"]

ROUNDS = 7
PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}


@dataclass(frozen=True)
class Step:
    """A training step that can be repeated.

    Args:
        run: forward, loss, backward, update; no gradient is alive after it.
        state: bytes of weights, buffers and optimiser.
        peak: the most bytes that one step allocates beside them.
    """

    run: Run
    state: int
    peak: int


def device_of(accelerator: str) -> torch.device:
    """The device that a page with this accelerator is trained on.

    Raises:
        InputError: CUDA where there is none.
    """
    return measured_device({"gpu": "cuda"}.get(accelerator, accelerator))


def count(jobs: Sequence[Job], outputs: int) -> dict[str, Costs]:
    """Variant -> parameters and multiply-adds of its network; nothing is computed.

    Raises:
        InputError: a network that cannot be built.
    """
    found = {job.variant: run_costs(job.page, outputs) for job in jobs}
    return {name: Costs(one["params"], one["macs"], one["macs_collapsed"]) for name, one in found.items()}


def training_step(job: Job, labels: Any, batch: Any, device: torch.device) -> Step:
    """The step of a page's training, with its own network, loss, optimiser and precision, on one batch."""
    page = job.page
    torch.manual_seed(job.seed)
    task: Any = build_task(page, labels).to(device).train()
    blocks = attention_blocks(task.model.backbone).values()
    optimizer = build_optimizer(task.model, task.model.backbone, blocks, page.optim)
    precision = PRECISIONS[page.engine.precision]

    def run() -> None:
        with mixed(precision, device):
            loss = task.training_step(batch, 0)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    peak = peak_memory(run, device)
    return Step(run, state_bytes(task.model, optimizer), peak)


def measure(
    jobs: Sequence[Job], counted: Mapping[str, Costs], tick: Callable[[], object] = lambda: None
) -> dict[str, Costs]:
    """The counted costs with bytes of the weights, time and memory of a training step.

    Two networks at a time, each in turns with the one without attention, so that what fits in training fits here.

    Args:
        jobs: a finished one for each variant, that without attention first; all train on the first batch of its page.
        counted: what :func:`count` gave.
        tick: called after every round.
    """
    device = device_of(jobs[0].page.engine.accelerator)
    page = deepcopy(jobs[0].page)
    page.engine.workers = 0
    data: Any = build_data(page)
    batch = next(iter(data.train_dataloader())).to(device)
    costs: dict[str, Costs] = {}
    base: Step | None = None
    with on(device), torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the steps have no trainer to report to
        for job in jobs:
            artifact = load_artifact(job.folder)
            size = sum(tensor.numel() * tensor.itemsize for tensor in artifact.state.values())
            step = training_step(job, artifact.labels, batch, device)
            base = base or step
            candidates = {BASE: Candidate(base.run), job.variant: Candidate(step.run)}
            found = interleaved(candidates, device, ROUNDS, tick=tick)
            costs[job.variant] = replace(
                counted[job.variant],
                weights_bytes=size,
                step_ms=found[job.variant].timing(),
                step_ratio=paired_ratio(found[job.variant], found[BASE]),
                memory_bytes=step.state + step.peak,
            )
    return costs
