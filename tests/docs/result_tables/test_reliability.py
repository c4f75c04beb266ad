"""The sections of docs/reliability.md."""

from result_tables.reliability import tables


def test_reliability_has_a_section_for_every_kind_of_record() -> None:
    base = {"command": "run it", "seed": 3, "conditions": {"device": "cpu", "commit": "abc"}}
    counts = {"accepted": 5, "refused in one line": 1200, "traceback": 2}
    group = {"files": 1207, "files_answered_wrongly": 2, "readers": {"read_image": counts}}
    attack = {"name": "page: tag", "through": "train", "outcome": "accepted", "expected": "refused in one line"}
    fuzz = {
        "name": "fuzz_inputs",
        "bound_megabytes": 3072,
        "fuzz": {"picture": group | {"highest_megabytes_of_a_file": 12.3}},
        "attacks": [attack | {"megabytes": 7.0}, attack | {"megabytes": 1.0, "outcome": "refused in one line"}],
    }
    run = {"weights_equal": True, "updates_kept": None, "updates_done": 3, "updates": 9, "workers": 1}
    late = run | {"weights_equal": False, "updates_kept": 8, "updates_done": 9, "workers": 0}
    rows = [
        {"fault": "SIGKILL", "times": 2, "line": "", "held": {"equal": False}, "runs": [run, late]},
        {"fault": "disk full", "times": 0, "held": {}, "not_tried": "mount: no"},
        {"fault": "folder gone", "times": 1, "line": "a|b: gone", "held": {"status 2": True, "whole": False}},
    ]
    faults = {"kind": "fault injection", "rows": [base | row for row in rows]}
    text = tables({"f.json": base | fuzz, "k.json": faults, "other.json": {"name": "x"}})
    assert "1,207 files, 2 of them answered wrongly" in text
    assert "| read_image | 1,207 | 5 | 1,200 | 2 |" in text
    assert "| page | train | 2 | 1 | 1 | 1 |" in text
    counts = (
        "1 of 2 ended with the weights of an uninterrupted run; 1 were struck before the first checkpoint, 1 behind"
    )
    assert f"| SIGKILL | 2 | {counts} the last update, 1 had a loading process; equal: **NO** |  | `abc` |" in text
    assert "| disk full | 0 | not tried: mount: no |  | `abc` |" in text
    assert "| folder gone | 1 | status 2: yes; whole: **NO** | `a/b: gone` | `abc` |" in text
    assert "Made by `run it` on cpu, seed 3, each row at the commit it names: `k.json`." in text
    assert "`run it` on cpu, seed 3, at `abc`: `f.json`." in text
    assert text.index("Trainings under fault") < text.index("Damaged files") < text.index("Attacks")


def test_exported_files_have_a_row_for_every_format() -> None:
    refused = "refused in one line"
    attack = {"format": ".pt2", "name": "a guard", "outcome": refused, "expected": refused, "megabytes": 5.0}
    record = {
        "name": "fuzz_exports",
        "command": "run it",
        "seed": 3,
        "conditions": {"device": "cpu", "commit": "abc"},
        "bound_megabytes": 3072,
        "fuzz": {
            "files": {".onnx": {refused: 398, "accepted, gives the same": 1, "crash": 1}},
            "highest_megabytes_of_a_file": 7.2,
        },
        "attacks": [
            attack | {"torch_alone": "code was run"},
            attack | {"outcome": "accepted", "torch_alone": "code was run"},
            attack | {"name": "metadata: x"},
        ],
    }
    text = tables({"e.json": record})
    assert "| .onnx | 400 | 398 | 1 | 1 |" in text
    assert "| .pt2 | everything else | 1 | 2 | 1 | 1 | 1 ran code |" in text
    assert "| .pt2 | metadata that lie | 1 | 1 | 1 | 0 |  |" in text
    assert "the most was 7. `run it` on cpu, seed 3, at `abc`: `e.json`." in text


def test_conversions_have_a_row_for_every_format() -> None:
    trip = {"format": "yolo", "instances": 9, "came_home": 8, "labelled_alike": 7, "farthest_move_px": 0.25}
    record = {
        "name": "round_trips",
        "command": "run it",
        "seed": 0,
        "file": "a.csv",
        "trips": [trip, trip | {"format": "dlc", "farthest_move_px": 0.0, "same_bytes": True}],
        "conditions": {"device": "cpu", "commit": "abc"},
    }
    text = tables({"r.json": record})
    assert "| yolo | 9 | 8 | 7 | 0.25 px |" in text
    assert "| dlc | 9 | 8 | 7 | 0 px, the same bytes |" in text


def test_what_the_doctor_found_of_what_was_planted() -> None:
    counts = {"planted": 190, "found": 67, "only_noted": 2, "otherwise_named": 1, "false_alarms": 7, "false_notes": 0}
    row = {"set": "lspet", "fault": "one pair exchanged", "rate": 0.02, "draws": 1}
    nothing = row | {"set": "a", "rate": 0.005, "draws": 4} | dict.fromkeys(counts, 0)
    record = {
        "name": "doctor_recall",
        "command": "run it",
        "seed": 3,
        "conditions": {"device": "cpu", "commit": "abc"},
        "instances": {"lspet": 9500},
        "rows": [row | counts, nothing],
    }
    text = tables({"r.json": record})
    assert "| lspet | one pair exchanged | 2.0% | 190 | 67 | 3 | 7 | 35% |" in text
    assert "| a | one pair exchanged | 0.5%, 4 draws | 0 | 0 | 0 | 0 | – |" in text
    assert "lspet 9,500" in text
