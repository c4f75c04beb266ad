"""The page and folder of one run, and how it is known to be done."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch

from polarpix.backbones.insert import attention_blocks
from polarpix.bench import accuracy_run
from polarpix.bench.accuracy_run import (
    Job,
    Variant,
    check_page,
    finished_record,
    flattened,
    make_job,
    perform,
    record_file,
)
from polarpix.config import PoseRun, SegRun
from polarpix.engine.artifact import Artifact, load_state, write_text
from polarpix.errors import InputError
from polarpix.pages import load_page, page_text
from polarpix.seg.model import build_seg_model
from polarpix.types import ClassTable

WritePage = Callable[[str, Path], Path]


@pytest.fixture
def page(write_page: WritePage, tmp_path: Path) -> PoseRun | SegRun:
    options = ["--model.backbone.attention_options={scale: 4.0}", "--engine.devices=2", "--engine.strategy=ddp"]
    return load_page(write_page("seg", tmp_path), ["--model.backbone.attention=psa_s", *options])


@pytest.fixture
def job(page: SegRun) -> Job:
    return make_job(page, Variant("se"), 7, "val")


def test_a_page_of_its_own(page: SegRun, job: Job, tmp_path: Path) -> None:
    assert job.folder == tmp_path / "runs" / "ablation" / "tiny" / "seg" / "se_seed7"
    assert record_file(job) == job.folder / "eval" / "val" / "record.json"
    assert (job.page.seed, job.page.model.backbone.attention) == (7, "se")
    assert (job.page.engine.devices, job.page.engine.strategy) == (1, "auto")
    assert (page.seed, page.name, page.model.backbone.attention) == (0, "tiny", "psa_s")


def test_options_stay_with_the_block_they_are_for(page: SegRun, job: Job) -> None:
    assert job.page.model.backbone.attention_options == {}
    own = make_job(page, Variant("psa_s"), 0, "val")
    assert own.page.model.backbone.attention_options == {"scale": 4.0}


@pytest.mark.parametrize("name", ["psa_p", "psa_s", "psa_channel", "psa_spatial", "psa_p_flat", "psa_s_flat"])
def test_an_init_brings_its_scale(page: SegRun, name: str) -> None:
    """The block would refuse another one."""
    one = make_job(page, Variant(name, "identity"), 0, "val")
    assert isinstance(one.page, SegRun)
    assert one.folder.name == f"{name}_identity_seed0"
    assert attention_blocks(build_seg_model(one.page.model, 3).backbone)


def test_a_run_is_done_when_its_record_is_there(job: Job) -> None:
    assert finished_record(job) is None
    record = {"metrics": {"mIoU": 0.5}, "protocol": {}, "conditions": {}, "config": {}}
    write_text(record_file(job), json.dumps(record))
    assert finished_record(job) == record
    write_text(record_file(job), json.dumps(record | {"metrics": {"accuracy": 0.5}}))
    with pytest.raises(InputError, match="has no mIoU"):
        finished_record(job)
    for text in ("{", "[]", "{}"):
        write_text(record_file(job), text)
        with pytest.raises(InputError, match="is no record of an evaluation: remove it"):
            finished_record(job)


@pytest.mark.parametrize("name", ["psa_p", "psa_s"])
def test_flattened_weights_are_those_of_the_flat_block(page: SegRun, name: str) -> None:
    run = make_job(page, Variant(name), 0, "val").page
    assert isinstance(run, SegRun)
    run.model.backbone.attention_options = {}
    state = build_seg_model(run.model, 3).state_dict()
    artifact = Artifact("seg", asdict(run), ClassTable(("a", "b", "c"), ((0, 0, 0),) * 3), {}, "", state, "f")
    found = flattened(artifact)
    assert (found.attention, artifact.attention) == (f"{name}_flat", name)
    run.model.backbone.attention = found.attention
    flat = build_seg_model(run.model, 3)
    load_state(flat, found)
    assert len(found.state) < len(state)


def test_a_run_of_another_page_is_refused(job: Job) -> None:
    check_page(job)
    write_text(job.folder / "config.yaml", page_text(job.page))
    job.page.engine.workers, job.page.engine.accelerator = 3, "auto"
    check_page(job)
    job.page.engine.epochs = 9
    with pytest.raises(InputError, match=r"se_seed7: trained with engine\.epochs 2, now it is 9: change it back"):
        check_page(job)


def test_a_process_says_in_one_line_why_it_could_not(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(job: Job) -> None:
        raise InputError("no such data")

    def interrupted(job: Job) -> None:
        raise KeyboardInterrupt

    heard, told = Pipe(duplex=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for does in (refused, interrupted):
        monkeypatch.setattr(accuracy_run, "work", does)
        perform(job, torch.get_num_threads(), "5", told)
    assert (heard.recv(), heard.recv()) == ("no such data", "")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


def test_a_crash_leaves_its_traceback_in_the_run_folder(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashed(job: Job) -> None:
        raise RuntimeError("out of everything")

    monkeypatch.setattr(accuracy_run, "work", crashed)
    with pytest.raises(SystemExit, match="1"):
        perform(job, torch.get_num_threads(), None, None)
    assert "RuntimeError: out of everything" in (job.folder / "output.txt").read_text()
