"""Keypoint schemas: from a YAML file or from the category of a COCO keypoint file."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from polarpix.errors import InputError
from polarpix.pages import check_size
from polarpix.types import KeypointSchema

__all__ = ["COCO_SIGMAS", "load_schema", "mirror_pairs", "save_schema", "schema_from_category"]

# The per-joint constants of the COCO keypoint evaluation, in the order of its 17 joints.
COCO_SIGMAS: dict[str, float] = {
    "nose": 0.026,
    "left_eye": 0.025,
    "right_eye": 0.025,
    "left_ear": 0.035,
    "right_ear": 0.035,
    "left_shoulder": 0.079,
    "right_shoulder": 0.079,
    "left_elbow": 0.072,
    "right_elbow": 0.072,
    "left_wrist": 0.062,
    "right_wrist": 0.062,
    "left_hip": 0.107,
    "right_hip": 0.107,
    "left_knee": 0.087,
    "right_knee": 0.087,
    "left_ankle": 0.089,
    "right_ankle": 0.089,
}

_SIDE = re.compile(r"left|right", re.IGNORECASE)
_EDGE_LETTER = re.compile(
    r"(?<![A-Za-z])[lrLR]"  # first letter of a word: l_ear, lear
    r"|[lrLR](?![A-Za-z])"  # last letter of a word: ear_l, earL
    r"|(?<=[a-z0-9])[LR](?=[A-Z])"  # a capital between words: pawLFront
)
_OTHER = {"l": "r", "r": "l", "L": "R", "R": "L", "left": "right", "right": "left"}
_KEYS = ("names", "flip_pairs", "skeleton", "sigmas", "sigmas_from", "category")


def load_schema(path: str | Path) -> KeypointSchema:
    """Read a keypoint schema from a YAML file.

    The file holds ``names`` (required) and may hold ``flip_pairs`` and ``skeleton`` (pairs of names, or of indices that
    count from 0), ``sigmas`` (one per name), ``sigmas_from`` (words on their origin) and ``category``. Without
    ``flip_pairs`` they are guessed from the names; write ``flip_pairs: []`` for a schema without left and right.

    Raises:
        InputError: the file is missing or not such a mapping, or a pair names no keypoint.
    """
    path = Path(path)
    try:
        page = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the keypoint schema ({error.strerror}): check the path") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: keypoint schema is not YAML ({_first_line(error)}): mend the file") from error
    check_size(page, str(path))
    if not isinstance(page, dict) or not isinstance(page.get("names"), list):
        raise InputError(f"{path}: keypoint schema must be a mapping with a list 'names': add it")
    unknown = sorted(str(key) for key in page if key not in _KEYS)
    if unknown:
        raise InputError(f"{path}: keypoint schema has unknown key {unknown[0]!r}: the keys are {', '.join(_KEYS)}")
    names = _names(page["names"], str(path))
    pairs = page.get("flip_pairs")
    flip_pairs = mirror_pairs(names) if pairs is None else _pairs(pairs, names, 0, "flip_pairs", str(path))
    skeleton = _pairs(page.get("skeleton") or [], names, 0, "skeleton", str(path))
    sigmas, origin = _sigmas(page.get("sigmas"), str(page.get("sigmas_from", "schema file")), names, str(path))
    return _build(names, flip_pairs, skeleton, sigmas, origin, str(page.get("category", "object")), str(path))


def schema_from_category(category: Mapping[str, Any], source: str) -> KeypointSchema:
    """The schema of a COCO category: its ``keypoints`` and its ``skeleton``, which counts from 1.

    Left and right are guessed from the names (:func:`mirror_pairs`). The 17 COCO names get the COCO sigmas; other names
    get defaults, and one warning says which.

    Args:
        category: an entry of ``categories`` in a COCO keypoint file; may hold ``sigmas``.
        source: the file it comes from, for messages.

    Raises:
        InputError: the category has no keypoint names, or its skeleton points outside of them.
    """
    if not isinstance(category.get("keypoints"), list) or not category["keypoints"]:
        raise InputError(
            f"{source}: category {category.get('name')!r} names no keypoints: add them or give a schema file"
        )
    names = _names(category["keypoints"], source)
    skeleton = _pairs(category.get("skeleton") or [], names, 1, "skeleton", source)
    sigmas, origin = _sigmas(category.get("sigmas"), "annotation file", names, source)
    return _build(names, mirror_pairs(names), skeleton, sigmas, origin, str(category.get("name", "object")), source)


def save_schema(schema: KeypointSchema, path: str | Path) -> None:
    """Write a schema as the YAML file that :func:`load_schema` reads; pairs are written by name."""
    page = {
        "category": schema.category,
        "names": list(schema.names),
        "flip_pairs": [[schema.names[a], schema.names[b]] for a, b in schema.flip_pairs],
        "skeleton": [[schema.names[a], schema.names[b]] for a, b in schema.skeleton],
        "sigmas": list(schema.sigmas),
        "sigmas_from": schema.sigmas_from,
    }
    text = yaml.safe_dump(page, sort_keys=False, allow_unicode=True, default_flow_style=None)
    Path(path).write_text(text, encoding="utf-8")


def mirror_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Guess the left/right pairs of keypoint names, as (smaller index, larger index).

    Two names are a pair when one turns into the other by swapping left and right (``left_ear``, ``leftear``,
    ``ear.Left``) or, where a name has neither word, the letter l or r at an edge of a word (``l_ear``, ``earL``,
    ``Lear``, ``FL_paw``).
    """
    index = {name.lower(): i for i, name in enumerate(names)}
    pairs: set[tuple[int, int]] = set()
    for i, name in enumerate(names):
        for other in _mirrored(name):
            j = index.get(other.lower())
            if j is not None and j != i:
                pairs.add((min(i, j), max(i, j)))
                break
    # Names that differ in case only are one here; the first pair wins, so that no keypoint has two mirrors.
    used: set[int] = set()
    unique = []
    for pair in sorted(pairs):
        if used.isdisjoint(pair):
            unique.append(pair)
            used.update(pair)
    return tuple(unique)


