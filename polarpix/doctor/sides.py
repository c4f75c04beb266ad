"""Left and right that look swapped, by the data's own statistics; nothing is known of any body but its mirror pairs.

A hypothesis is a set S of mirror pairs whose two keypoints may have been exchanged. Under it some measures of a pose
turn into their opposite: how the vectors from left to right of a pair in S and of one outside S point along each
other, and on which side of a line between the middles of two pairs (or keypoints of the middle) a pair's right lies.
A logistic model without constant learns, over the whole set, to tell poses as annotated from the same with S
exchanged. Its log-odds for a pose come from a model that has not seen it (five folds). Where the model knows the side
of nearly all poses, one that is exchanged as clearly as the median one is right stands out; where a set does not tell
(a body without a face, seen from ahead or from behind), nothing is said. All pairs together are judged once more among
the poses with that pair labelled which tells their side best: eyes are, as a rule, labelled where a face looks ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polarpix.types import KeypointSchema

__all__ = ["Swap", "find_swaps", "hypotheses"]

Array = npt.NDArray[np.float64]

FEWEST = 30  # poses that a hypothesis needs
MOST = 0.7  # share of poses with a pair labelled above which having it labelled tells nothing
DOUBT = 0.05  # share of poses on the wrong side, yet not clearly, above which the set does not tell
HILL = 8  # poses that make a second hill
CLEAR = 0.02  # share of poses nearer to zero than half the median below which fewer do
APART = 0.1  # the same share, above which the whole body cannot be judged
RARE = 0.02  # share of poses with all pairs exchanged up to which it is no matter of view
SURE = 0.95  # probability above which a pair is said to be exchanged
SURER = 0.99  # the same of several pairs: crossed legs are more often annotated rightly than one crossed knee
GAIN = 5.0  # of log-likelihood that exchanges must bring
BINS = 200
SOFT = 0.15  # of a pose's spread: below it a measure is as good as zero
RIDGE = 3.0
FOLDS = 5
ROUNDS = 3
LEARNED = 6000  # poses that a model learns from at most


@dataclass(frozen=True)
class Swap:
    """A pose whose left and right look exchanged."""

    index: int  # of the pose
    pairs: tuple[int, ...]  # positions in the schema's flip pairs
    ratio: float  # log-odds of being exchanged, over those of the median pose of being right
    view: bool  # so many poses have all pairs exchanged that they may as well be seen from the other side


def hypotheses(schema: KeypointSchema) -> list[tuple[int, ...]]:
    """Sets of mirror pairs that are exchanged together: all, each alone, and what hangs on one bone of the skeleton."""
    count = len(schema.flip_pairs)
    pair_of = {keypoint: i for i, pair in enumerate(schema.flip_pairs) for keypoint in pair}
    bones = {tuple(sorted((pair_of[a], pair_of[b]))) for a, b in schema.skeleton if a in pair_of and b in pair_of}
    bones = {bone for bone in bones if bone[0] != bone[1]}
    found = [tuple(range(count))] + [(i,) for i in range(count)]
    for bone in sorted(bones):
        rest = bones - {bone}
        for start, other in (bone, bone[::-1]):
            side = _reach(start, rest)
            if other not in side and 1 < len(side) <= count // 2:
                found.append(tuple(sorted(side)))
    return list(dict.fromkeys(found)) if count else []


def _reach(start: int, bones: set[tuple[int, ...]]) -> set[int]:
    """What is connected with ``start``."""
    side = {start}
    while True:
        more = {end for bone in bones if side & {*bone} for end in bone} - side
        if not more:
            return side
        side |= more


def find_swaps(points: Array, labelled: npt.NDArray[np.bool_], schema: KeypointSchema) -> list[Swap]:
    """The poses that look exchanged, each once, by the hypothesis that shows it best; clearest first.

    Args:
        points: [N, K, 2] in pixels.
        labelled: [N, K].
        schema: names the mirror pairs.
    """
    best: dict[int, Swap] = {}
    if not schema.flip_pairs or not len(points):
        return []
    pose = _Poses(points, labelled, schema)
    for pairs in hypotheses(schema):
        measures, rows = pose.measures(pairs)  # [n, F], [n]
        if len(rows) < FEWEST:
            continue
        whole = len(pairs) == len(schema.flip_pairs)
        odds = log_odds(measures)  # [n], as annotated over exchanged
        judged = [(odds, exchanged(odds, len(pairs), whole), rows)]
        if whole and len(pairs) > 1:
            judged += _of_the_telling(measures, rows, pose.known[rows])
        for odds, clear, of in judged:
            view = whole and len(pairs) > 1 and float(clear.mean()) > RARE
            for i in np.flatnonzero(clear):
                swap = Swap(int(of[i]), pairs, float(-odds[i] / np.median(odds)), view)
                known = best.get(swap.index)
                if known is None or (known.view, -known.ratio) > (swap.view, -swap.ratio):
                    best[swap.index] = swap
    return sorted(best.values(), key=lambda swap: -swap.ratio)


def _of_the_telling(
    measures: Array, rows: npt.NDArray[np.int64], known: npt.NDArray[np.bool_]
) -> list[tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.int64]]]:
    """The whole body, judged among the poses with one pair labelled: log-odds, which tell of an exchange, and rows.

    It is the pair whose poses the model is surest of, but for the quarter that it is least sure of, which may be
    exchanged. Nothing where every pair is labelled in nearly all poses or in few.
    """
    found, least = [], np.inf
    for shown in known.T:
        if shown.sum() < 2 * FEWEST or shown.mean() > MOST:
            continue
        odds = log_odds(measures[shown])
        loss = float(np.sort(np.logaddexp(0, -odds))[: 3 * len(odds) // 4].mean())
        if loss < least:
            clear = beyond_valley(odds, whole=True) | (probably(odds) > SURER)
            found, least = [(odds, clear, rows[shown])], loss
    return found


class _Poses:
    """Vectors across each mirror pair, and points that no exchange moves, in units of a pose's own spread."""

    def __init__(self, points: Array, labelled: npt.NDArray[np.bool_], schema: KeypointSchema) -> None:
        points = np.where(labelled[..., None], points, 0.0)
        count = np.maximum(labelled.sum(axis=1), 1)[:, None]
        centred = np.where(labelled[..., None], points - (points.sum(axis=1) / count)[:, None], 0.0)
        spread = np.sqrt((centred**2).sum(axis=(1, 2)) / count[:, 0])
        scaled = centred / np.maximum(spread, 1e-9)[:, None, None]
        sided = {keypoint for pair in schema.flip_pairs for keypoint in pair}
        middle = [k for k in range(len(schema.names)) if k not in sided]
        left, right = (np.array([pair[i] for pair in schema.flip_pairs]) for i in (0, 1))
        both = labelled[:, left] & labelled[:, right]  # [N, P]
        self.across = scaled[:, right] - scaled[:, left]  # [N, P, 2]
        self.known = both & (spread > 0)[:, None]
        self.fixed = np.concatenate([(scaled[:, left] + scaled[:, right]) / 2, scaled[:, middle]], axis=1)  # [N, M, 2]
        self.fixed_known = np.concatenate([both, labelled[:, middle]], axis=1)

    def measures(self, pairs: Sequence[int]) -> tuple[Array, npt.NDArray[np.int64]]:
        """What turns into its opposite when ``pairs`` are exchanged, [n, F] in -1..1, 0 where unknown; and for whom."""
        others = [i for i in range(self.across.shape[1]) if i not in pairs]
        columns, known = [], []
        starts, ends = np.triu_indices(self.fixed.shape[1], 1)
        lines = self.fixed[:, ends] - self.fixed[:, starts]  # [N, L, 2]
        lines_known = self.fixed_known[:, ends] & self.fixed_known[:, starts]
        for i in pairs:
            d = self.across[:, i, None]  # [N, 1, 2]
            columns.append((d * self.across[:, others]).sum(axis=2))
            known.append(self.known[:, i, None] & self.known[:, others])
            columns.append(d[..., 0] * lines[..., 1] - d[..., 1] * lines[..., 0])
            known.append(self.known[:, i, None] & lines_known)
        values, there = np.concatenate(columns, axis=1), np.concatenate(known, axis=1)
        rows = np.flatnonzero(there.any(axis=1))
        values = values[rows] / np.sqrt(values[rows] ** 2 + SOFT**2)
        return np.where(there[rows], values, 0.0), rows


