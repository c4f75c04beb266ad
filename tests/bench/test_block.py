"""`polarpix bench block` from end to end on tiny maps: what the record holds, not how fast it was."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from polarpix import cli
from polarpix.bench import block as module
from polarpix.bench.block import limit_seconds, measure_blocks, prepare
from polarpix.bench.block_page import BlockRow
from polarpix.bench.block_settings import Block, BlockSettings, block_settings
from polarpix.bench.record import Record
from polarpix.bench.timing import Candidate, Run
from polarpix.errors import InputError

BLOCKS = "none,psa_p:reference,psa_p:collapsed,se,nl"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "block.json"
    options = ["--device", "cpu", "--shapes", "2,8,6,5 1,5,4,4", "--blocks", BLOCKS, "--sweep", "1,8,2,2"]
    assert cli.run(["bench", "block", *options, "--seconds", "0.001", "--json", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def record(written: Path) -> dict[str, Any]:
    found = json.loads(written.read_text())
    assert isinstance(found, dict)
    return found


def test_there_is_a_row_for_everything(record: dict[str, Any]) -> None:
    rows = record["tables"]["rows"]
    assert len(rows) == 2 * 2 * 2 * 5  # shapes, modes, memory formats, blocks
    assert {(r["mode"], r["memory_format"]) for r in rows} == {
        (m, f) for m in ("fwd", "fwdbwd") for f in ("contiguous", "channels_last")
    }
    for one in rows:
        if one["notes"]:
            assert one["times"] == {}
        else:
            assert one["map_bytes"] == 4 * math.prod(one["shape"])
            time = one["times"]["eager"]
            assert 0 < time["low"] <= time["median"] <= time["high"]
            assert time["samples"] >= 3
            assert one["over_limit"]["eager"] == pytest.approx(time["median"] / one["limit_ms"], rel=1e-3)


def test_what_cannot_be_had_says_why(record: dict[str, Any]) -> None:
    odd = [r for r in record["tables"]["rows"] if r["shape"] == [1, 5, 4, 4] and r["block"] == "psa_p"]
    assert len(odd) == 8
    assert all("channels is 5: must be even" in r["notes"]["eager"] for r in odd)


def test_costs_besides_time(record: dict[str, Any]) -> None:
    rows = {
        (r["block"], r["impl"], r["mode"]): r
        for r in record["tables"]["rows"]
        if r["shape"] == [2, 8, 6, 5] and r["memory_format"] == "contiguous"
    }
    assert rows["none", None, "fwd"]["launches"] == 0
    assert rows["none", None, "fwd"]["peak_bytes"] == 0
    assert rows["se", None, "fwd"]["peak_bytes"] >= 4 * 2 * 8 * 30  # its output
    for mode in ("fwd", "fwdbwd"):
        reference, collapsed = (rows["psa_p", impl, mode] for impl in ("reference", "collapsed"))
        assert reference["speedup"] == {"eager": 1.0}
        ratio = reference["times"]["eager"]["median"] / collapsed["times"]["eager"]["median"]
        assert collapsed["speedup"]["eager"] == pytest.approx(ratio, rel=1e-3)
        assert collapsed["launches"] > 0
        assert collapsed["peak_maps"] == pytest.approx(collapsed["peak_bytes"] / collapsed["map_bytes"], rel=1e-3)
    assert rows["psa_p", "reference", "fwdbwd"]["launches"] > rows["psa_p", "reference", "fwd"]["launches"]


def test_rulers_means_and_sweep(record: dict[str, Any]) -> None:
    tables = record["tables"]
    assert len(tables["rulers"]) == 8
    for ruler in tables["rulers"]:
        assert ruler["limit_ms"] == ruler["times"]["scaling"]["median"]
        assert "scaling_into" in ruler["times"]
    assert {m["label"] for m in tables["means"]} == {*BLOCKS.split(",")}
    assert {(e["label"], e["mode"], e["axis"]) for e in tables["scaling"]} == {
        (label, mode, axis)
        for label in ("psa_p:reference", "psa_p:collapsed", "se")
        for mode in ("fwd", "fwdbwd")
        for axis in ("P", "C")
    }
    for curve in tables["scaling"]:
        assert curve["sizes"] == ([4, 8, 16, 32] if curve["axis"] == "P" else [8, 16, 32, 64])


def test_the_record_carries_its_conditions(record: dict[str, Any]) -> None:
    assert record["kind"] == "bench block"
    assert record["command"].startswith("polarpix")
    assert record["protocol"]["dtype"] == "fp32"
    assert record["conditions"]["device"] == "cpu"
    assert record["conditions"]["threads"] == torch.get_num_threads()
    assert record["conditions"]["seconds"] > 0


def test_page_and_picture_lie_beside_it(written: Path) -> None:
    page = written.with_suffix(".md").read_text()
    for title in ("Over all shapes", "Scaling", "fwd, contiguous", "fwdbwd, channels_last", "Protocol", "Conditions"):
        assert f"\n## {title}\n" in page
    assert "(<block.png>)" in page
    assert written.with_suffix(".png").is_file()


def test_the_record_is_kept_after_each_group() -> None:
    settings = block_settings("cpu", shapes="1,2,2,2 1,4,2,2", blocks="se", mode="fwd", sweep="none", seconds=1e-3)
    rows: list[int] = []

    def keep(record: Record) -> None:
        rows.append(len(record.tables["rows"]))

    measure_blocks(settings, keep)
    assert rows == [1, 2, 3, 4]


def test_compiled_blocks_are_timed_and_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = block_settings(
        "cpu", shapes="1,4,2,2", blocks="se,eca", mode="fwd", formats="contiguous", compiled="se,eca", sweep="none",
        seconds=1e-3,
    )  # fmt: skip

    def fake(module: torch.nn.Module, dynamic: bool) -> torch.nn.Module:
        if type(module).__name__ == "EcaModule":
            raise RuntimeError("no compiler")
        return module

    monkeypatch.setattr(torch, "compile", fake)
    se, eca = measure_blocks(settings).tables["rows"]
    assert set(se.times) == {"eager", "compiled"}
    assert set(eca.times) == {"eager"}
    assert eca.notes == {"compiled": "not available: no compiler"}


def test_maps_too_large_for_all_pairs_of_pixels_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = block_settings(
        "cpu", shapes="1,4,4,4 1,8,96,64", blocks="nl,da,se", mode="fwd", formats="contiguous", sweep="none",
        seconds=1e-3,
    )  # fmt: skip
    monkeypatch.setattr(module, "free_memory", lambda device: 8 << 20)
    rows = measure_blocks(settings).tables["rows"]
    assert [(r.block, r.shape[1]) for r in rows if r.times] == [("nl", 4), ("da", 4), ("se", 4), ("se", 8)]
    told = "not available: one [B, P, P] tensor has 0.14 GiB, at most 0.00 are tried here"
    assert [r.notes for r in rows if not r.times] == [{"eager": told}] * 2
    monkeypatch.setattr(module, "free_memory", lambda device: 1 << 40)
    monkeypatch.setitem(module.LARGEST_AFFINITY, "cpu", 1000)
    assert [r.block for r in measure_blocks(settings).tables["rows"] if r.notes] == ["nl", "da", "nl", "da"]


def test_maps_that_the_memory_does_not_hold_are_refused_before_any_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system would end the process, with status 137 and no word."""
    settings = block_settings("cpu", dtype="bf16", shapes="1,4,4,4 512,2048,1024,1024", sweep="none", blocks="se")
    monkeypatch.setattr(module, "free_memory", lambda device: 8 << 30)
    monkeypatch.setattr(torch, "randn", None)
    words = "shape 512,2048,1024,1024: 14 maps of it in bf16 are 30,786,325,577,728 bytes, 8,589,934,592 are free"
    with pytest.raises(InputError, match=words):
        measure_blocks(settings)
    swept = block_settings("cpu", shapes="1,4,4,4", sweep="64,256,256,256", blocks="se")
    with pytest.raises(InputError, match=r"shape 64,256,256,256: .* give a smaller one to --shapes or --sweep"):
        measure_blocks(swept)


