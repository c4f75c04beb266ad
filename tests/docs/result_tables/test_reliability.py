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
    faults = {
        "kind": "fault injection",
        "kill": [{"weights_equal": True}, {"weights_equal": False}],
        "term": [{"weights_equal": True}],
        "faults": [
            {"fault": "disk full", "outcome": "not tried"},
            {"fault": "folder gone", "status": 2, "line": "a: gone", "traceback": False, "checkpoint_whole": True},
        ],
    }
    text = tables({"f.json": base | fuzz, "k.json": base | faults, "other.json": {"name": "x"}})
    assert "1,207 files, 2 of them answered wrongly" in text
    assert "| read_image | 1,207 | 5 | 1,200 | 2 |" in text
    assert "| page | train | 2 | 1 | 1 | 1 |" in text
    assert "| SIGKILL at a random moment, then resumed | 2 | 1 ended with the weights of an" in text
    assert "| folder gone | 1 | status 2, one line; checkpoint whole: True | `a: gone` |" in text
    assert "`run it` on cpu, seed 3, at `abc`: `f.json`." in text
    assert text.index("Trainings under fault") < text.index("Damaged files") < text.index("Attacks")