def exchanged(odds: Array, pairs: int, whole: bool) -> npt.NDArray[np.bool_]:
    """Which log-odds [n] tell of an exchange of so many pairs, which may be all of the body.

    Many exchanged poses make a second hill below zero, a valley apart from the first: all beyond the valley are
    meant. A few lie in the tail: what is as clearly wrong as the median pose is right is meant, and, of a part of the
    body, what is wrong more often than such evidence ever is (:func:`probably`). A body seen from behind may look like
    one with all its pairs exchanged, so for the whole the hills must lie far apart.
    """
    hill = beyond_valley(odds, whole)
    return hill if whole else hill | (probably(odds) > (SURE if pairs == 1 else SURER))


def probably(odds: Array) -> Array:
    """Probability [n] of each pose to be exchanged; 0 throughout where the set needs no exchanges to be explained.

    Evidence is as often wrong as a logistic curve of its size says, but for a share r of exchanged poses, for which the
    curve stands on its head. The curve's slope and r are those under which the signs found are likeliest.
    """
    size, wrong = np.abs(odds), odds < 0
    edges = np.linspace(0, size.max() + 1e-9, BINS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    missed, right = (np.histogram(size[which], edges)[0] for which in (wrong, ~wrong))
    slopes = np.geomspace(0.25, 4, 33)[:, None, None]
    shares = np.concatenate([[0], np.geomspace(5e-4, 0.3, 33)])[:, None]
    sure = 1 / (1 + np.exp(-slopes * middle))  # [S, 1, BINS]
    error = np.clip((1 - shares) * (1 - sure) + shares * sure, 1e-12, 1)  # [S, R, BINS]
    likely = (missed * np.log(error) + right * np.log(1 - error)).sum(axis=2)  # [S, R]
    s, r = np.unravel_index(int(likely.argmax()), likely.shape)
    if likely[s, r] - likely[:, 0].max() < GAIN:
        return np.zeros(len(odds))
    sure, share = 1 / (1 + np.exp(-slopes[s, 0, 0] * size)), shares[r, 0]
    return np.where(wrong, share * sure / (share * sure + (1 - share) * (1 - sure)), 0.0)


def beyond_valley(odds: Array, whole: bool) -> npt.NDArray[np.bool_]:
    """Which log-odds [n] lie beyond a valley, or are as clearly below zero as the median one is above."""
    median = float(np.median(odds))
    none = np.zeros(len(odds), bool)
    if median <= 0:
        return none
    unsure = float((np.abs(odds) < median / 2).mean())
    for part in (0.5, 0.75):
        clear = odds < -part * median
        doubt = float(((odds < 0) & ~clear).mean())
        enough = clear.sum() >= HILL or unsure <= CLEAR
        if enough and doubt <= clear.mean() / 2 and (not whole or (doubt <= DOUBT and unsure <= APART)):
            return clear
    clear = odds < -median
    return clear if ((odds < 0) & ~clear).mean() <= DOUBT else none


def log_odds(measures: Array) -> Array:
    """Log-odds [n] of each pose as annotated against exchanged, from models that have not seen it.

    Poses that look clearly exchanged are left out of the learning in the next round, so that many of them do not make
    the model doubt.
    """
    n = len(measures)
    rng = np.random.default_rng(0)
    fold = rng.permutation(n) % FOLDS
    kept = np.ones(n, bool)
    odds = np.zeros(n)
    for _ in range(ROUNDS):
        for part in range(FOLDS):
            rows = np.flatnonzero((fold != part) & kept)
            rows = rng.permutation(rows)[:LEARNED]
            odds[fold == part] = measures[fold == part] @ _learn(measures[rows])
        kept = odds > -0.5 * np.median(odds)
        if kept.mean() < 0.65:  # too many: the set does not tell
            break
    return odds


def _learn(measures: Array) -> Array:
    """Weights [F] of logistic regression with a ridge, by Newton's steps: every row is a pose as annotated."""
    weights = np.zeros(measures.shape[1])
    for _ in range(30):
        wrong = 1 / (1 + np.exp(np.clip(measures @ weights, -50, 50)))
        slope = measures.T @ wrong - RIDGE * weights
        bend = (measures * (wrong * (1 - wrong))[:, None]).T @ measures + RIDGE * np.eye(len(weights))
        step = np.linalg.solve(bend, slope)
        weights += step
        if np.abs(step).max() < 1e-4:
            break
    return weights
