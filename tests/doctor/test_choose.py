"""Which pictures are held out: shares, numbers and patterns; and when neighbours are said to be alike."""

import re
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polarpix.doctor.choose import FEWEST, Choice
from polarpix.errors import InputError
from polarpix.images import write_image

NAMES = ["a/1.jpg", "a/2.jpg", "b/10.jpg", "b/11.jpg", "c.png"]


def held(val: str, how: str = "random", names: list[str] = NAMES) -> list[str]:
    return [names[i] for i in sorted(Choice(val, how).held_out(names, "set"))]


@pytest.mark.parametrize(
    ("val", "expected"),
    [
        ("a/*", ["a/1.jpg", "a/2.jpg"]),
        ("1?", ["b/10.jpg", "b/11.jpg"]),  # the last part, without its ending
        ("a/1", ["a/1.jpg"]),
        ("c.png,2.jpg", ["a/2.jpg", "c.png"]),
        ("*.png,", ["c.png"]),
        ("B/*,c", ["c.png"]),  # upper case is another letter
    ],
)
def test_patterns_are_of_names_with_or_without_folder_and_ending(val: str, expected: list[str]) -> None:
    assert held(val) == expected


def test_a_number_is_a_share_or_a_count() -> None:
    assert held("2", "last") == held("0.4", "last") == ["b/11.jpg", "c.png"]
    assert len(held("0.4")) == 2
    many = [str(i) for i in range(40)]
    assert len({tuple(sorted(Choice("4", seed=seed).held_out(many, ""))) for seed in (0, 0, 1)}) == 2


@pytest.mark.parametrize(
    ("val", "how", "told"),
    [
        ("d*", "random", "--val 'd*' is the name of none of the 5 pictures (a/1.jpg, b/10.jpg, c.png): mend"),
        ("", "random", "--val '' is the name of none"),
        ("?*", "random", "is the name of all of the 5 pictures"),
        ("a/*", "last", "--how last goes with a share or a number, not with the pattern 'a/*'"),
        ("0.1", "first", "--how is 'first': use random or last"),
        ("0.01", "random", "--val 0.01 of 5 pictures are 0: train and val both need some"),
        ("5", "last", "--val 5 of 5 pictures are 5"),
        ("1.5", "random", "--val is 1.5: give a share"),
        ("-1", "random", "--val is -1: give a share"),
        ("nan", "random", "--val is nan: give a share"),
        ("inf", "random", "--val is inf: give a share"),
    ],
)
def test_what_holds_nothing_out_is_refused(val: str, how: str, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        held(val, how)


@given(val=st.text(max_size=8), names=st.lists(st.text("ab1/.*?[]", min_size=1, max_size=5), max_size=6))
def test_any_words_hold_some_out_or_are_refused(val: str, names: list[str]) -> None:
    try:
        found = Choice(val).held_out(names, "set")
    except InputError:
        return
    assert 0 < len(found) < len(names)
    assert found <= set(range(len(names)))


def write_row(folder: Path, step: float, names: str = "{:03d}.jpg") -> list[Path]:
    """Thumbnail-sized views along a long wall, so many pixels apart; 0 for walls of their own."""
    wall = np.random.default_rng(0).uniform(0, 255, (6, 400)).astype(np.float32)
    files = []
    for i in range(FEWEST + 4):
        if not step:
            wall = np.random.default_rng(i).uniform(0, 255, (6, 400)).astype(np.float32)
        wide = cv2.resize(wall, (3200, 48), interpolation=cv2.INTER_CUBIC)[:, round(i * step) :][:, :64]
        files.append(folder / names.format(i))
        write_image(files[-1], np.repeat(np.clip(wide, 0, 255).astype(np.uint8)[..., None], 3, axis=2))
    return files


def test_alike_neighbours_are_warned_of(tmp_path: Path) -> None:
    film = write_row(tmp_path / "film", step=2)
    with pytest.warns(UserWarning, match=r"a set: neighbours are alike, .*: --how last keeps them together$"):
        Choice("0.1").warn_of_neighbours(film, "a set")
    drives = [file.rename(file.with_name(f"{'ab'[i > 8]}_{file.name}")) for i, file in enumerate(film)]
    with pytest.warns(UserWarning, match=r"whole videos, as --val 'a_\*'$"):
        Choice("0.1").warn_of_neighbours(drives, "a set")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Choice("0.1").warn_of_neighbours(write_row(tmp_path / "walls", step=0), "photographs")
        Choice("0.1").warn_of_neighbours([tmp_path / f"{i}.jpg" for i in range(FEWEST)], "files that are not there")
        Choice("0.1").warn_of_neighbours(drives[: FEWEST - 1], "few")
        Choice("0.1", "last").warn_of_neighbours(drives, "a set")
        Choice("a_*").warn_of_neighbours(drives, "a set")
