"""Swapped sides are found in planted sets of several bodies, and nothing is said of clean ones."""

import numpy as np
import numpy.typing as npt
import pytest

from polarpix.demo.body import random_figure
from polarpix.demo.figures import FIGURE_SCHEMA
from polarpix.doctor.sides import beyond_valley, exchanged, find_swaps, hypotheses
from polarpix.types import KeypointSchema

MOUSE = KeypointSchema(("snout", "left", "right", "tail"), ((1, 2),), (), (0.05,) * 4, "test")
Points = npt.NDArray[np.float64]


def mice(count: int, seed: int = 0) -> Points:
    """[N, 4, 2], seen from above in any direction."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, count)
    ahead = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    left = np.stack([ahead[:, 1], -ahead[:, 0]], axis=1)
    places = np.stack([2 * ahead, ahead + left, ahead - left, -3 * ahead], axis=1)
    return 10 * places + rng.normal(0, 0.8, places.shape)


@pytest.fixture(scope="module")
def people() -> Points:
    """[300, 14, 2] joints of the embedded figures."""
    rng = np.random.default_rng(1)
    return np.stack([random_figure(rng, (96.0, 96.0), 150.0, reach=180.0).joints for _ in range(300)]).astype(float)


def swapped(points: Points, schema: KeypointSchema, rows: list[int], pairs: tuple[int, ...]) -> Points:
    out = points.copy()
    for a, b in (schema.flip_pairs[i] for i in pairs):
        out[np.ix_(rows, [a, b])] = points[np.ix_(rows, [b, a])]
    return out


def everywhere(points: Points) -> npt.NDArray[np.bool_]:
    return np.ones(points.shape[:2], bool)


@pytest.mark.parametrize(
    "rows", [[7], list(range(0, 120, 10)), list(range(0, 120, 4))], ids=["one", "tenth", "quarter"]
)
def test_exchanged_ears_of_mice_are_found_exactly(rows: list[int]) -> None:
    points = swapped(mice(120), MOUSE, rows, (0,))
    found = find_swaps(points, everywhere(points), MOUSE)
    assert sorted(swap.index for swap in found) == rows
    assert all(swap.pairs == (0,) and not swap.view for swap in found)


@pytest.mark.parametrize("seed", range(5))
def test_clean_mice_are_silent(seed: int) -> None:
    points = mice(150, seed)
    assert not find_swaps(points, everywhere(points), MOUSE)


def test_clean_people_are_silent_and_a_view_from_behind_is_only_told(people: Points) -> None:
    found = find_swaps(people, everywhere(people), FIGURE_SCHEMA)
    assert found
    assert all(swap.view for swap in found)


@pytest.mark.parametrize("pairs", [(0,), (2,), (3, 4, 5)], ids=["shoulders", "wrists", "legs"])
def test_exchanged_limbs_of_people_are_found(people: Points, pairs: tuple[int, ...]) -> None:
    rows = list(range(0, 300, 10))
    points = swapped(people, FIGURE_SCHEMA, rows, pairs)
    found = [swap for swap in find_swaps(points, everywhere(points), FIGURE_SCHEMA) if not swap.view]
    hits = {swap.index for swap in found} & {*rows}
    assert len(hits) >= 0.8 * len(rows)
    assert len(found) - len(hits) <= 0.03 * len(points)


def people_with_eyes(count: int) -> tuple[Points, npt.NDArray[np.bool_]]:
    """Bodies seen from ahead or from behind, [N, 14 + 2, 2], with eyes in some that are seen from ahead."""
    rng = np.random.default_rng(3)
    bodies = np.stack([random_figure(rng, (96.0, 96.0), 150.0, reach=180.0).joints for _ in range(count)]).astype(float)
    names = FIGURE_SCHEMA.names
    top, neck = bodies[:, names.index("head_top")], bodies[:, names.index("neck")]
    up = (top - neck) / np.linalg.norm(top - neck, axis=1)[:, None]
    right_of_image = np.stack([-up[:, 1], up[:, 0]], axis=1)
    ahead = rng.random(count) < 0.7
    mirrored = bodies.copy()
    for a, b in FIGURE_SCHEMA.flip_pairs:
        mirrored[:, [a, b]] = bodies[:, [b, a]]
    shoulders = bodies[:, names.index("left_shoulder")] - bodies[:, names.index("right_shoulder")]
    from_ahead = (shoulders * right_of_image).sum(axis=1) > 0
    bodies[ahead != from_ahead] = mirrored[ahead != from_ahead]
    middle = (top + neck) / 2
    eyes = np.stack([middle + 4 * right_of_image, middle - 4 * right_of_image], axis=1) + rng.normal(
        0, 0.7, (count, 2, 2)
    )
    labelled = np.ones((count, len(names) + 2), bool)
    labelled[:, -2:] = (ahead & (rng.random(count) < 0.6))[:, None]
    return np.concatenate([bodies, eyes], axis=1), labelled


def test_a_face_tells_of_a_whole_body_that_is_exchanged() -> None:
    count = len(FIGURE_SCHEMA.names)
    pairs = (*FIGURE_SCHEMA.flip_pairs, (count, count + 1))
    schema = KeypointSchema((*FIGURE_SCHEMA.names, "left_eye", "right_eye"), pairs, (), (0.05,) * (count + 2), "test")
    points, labelled = people_with_eyes(300)
    assert not [swap for swap in find_swaps(points, labelled, schema) if len(swap.pairs) == len(pairs)]
    rows = np.flatnonzero(labelled[:, -1])[:60:30].tolist()
    planted = swapped(points, schema, rows, tuple(range(len(pairs))))
    found = [swap for swap in find_swaps(planted, labelled, schema) if len(swap.pairs) == len(pairs)]
    assert {swap.index for swap in found} == {*rows}
    assert not any(swap.view for swap in found)


def test_unlabelled_points_are_never_used() -> None:
    points = mice(60)
    labelled = everywhere(points)
    labelled[5] = [True, True, False, True]
    before = find_swaps(points, labelled, MOUSE)
    points[5, 2] = 1e6
    assert find_swaps(points, labelled, MOUSE) == before == []


def test_too_few_poses_and_no_pairs_say_nothing() -> None:
    points = swapped(mice(20), MOUSE, [3], (0,))
    assert not find_swaps(points, everywhere(points), MOUSE)
    plain = KeypointSchema(("a", "b", "c", "d"), (), (), (0.05,) * 4, "test")
    assert not find_swaps(mice(60), np.ones((60, 4), bool), plain)
    assert not hypotheses(plain)


def test_hypotheses_follow_the_skeleton() -> None:
    found = hypotheses(FIGURE_SCHEMA)
    assert found[0] == tuple(range(6))
    assert {(i,) for i in range(6)} <= {*found}
    names = {tuple(FIGURE_SCHEMA.names[FIGURE_SCHEMA.flip_pairs[i][0]] for i in pairs) for pairs in found}
    assert ("left_elbow", "left_wrist") in names
    assert ("left_hip", "left_knee", "left_ankle") in names


@pytest.mark.parametrize(("share", "found"), [(0.0, 0.0), (0.02, 0.4), (0.1, 0.6)])
def test_a_few_exchanged_among_many_unsure_are_told_by_how_often_evidence_is_wrong(share: float, found: float) -> None:
    """Evidence as wrong as its size says, half of it weak, and no valley: the exchanged ones add to the tail."""
    rng = np.random.default_rng(3)
    size = np.abs(rng.normal(0, 8, 6000))
    right = rng.uniform(size=6000) < 1 / (1 + np.exp(-size))
    planted = rng.uniform(size=6000) < share
    odds = np.where(right ^ planted, size, -size)
    told = exchanged(odds, pairs=1, whole=False)
    assert (told & planted).sum() >= found * planted.sum()
    assert (told & ~planted).sum() <= 0.1 * told.sum()
    assert not beyond_valley(odds, False).any()
