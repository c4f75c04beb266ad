"""Pages and labels through JSON and back."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from polarpix.demo.figures import FIGURE_CLASSES, FIGURE_SCHEMA
from polarpix.metadata import printable, read_labels, read_run
from polarpix.pages import make_run

PAGES: list[dict[str, Any]] = [
    {"task": "pose", "name": "a", "model": {"input_size": [64, 48]}, "eval": {"pck_reference": ["x", "y"]}},
    {"task": "seg", "name": "b", "eval": {"scales": [0.5, 1.0], "window": [32, 48], "mode": "sliding"}},
]


@pytest.mark.parametrize("page", PAGES, ids=["pose", "seg"])
def test_a_page_comes_back_whole(page: dict[str, Any]) -> None:
    run = make_run(page)
    assert read_run(json.loads(json.dumps(asdict(run)))) == run


def test_keys_of_a_later_version_are_passed_over() -> None:
    run = make_run(PAGES[1])
    values = asdict(run) | {"later": 1}
    values["eval"]["later"] = 2
    assert read_run(values) == run


def test_labels_come_back_whole() -> None:
    assert read_labels("pose", json.loads(json.dumps(asdict(FIGURE_SCHEMA)))) == FIGURE_SCHEMA
    assert read_labels("seg", json.loads(json.dumps(asdict(FIGURE_CLASSES)))) == FIGURE_CLASSES


def test_letters_that_terminals_obey_are_replaced() -> None:
    assert printable("Ohr, länglich\n  \x1b[31mred\x07\r\u202e") == "Ohr, länglich\n  ?[31mred???"
