"""Which pictures of a set are held out for validation: a share, a number, or those of certain names."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from polarpix.doctor.scan import image_facts
from polarpix.errors import InputError

__all__ = ["HOW", "Choice"]

HOW = ("random", "last")
PROBES = 60  # neighbours that are looked at
FEWEST = 20  # pictures below which nothing is said of neighbours
ALIKE = 0.75  # of the difference of any two pictures: 1.0 in sets of photographs, 0.5 between seconds of a drive


@dataclass(frozen=True)
class Choice:
    """What a user wants held out.

    Args:
        val: a share between 0 and 1, a number of pictures from 1 on, or patterns of file names with ``*`` and ``?``,
            commas between.
        how: of a share or number: "random", drawn by the seed; "last", the last in order, for the frames of a video,
            of which neighbours are alike.
        seed: of the draw.

    Raises:
        InputError: another way, a number that is none of pictures, or "last" of patterns.
    """

    val: str = "0.1"
    how: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.how not in HOW:
            raise InputError(f"--how is {self.how!r}: use {' or '.join(HOW)}")
        number = self.number
        if number is None and self.how != "random":
            raise InputError(f"--how {self.how} goes with a share or a number, not with the pattern {self.val!r}")
        if number is not None and not (0 < number < 1 or (number >= 1 and number % 1 == 0)):
            raise InputError(
                f"--val is {self.val}: give a share such as 0.1, a whole number of pictures, or a pattern of names"
            )

    @property
    def number(self) -> float | None:
        """The share or number; None of patterns."""
        try:
            return float(self.val)
        except ValueError:
            return None

    def matches(self, name: str) -> bool:
        """Whether a file name, its last part, or either without its ending is of a pattern."""
        plain = PurePosixPath(name)
        forms = {name, plain.name, plain.stem, name.removesuffix(plain.suffix)}
        patterns = [one for one in self.val.split(",") if one] if self.number is None else []
        return any(fnmatchcase(form, pattern) for form in forms for pattern in patterns)

    def held_out(self, names: Sequence[str], source: str | Path) -> set[int]:
        """The positions of the pictures held out.

        Args:
            names: their file names, in the order in which neighbours are neighbours.
            source: named in errors.

        Raises:
            InputError: nothing would be held out, or nothing else be left.
        """
        count, number = len(names), self.number
        if number is None:
            held = {i for i, name in enumerate(names) if self.matches(name)}
            if not 0 < len(held) < count:
                some = ", ".join(dict.fromkeys(names[i] for i in (0, count // 2, -1))) if count else "none"
                told = "none" if not held else "all"
                raise InputError(
                    f"{source}: --val {self.val!r} is the name of {told} of the {count} pictures ({some}): mend the "
                    "pattern"
                )
            return held
        many = round(number * count) if number < 1 else int(number)
        if not 0 < many < count:
            raise InputError(
                f"{source}: --val {number:g} of {count} pictures are {many}: train and val both need some, give a "
                f"share such as 0.1 or a number up to {count - 1}"
            )
        if self.how == "last":
            return set(range(count - many, count))
        return set(np.random.default_rng(self.seed).choice(count, many, replace=False).tolist())

    def warn_of_neighbours(self, files: Sequence[Path], source: str | Path) -> None:
        """A warning where pictures are drawn at random of which neighbours are alike, by looking at some.

        Args:
            files: the pictures, in order; those that cannot be read say nothing.
            source: named in the warning.
        """
        if self.number is None or self.how != "random" or not neighbours_alike(files):
            return
        mend = "--how last keeps them together"
        groups = Counter(re.sub(r"\d+$", "", file.stem) for file in files)
        videos = [name for name, members in groups.items() if name and members > 1]
        if len(videos) > 1:
            least = min(videos, key=lambda name: groups[name])
            mend += f", and a pattern holds out whole videos, as --val '{least}*'"
        warnings.warn(
            f"{source}: neighbours are alike, as the frames of a video are, and drawn at random they lie in train and "
            f"in val, whose figures will be too good: {mend}",
            stacklevel=2,
        )


def neighbours_alike(files: Sequence[Path]) -> bool:
    """Whether pictures are more like the next than like any other, by the medians of some pairs' differences."""
    if len(files) < FEWEST:
        return False
    rng = np.random.default_rng(0)
    firsts = rng.choice(len(files) - 1, min(PROBES, len(files) - 1), replace=False)
    one, following = even_thumbs(files[i] for i in firsts), even_thumbs(files[i + 1] for i in firsts)
    near = median_difference(one, following)
    far = median_difference(one, [following[i] for i in rng.permutation(len(following))])
    return near < ALIKE * far


def even_thumbs(files: Iterable[Path]) -> list[npt.NDArray[np.float64] | None]:
    """Grey thumbnails of mean 0 and deviation 1; None for what cannot be read or is plain."""
    thumbs = [image_facts(file).thumb for file in files]
    usable = [None if thumb is None or thumb.std() < 1 else thumb.astype(np.float64) for thumb in thumbs]
    return [None if thumb is None else (thumb - thumb.mean()) / thumb.std() for thumb in usable]


def median_difference(
    first: Sequence[npt.NDArray[np.float64] | None], second: Sequence[npt.NDArray[np.float64] | None]
) -> float:
    """Of pairs of thumbnails, root mean square; 0 where there is none."""
    pairs = zip(first, second, strict=True)
    found = [float(np.sqrt(((a - b) ** 2).mean())) for a, b in pairs if a is not None and b is not None]
    return float(np.median(found)) if found else 0.0
