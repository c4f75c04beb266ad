"""`polarpix bench accuracy` from end to end on the drawn figures: the table, going on, several at once."""

import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from polarpix import cli
from polarpix.bench import accuracy
from polarpix.bench.accuracy import accuracy_settings, check_end, parse_variants, train_all, visible_gpus
from polarpix.bench.accuracy_run import Job, Variant, finished_record, make_job
from polarpix.errors import InputError
from polarpix.pages import load_page

WritePage = Callable[[str, Path], Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, whoever shares the threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ablation(write_page: WritePage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose ablation of two attentions and two seeds was interrupted after its third run, then ended."""
    folder = tmp_path_factory.mktemp("ablation")
    page = write_page("seg", folder)
    patch = pytest.MonkeyPatch()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    real, begun = accuracy.work, []

    def interrupted(job: Job) -> None:
        begun.append(job.folder.name)
        if len(begun) == 4:
            raise KeyboardInterrupt
        real(job)

    patch.setattr(accuracy, "work", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cli.run(words(page))
    assert begun == ["none_seed0", "psa_p_seed0", "none_seed1", "psa_p_seed1"]
    assert [run["attention"] for run in record(page)["tables"]["runs"]] == ["none", "psa_p", "none"]
    cli.run(words(page))
    assert begun[4:] == ["psa_p_seed1"]
    patch.undo()
    torch.set_num_threads(threads)
    return page


def words(page: Path, *more: str) -> list[str]:
    return ["bench", "accuracy", "--config", str(page), "--attention", "psa_p", "--seeds", "2", *more,
            "--engine.epochs", "1", "--engine.pictures", "0"]  # fmt: skip


def record(page: Path) -> dict[str, Any]:
    path = page.parent / "runs" / "ablation" / "tiny" / "seg" / "ablation.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_record_follows_from_the_runs(ablation: Path) -> None:
    found = record(ablation)
    runs, rows = found["tables"]["runs"], found["tables"]["rows"]
    metric = {(run["attention"], run["seed"]): run["metric"] for run in runs}
    assert list(metric) == [("none", 0), ("psa_p", 0), ("none", 1), ("psa_p", 1)]
    for run in runs:
        kept = json.loads((Path(run["folder"]) / "eval/test/record.json").read_text())
        assert kept["metrics"]["mIoU"] == pytest.approx(run["metric"], rel=1e-4)
        assert kept["seed"] == run["seed"]
        assert kept["config"]["model"]["backbone"]["attention"] == run["attention"]
        assert "training" in kept
        assert (Path(run["folder"]) / "output.txt").is_file()
        flat = Path(run["folder"]) / "eval/test_flat/record.json"
        assert flat.is_file() == (run["attention"] == "psa_p") == (run["flat"] is not None)
        if flat.is_file():
            assert json.loads(flat.read_text())["config"]["model"]["backbone"]["attention"] == "psa_p_flat"
            assert json.loads(flat.read_text())["metrics"]["mIoU"] == pytest.approx(run["flat"], rel=1e-4)
    none, psa = rows
    assert none["difference"] is None
    assert psa["mean"] == pytest.approx(statistics.mean(metric["psa_p", seed] for seed in (0, 1)), rel=1e-3)
    pairs = [metric["psa_p", seed] - metric["none", seed] for seed in (0, 1)]
    half = 12.7062 * statistics.stdev(pairs) / 2**0.5
    assert psa["difference"]["mean"] == pytest.approx(statistics.mean(pairs), abs=1e-4)
    assert psa["difference"]["high"] - psa["difference"]["low"] == pytest.approx(2 * half, rel=0.02, abs=1e-4)
    assert psa["costs"]["params"] > none["costs"]["params"]
    assert psa["costs"]["macs"] > psa["costs"]["macs_collapsed"] > none["costs"]["macs"]
    assert psa["costs"]["weights_bytes"] > 4 * psa["costs"]["params"]
    assert none["costs"]["step_ratio"]["median"] == 1.0
    assert psa["costs"]["step_ratio"]["samples"] == psa["costs"]["step_ms"]["samples"] == 7
    assert psa["costs"]["memory_bytes"] > none["costs"]["memory_bytes"] > 2 * none["costs"]["weights_bytes"]
    assert found["protocol"]["metric"] == "mIoU of test, higher is better"
    assert found["protocol"]["evaluation"]["images"] == 3


def test_a_finished_ablation_trains_nothing(
    ablation: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(accuracy, "work", lambda job: pytest.fail("trained again"))
    assert cli.run(words(ablation, "--json", str(tmp_path / "a.json"))) == 0
    for suffix in (".json", ".md", ".png"):
        assert (tmp_path / "a.json").with_suffix(suffix).is_file()
    out = capsys.readouterr().out
    assert out.endswith(f"record: {tmp_path / 'a.json'}, {tmp_path / 'a.md'}, {tmp_path / 'a.png'}\n")
    assert "| psa_p " in out


def test_processes_give_the_same_metrics(ablation: Path, tmp_path: Path) -> None:
    options = ["--engine.epochs=1", "--engine.pictures=0", f"--out={tmp_path}"]
    settings = accuracy_settings(load_page(ablation, options), "psa_p", 1, jobs=2)
    begun: list[str] = []
    ended: list[str] = []
    train_all(settings.jobs, 2, lambda job: ended.append(job.folder.name), lambda job: begun.append(job.folder.name))
    assert begun == ["none_seed0", "psa_p_seed0"] == sorted(ended)
    serial = {(run["attention"], run["seed"]): run["metrics"] for run in record(ablation)["tables"]["runs"]}
    for job in settings.jobs:
        found = finished_record(job)
        assert found is not None
        for name, value in serial[job.variant, job.seed].items():
            assert found["metrics"][name] == pytest.approx(value, rel=1e-4), name


def test_another_page_does_not_go_on_in_the_folder(ablation: Path) -> None:
    with pytest.raises(InputError, match=r"none_seed0: trained with optim.lr 0.01, now it is 0.5: .* --name"):
        cli.run(words(ablation, "--optim.lr", "0.5"))


def test_variants() -> None:
    assert parse_variants("se, psa_s:identity,se") == [Variant("none"), Variant("se"), Variant("psa_s", "identity")]
    assert parse_variants("none") == [Variant("none")]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"attention": "psa_q"}, "--attention names 'psa_q': did you mean psa_"),
        ({"attention": "se:identity"}, "only psa blocks have an init"),
        ({"attention": "psa_p:zero"}, "one of published, identity, torch"),
        ({"seeds": 0}, "--seeds 0 --jobs 1: give at least 1"),
        ({"split": "train"}, "--split train: choose val or test"),
        ({"split": "test"}, "--split test: the page names no test split"),
    ],
)
def test_options_that_mean_nothing(write_page: WritePage, tmp_path: Path, options: dict[str, Any], line: str) -> None:
    page = load_page(write_page("seg", tmp_path), ["--data.test=null"])
    with pytest.raises(InputError, match=line):
        accuracy_settings(page, **options)


def test_without_a_test_split_val_is_reported(write_page: WritePage, tmp_path: Path) -> None:
    page = load_page(write_page("pose", tmp_path), ["--data.test_annotations=null"])
    assert accuracy_settings(page, "se").split == "val"
    assert accuracy_settings(load_page(write_page("pose", tmp_path)), "se").split == "test"


def test_it_needs_a_page() -> None:
    with pytest.raises(InputError, match="needs --config PAGE"):
        cli.run(["bench", "accuracy"])


@pytest.mark.parametrize(
    ("line", "status", "error", "words"),
    [
        (None, 0, None, ""),
        ("no such data", 0, InputError, "no such data"),
        ("", 0, KeyboardInterrupt, ""),
        (None, -9, InputError, "none_seed0: the training ended with status -9: see "),
    ],
)
def test_how_a_process_ended(
    write_page: WritePage, tmp_path: Path, line: str | None, status: int, error: Any, words: str
) -> None:
    job = make_job(load_page(write_page("seg", tmp_path)), Variant("none"), 0, "val")
    heard, told = Pipe(duplex=False)
    if line is not None:
        told.send(line)
    told.close()
    with pytest.raises(error, match=words or None) if error else nullcontext():
        check_end(SimpleNamespace(exitcode=status), heard, job)


def test_gpus_are_handed_out_only_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for count, names in ((0, []), (1, []), (2, ["0", "1"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert visible_gpus() == names
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert visible_gpus() == ["4", "6"]