def test_the_limit_counts_passes_at_the_rate_of_a_copy() -> None:
    copy = 2e-3  # seconds for 512 MiB read and written
    assert limit_seconds(copy, 512 << 20, "fwd", "cuda") == pytest.approx(3e-3)
    assert limit_seconds(copy, 512 << 20, "fwdbwd", "cuda") == pytest.approx(8e-3)
    assert limit_seconds(copy, 12345, "fwdbwd", "cpu") == copy


def test_a_half_precision_block_is_one() -> None:
    settings = block_settings(
        "cpu", "bf16", "1,4,4,4", "fwdbwd", "psa_p:collapsed", "channels_last", sweep="none", seconds=1e-3
    )
    record = measure_blocks(settings)
    assert record.tables["rows"][0].map_bytes == 2 * 64
    assert record.tables["rows"][0].times


def test_on_cuda_a_block_is_timed_in_graphs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a pretended map: which ways there are, and what becomes of one that cannot be captured."""
    counted: list[str] = []
    monkeypatch.setattr(module, "launches", lambda run, device: counted.append(device.type) or 3)
    monkeypatch.setattr(module, "peak_memory", lambda run, device: counted.append(device.type) or 400)
    monkeypatch.setattr(torch, "compile", lambda net, dynamic: net)
    monkeypatch.setattr(module, "captured", lambda run, pool: Candidate(run, 8))
    settings = BlockSettings(torch.device("cuda"), "fp32", (), (), (), (), ("none",), None, 1e-3)
    with FakeTensorMode(), torch.device("cuda"):
        x = torch.empty(2, 4, 3, 3)
        row = BlockRow((2, 4, 3, 3), "fwd", "contiguous", "none", None, x.nbytes)
        ways = prepare(Block("none"), row, x, x, settings, None)
        assert {way: one.per_run for way, one in ways.items()} == {
            "eager": 1, "graph": 8, "compiled": 1, "compiled_graph": 8
        }  # fmt: skip
        assert (row.launches, row.peak_bytes, row.notes) == (3, 400, {})
        assert counted == ["cuda", "cuda"]

        def fail(run: Run, pool: Any) -> Candidate:
            raise RuntimeError("waits for the device")

        monkeypatch.setattr(module, "captured", fail)
        assert set(prepare(Block("none"), row, x, x, settings, None)) == {"eager", "compiled"}
    assert row.notes == dict.fromkeys(("graph", "compiled_graph"), "not available: waits for the device")