def _mirrored(name: str) -> list[str]:
    """What the name of the other side could be, best guess first."""
    if _SIDE.search(name):
        return [_SIDE.sub(lambda m: _OTHER[m.group().lower()], name)]
    return [name[: m.start()] + _OTHER[m.group()] + name[m.end() :] for m in _EDGE_LETTER.finditer(name)]


def _names(names: Sequence[Any], source: str) -> tuple[str, ...]:
    if not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{source}: keypoint names must be non-empty strings, got {list(names)!r:.200}: mend them")
    try:
        "".join(names).encode()
    except UnicodeEncodeError:  # half a pair of surrogates, which JSON can hold and no file
        raise InputError(f"{source}: keypoint names {list(names)!r:.200} are no valid Unicode: mend them") from None
    return tuple(names)


def _pairs(pairs: Any, names: tuple[str, ...], first: int, key: str, source: str) -> tuple[tuple[int, int], ...]:
    """Pairs of names or of indices that count from ``first``, as pairs of indices that count from 0."""
    out = []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError(f"{source}: {key} holds {pair!r:.80}: give pairs of keypoint names or indices")
        ends = [names.index(end) if end in names else end for end in pair]
        if not all(isinstance(end, int) for end in ends):
            raise InputError(
                f"{source}: {key} holds {pair!r:.80}, which is no pair of keypoints: the names are {names!r:.200}"
            )
        a, b = (end - (0 if isinstance(raw, str) else first) for end, raw in zip(ends, pair, strict=True))
        if not (0 <= a < len(names) and 0 <= b < len(names)):
            span = f"{first}..{len(names) - 1 + first}"
            raise InputError(f"{source}: {key} holds {pair!r:.80}: indices must lie in {span}")
        out.append((a, b))
    return tuple(out)


def _sigmas(given: Any, given_from: str, names: tuple[str, ...], source: str) -> tuple[tuple[float, ...], str]:
    """The OKS sigmas and where they come from; warns where they are a default."""
    if given is not None:
        if not isinstance(given, list) or not all(isinstance(s, int | float) and abs(s) < math.inf for s in given):
            raise InputError(f"{source}: sigmas must be a list of numbers, got {given!r:.200}: mend it")
        return tuple(float(s) for s in given), given_from
    if all(name in COCO_SIGMAS for name in names):
        return tuple(COCO_SIGMAS[name] for name in names), "coco"
    mean = round(sum(COCO_SIGMAS.values()) / len(COCO_SIGMAS), 4)
    known = [_coco_like(name) for name in names]
    sigmas = tuple(mean if sigma is None else sigma for sigma in known)
    likes = sum(sigma is not None for sigma in known)
    parts = [f"those of COCO for {likes} joints of like name"] * (likes > 0)
    parts += [f"the COCO mean {mean} for {len(names) - likes}"] * (likes < len(names))
    origin = f"default: {' and '.join(parts)}"
    listed = ", ".join(f"{name} {sigma:g}" for name, sigma in zip(names, sigmas, strict=True))
    warnings.warn(
        f"{source}: no OKS sigmas given, using {origin} ({listed}); give your own in a schema file", stacklevel=3
    )
    return sigmas, origin


def _coco_like(name: str) -> float | None:
    """The COCO sigma of the joint that a name means, whatever its side and spelling; None if it means none of them."""
    bare = re.sub(r"[^a-z]", "", _SIDE.sub("", name).lower())
    if bare in ("neck", "headtop"):  # not COCO joints; judged as loosely as shoulders
        return COCO_SIGMAS["left_shoulder"]
    for joint, sigma in COCO_SIGMAS.items():
        part = joint.split("_")[-1]
        if bare == part or bare in (f"l{part}", f"r{part}", f"{part}l", f"{part}r"):
            return sigma
    return None


def _build(
    names: tuple[str, ...],
    flip_pairs: tuple[tuple[int, int], ...],
    skeleton: tuple[tuple[int, int], ...],
    sigmas: tuple[float, ...],
    origin: str,
    category: str,
    source: str,
) -> KeypointSchema:
    try:
        return KeypointSchema(names, flip_pairs, skeleton, sigmas, origin, category)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
