"""Ranges of the keys: every key exists, every default lies inside, and what lies outside is said in one line."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.bounds import BOUNDS, Range
from polarpix.errors import InputError
from polarpix.pages import RUNS, flatten, make_run


@pytest.mark.parametrize("task", RUNS)
def test_every_range_is_of_a_key_and_holds_its_default(task: str) -> None:
    values = flatten(asdict(RUNS[task](name="x")))
    for key, span in BOUNDS[task].items():
        given = values[key]
        for number in given if isinstance(given, list | tuple) else [given] * (given is not None):
            assert number in span, key


def test_what_agrees_is_taken(tiny_page: Callable[[str], dict[str, Any]]) -> None:
    for options in (
        ["--loss=offset", "--model.codec=udp_offset"],
        ["--model.codec=gaussian", "--eval.shift_flipped=true"],
        ["--eval.detector_ap=56.4", "--eval.boxes=b.json"],
        ["--data.whole_image=true"],
    ):
        make_run(tiny_page("pose"), options)


@settings(deadline=None, max_examples=50)
@given(low=st.integers(-5, 5), length=st.integers(1, 5), ends=st.tuples(st.booleans(), st.booleans()))
def test_ends_count_unless_they_are_open(low: int, length: int, ends: tuple[bool, bool]) -> None:
    span = Range(low, low + length, *ends)
    assert (low in span) == (not ends[0])
    assert (low + length in span) == (not ends[1])
    assert low + length / 2 in span
    assert low - 1 not in span
    assert low + length + 1 not in span
    assert math.nan not in span


def test_ranges_in_words() -> None:
    assert str(Range(1)) == "at least 1"
    assert str(Range(0, open_low=True)) == "above 0"
    assert str(Range(0, 1)) == "from 0 to 1"
    assert str(Range(0, 1, open_high=True)) == "from 0 to below 1"


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("pose", ["--engine.batch_size=0"], "engine.batch_size is 0: must be at least 1"),
        ("seg", ["--engine.workers=-1"], "engine.workers is -1: must be at least 0"),
        ("seg", ["--engine.accumulate=0"], "engine.accumulate is 0: must be at least 1"),
        ("seg", ["--engine.eval_every=0"], "engine.eval_every is 0: must be at least 1"),
        ("pose", ["--engine.ema=1.0"], "engine.ema is 1.0: must be from 0 to below 1"),
        ("pose", ["--seed=-1"], "seed is -1: must be from 0 to 4294967295"),
        ("pose", ["--optim.lr=.nan"], "optim.lr is nan: must be above 0"),
        ("pose", ["--data.box_padding=0"], "data.box_padding is 0.0: must be above 0"),
        ("pose", ["--data.scale=1.5"], "data.scale is 1.5: must be from 0 to below 1"),
        (
            "pose",
            ["--model.head_channels=[8,0]"],
            "model.head_channels is [8, 0]: every number must be from 1 to 16384",
        ),
        ("pose", ["--eval.detector_ap=120", "--eval.boxes=b.json"], "eval.detector_ap is 120.0: must be from 0 to 100"),
        (
            "pose",
            ["--loss=offset"],
            "loss is 'offset' with model.codec 'udp': 'offset' and 'udp_offset' belong together",
        ),
        ("pose", ["--model.codec=udp_offset"], "loss is 'mse' with model.codec 'udp_offset'"),
        (
            "pose",
            ["--eval.shift_flipped=true"],
            "eval.shift_flipped with model.codec 'udp', whose crops mirror exactly",
        ),
        (
            "pose",
            ["--model.codec=dark", "--eval.shift_flipped=true", "--eval.flip_test=false"],
            "eval.shift_flipped without eval.flip_test",
        ),
        ("pose", ["--eval.detector_ap=56.4"], "eval.detector_ap with eval.boxes gt, which no detector found"),
        ("pose", ["--data.whole_image=true", "--eval.boxes=b.json"], "data.whole_image with eval.boxes b.json"),
        ("seg", ["--model.rates=[0,1,1]"], "model.rates is (0, 1, 1): every number must be at least 1"),
        ("seg", ["--model.dropout=2"], "model.dropout is 2.0: must be from 0 to below 1"),
        ("seg", ["--eval.scales=[]"], "eval.scales is []: give at least one number"),
        ("seg", ["--eval.scales=[1,0]"], "every number must be above 0"),
        ("seg", ["--eval.window=[0,8]"], "eval.window is (0, 8): every number must be at least 1"),
        (
            "seg",
            ["--model.head=hierarchical_ocr", "--eval.scales=[0.5,2.0]"],
            "eval.scales is [0.5, 2.0] with model.head hierarchical_ocr, which fuses towards 1: list 1 as well",
        ),
        ("seg", ["--model.head=hierarchical_ocr", "--model.scales=[0.5]"], "model.scales is [0.5] with model.head"),
        ("seg", ["--data.coarse_classes=[road]"], "data.coarse_classes without data.coarse"),
        ("seg", ["--data.coarse_classes=[road]", "--data.coarse=train_extra"], "data.coarse_classes with data.uniform"),
        ("seg", ["--name="], "name is ''"),
        ("seg", ["--name=../up"], "name is '../up': it becomes a folder"),
        ("seg", ["--name=.."], "name is '..'"),
    ],
)
def test_what_lies_outside_is_refused_in_one_line(
    task: str, options: list[str], words: str, tiny_page: Callable[[str], dict[str, Any]]
) -> None:
    with pytest.raises(InputError) as caught:
        make_run(tiny_page(task), options, source="p.yaml")
    assert str(caught.value).startswith("p.yaml: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
