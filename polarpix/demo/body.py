"""One articulated figure: a random pose in three dimensions, its projection, and the painting of its parts.

Lengths are shares of the standing height. The frame of a figure that faces the viewer has x to the right of the
picture (the figure's own left), y down and z towards the viewer, so yaw turns a front view into a back view and the
sides of the body change places exactly as they do for people: a mirrored picture is again a possible picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polarpix.demo.paint import Canvas, Cloth, Color, Plane, planes, random_color
from polarpix.types import FloatArray

__all__ = ["JOINTS", "JOINT_PIECES", "PARTS", "PIECES", "Figure", "random_figure"]

JOINTS = (
    "head_top",
    "neck",
    *(
        f"{side}_{name}"
        for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in ("left", "right")
    ),
)
PARTS = ("head", "torso", "upper_arm", "lower_arm", "upper_leg", "lower_leg")
# Pieces are numbered from 1 in this order, each with its part; the left one of a pair comes first.
PIECES: dict[str, str] = {
    "head": "head",
    "neck": "head",
    "torso": "torso",
    **{
        f"{side}_{name}": part
        for name, part in (
            ("upper_arm", "upper_arm"),
            ("lower_arm", "lower_arm"),
            ("hand", "lower_arm"),
            ("upper_leg", "upper_leg"),
            ("lower_leg", "lower_leg"),
            ("foot", "lower_leg"),
        )
        for side in ("left", "right")
    },
}
_LIMB_PIECES = {
    "shoulder": ("upper_arm",),
    "elbow": ("upper_arm", "lower_arm"),
    "wrist": ("lower_arm", "hand"),
    "hip": ("upper_leg",),
    "knee": ("upper_leg", "lower_leg"),
    "ankle": ("lower_leg", "foot"),
}
# A joint is seen where one of these pieces lies on top; shoulders and hips also through the torso's near side.
JOINT_PIECES: dict[str, tuple[str, ...]] = {
    "head_top": ("head",),
    "neck": ("neck", "torso", "head"),
    **{
        f"{side}_{joint}": tuple(f"{side}_{piece}" for piece in pieces)
        for joint, pieces in _LIMB_PIECES.items()
        for side in ("left", "right")
    },
}

_SKINS: tuple[Color, ...] = (
    (0.98, 0.84, 0.73),
    (0.93, 0.74, 0.60),
    (0.82, 0.61, 0.46),
    (0.66, 0.46, 0.33),
    (0.47, 0.31, 0.22),
    (0.33, 0.22, 0.17),
)
_HAIRS: tuple[Color, ...] = (
    (0.10, 0.08, 0.07),
    (0.26, 0.16, 0.09),
    (0.45, 0.27, 0.12),
    (0.78, 0.60, 0.30),
    (0.62, 0.22, 0.10),
    (0.72, 0.72, 0.72),
)
_SHOULDER, _HIP, _SPINE, _HEAD = 0.105, 0.062, 0.29, 0.20
_UPPER_ARM, _LOWER_ARM, _UPPER_LEG, _LOWER_LEG = 0.155, 0.14, 0.225, 0.215
_DOWN = np.array([0.0, 1.0, 0.0])

Matrix = npt.NDArray[np.float64]  # [3, 3]


@dataclass(frozen=True)
class Figure:
    """A posed figure, ready to be painted.

    Args:
        places: x, y in pixels and depth (towards the viewer) of every joint and of pelvis, hands and feet, each [3].
        size: standing height in pixels.
        head: rotation [3, 3] from the frame of the head to that of the picture.
        torso: the same of the torso.
        wardrobe: cloth of each kind of piece.
        hair: its colour.
        girth: factor on every thickness.
    """

    places: dict[str, npt.NDArray[np.float64]]
    size: float
    head: Matrix
    torso: Matrix
    wardrobe: dict[str, Cloth]
    hair: Color
    girth: float

    @property
    def joints(self) -> FloatArray:
        """The joints [K, 2] in pixels, in the order of :data:`JOINTS`."""
        return np.array([self.places[name][:2] for name in JOINTS], np.float32)

    def shows_through_torso(self, joint: str) -> bool:
        """Whether a shoulder or hip lies on the side of the torso that is turned to the viewer."""
        middle = self.places["neck" if joint.endswith("shoulder") else "pelvis"][2]
        return bool(self.places[joint][2] - middle > -0.035 * self.size)

    def paint(self, canvas: Canvas, first: int) -> None:
        """Paint the pieces from far to near; piece i of :data:`PIECES` gets the number first + i."""
        number = {name: first + i for i, name in enumerate(PIECES)}
        depth = {name: self._depth(name) for name in PIECES}
        for name in sorted(PIECES, key=lambda name: (depth[name], name)):
            if name == "head":
                self._paint_head(canvas, number[name])
            elif name == "torso":
                self._paint_torso(canvas, number[name])
            else:
                self._paint_limb(canvas, name, number[name])

    def _ends(self, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        if name == "neck":
            return self.places["neck"], self.places["skull"]
        side, _, piece = name.partition("_")
        near, far = {
            "upper_arm": ("shoulder", "elbow"),
            "lower_arm": ("elbow", "wrist"),
            "hand": ("wrist", "hand"),
            "upper_leg": ("hip", "knee"),
            "lower_leg": ("knee", "ankle"),
            "foot": ("ankle", "foot"),
        }[piece]
        return self.places[f"{side}_{near}"], self.places[f"{side}_{far}"]

    def _depth(self, name: str) -> float:
        if name == "torso":
            return float(self.places["neck"][2] + self.places["pelvis"][2]) / 2
        if name == "head":
            return float(self.places["skull"][2]) + 0.02 * self.size
        start, end = self._ends(name)
        # Arms hang beside the torso rather than in it, and the outer piece lies on the inner one; a thigh goes under
        # the shirt unless it is lifted clear of it.
        bias = {"neck": -0.03, "arm": 0.035, "hand": 0.037, "upper_leg": -0.03, "lower_leg": -0.02, "foot": -0.01}
        shift = next(value for key, value in bias.items() if name.endswith(key))
        return float(start[2] + end[2]) / 2 + shift * self.size

    def _paint_limb(self, canvas: Canvas, name: str, number: int) -> None:
        piece = name.partition("_")[2] or name
        radii = {
            "neck": (0.036, 0.034, 0.0),
            "upper_arm": (0.037, 0.029, 0.002),
            "lower_arm": (0.029, 0.019, 0.004),
            "hand": (0.020, 0.021, 0.004),
            "upper_leg": (0.058, 0.040, 0.003),
            "lower_leg": (0.039, 0.024, 0.007),
            "foot": (0.027, 0.023, 0.002),
        }[piece]
        scale = self.size * self.girth
        start, end = self._ends(name)
        thick = (radii[0] * scale, radii[1] * scale, radii[2] * scale)
        canvas.solid(start[:2], end[:2], thick, self.wardrobe[piece], number, shadow=0.22)

    def _paint_torso(self, canvas: Canvas, number: int) -> None:
        scale = self.size * self.girth
        facing = float(self.torso[2, 2])  # cosine of the turn away from the viewer
        yaw = float(np.arctan2(self.torso[0, 2], self.torso[2, 2]))
        shirt, collar = self.wardrobe["torso"], self.wardrobe["neck"].first

        def half(width: float, depth: float) -> float:
            return float(np.hypot(width * facing, depth * np.sqrt(max(1 - facing * facing, 0)))) * scale

        def surface(t: Plane, v: Plane, nz: Plane) -> Plane:
            turn = np.arcsin(np.clip(v, -1, 1)) + np.float32(yaw)  # [h, w], angle around the body; 0 is the front
            color = shirt.paint(t * np.float32(_SPINE * self.size), turn * np.float32(0.11 * self.size))
            front = np.cos(turn) > 0
            off = np.abs(np.sin(turn))  # [h, w]
            neckline = front & (off * 0.26 + t < 0.15)
            seam = front & (off < 0.07) & (t < 1)
            color = np.where(neckline, planes(collar), color)
            return np.where(seam & ~neckline, color * np.float32(0.45), color)

        top, bottom = self.places["neck"], self.places["pelvis"]
        down = bottom[:2] - top[:2]
        start = top[:2] + 0.07 * down
        radii = (half(_SHOULDER + 0.022, 0.062), half(_HIP + 0.036, 0.062), -0.008 * scale)
        canvas.solid(start, bottom[:2], radii, surface, number, cap=0.045 * scale, shadow=0.22)

    def _paint_head(self, canvas: Canvas, number: int) -> None:
        skin, hair = planes(self.wardrobe["neck"].first), planes(self.hair)
        up = self.places["head_top"][:2] - self.places["neck"][:2]
        length = float(np.hypot(*up))
        up = up / length if length > 1e-6 else np.array([0.0, -1.0])
        right = np.array([-up[1], up[0]])  # the direction of v in Canvas.ball
        basis = np.zeros((3, 3))
        basis[:2, 0], basis[:2, 1], basis[2, 2] = up, right, 1
        local = (self.head.T @ basis).astype(np.float32)  # normal (u, v, z) -> frame of the head

        def surface(u: Plane, v: Plane, nz: Plane) -> Plane:
            x, y, z = (local[i, 0] * u + local[i, 1] * v + local[i, 2] * nz for i in range(3))
            face = (z > 0.18 - 0.25 * y) & (y > -0.42) & (np.abs(x) < 0.92)
            color = np.where(face, skin, hair)
            eyes = (np.abs(np.abs(x) - 0.36) < 0.15) & (np.abs(y + 0.02) < 0.11) & (z > 0)
            mouth = (np.abs(x) < 0.26) & (np.abs(y - 0.52) < 0.07) & (z > 0)
            nose = (np.abs(x) < 0.09) & (y > 0.05) & (y < 0.30) & (z > 0)
            color = np.where(nose, color * np.float32(0.82), color)
            color = np.where(eyes, np.float32(0.08), color)
            return np.where(mouth, planes((0.62, 0.22, 0.20)), color)

        semi = (0.088 * self.size, 0.070 * self.size * (0.5 + 0.5 * self.girth))
        canvas.ball(self.places["skull"][:2], up, semi, surface, number, shadow=0.22)


def random_figure(
    rng: np.random.Generator, centre: tuple[float, float], size: float, reach: float | None = None
) -> Figure:
    """A figure of random pose and clothes.

    Args:
        rng: the only source of chance.
        centre: of the box around its joints, in pixels.
        size: standing height in pixels.
        reach: if given, the figure is shrunk until its joints span at most this many pixels either way.
    """
    places, head, torso = _pose(rng)
    flat = np.array([places[name][:2] for name in JOINTS])
    low, high = flat.min(axis=0), flat.max(axis=0)
    if reach is not None:
        size = min(size, reach / float((high - low).max()))
    shift = np.array([*centre, 0.0]) - np.append((low + high) / 2, 0.0) * size
    placed = {name: place * size + shift for name, place in places.items()}
    wardrobe, hair = _clothes(rng, size)
    return Figure(placed, size, head, torso, wardrobe, hair, rng.uniform(0.9, 1.2))


def _turn(axis: int, degrees: float) -> Matrix:
    """Rotation [3, 3] about an axis; positive about x brings down to front, about z down to the figure's left."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = ((1, 2), (2, 0), (1, 0))[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[j, i], matrix[i, j] = s, -s
    return matrix


def _bounded(degrees: float, limit: float) -> float:
    return max(-limit, min(degrees, limit))


def _pose(rng: np.random.Generator) -> tuple[dict[str, npt.NDArray[np.float64]], Matrix, Matrix]:
    """Joint places in heights around the pelvis, rotation of the head and of the torso, by one kinematic chain."""
    vigour = rng.beta(1.3, 1.6)  # 0 stands still, 1 leaps
    yaw = _bounded(rng.normal(0, 32), 75) + (180 if rng.random() < 0.2 else 0)
    root = _turn(2, rng.normal(0, 4 + 9 * vigour)) @ _turn(1, yaw)
    torso = root @ _turn(2, rng.normal(0, 3 + 8 * vigour)) @ _turn(0, -rng.normal(4, 3 + 8 * vigour))
    head = torso @ _turn(1, _bounded(rng.normal(0, 22), 60)) @ _turn(2, rng.normal(0, 7)) @ _turn(0, rng.normal(0, 9))
    neck = torso @ (-_SPINE * _DOWN)
    places = {
        "pelvis": np.zeros(3),
        "neck": neck,
        "head_top": neck + head @ (-_HEAD * _DOWN),
        "skull": neck + head @ (-(_HEAD - 0.078) * _DOWN),
    }
    for side, sign in (("left", 1.0), ("right", -1.0)):
        shoulder = neck + torso @ np.array([sign * _SHOULDER, 0.028, 0.0])
        lift = rng.beta(1.1, 2.6 - 1.6 * vigour) * (50 + 120 * vigour)
        arm = torso @ _turn(2, sign * (4 + lift)) @ _turn(0, rng.normal(5, 10 + 30 * vigour))
        elbow = shoulder + arm @ (_UPPER_ARM * _DOWN)
        fore = arm @ _turn(1, sign * rng.uniform(-110, 20)) @ _turn(0, rng.beta(1.2, 1.8) * (60 + 80 * vigour))
        wrist = elbow + fore @ (_LOWER_ARM * _DOWN)
        hip = root @ np.array([sign * _HIP, 0.012, 0.0])
        spread = 2 + rng.beta(1.2, 2.2) * (15 + 50 * vigour)
        swing = max(-40.0, _bounded(rng.normal(6 * vigour, 8 + 28 * vigour), 95))
        leg = root @ _turn(2, sign * spread) @ _turn(0, swing)
        knee = hip + leg @ (_UPPER_LEG * _DOWN)
        bend = rng.beta(1.1, 3.0) * (20 + 110 * vigour) + max(swing, 0) * 0.5
        shin = leg @ _turn(1, sign * rng.normal(8, 6)) @ _turn(0, -min(bend, 135))
        ankle = knee + shin @ (_LOWER_LEG * _DOWN)
        limbs = {"shoulder": shoulder, "elbow": elbow, "wrist": wrist, "hip": hip, "knee": knee, "ankle": ankle}
        limbs["hand"] = wrist + fore @ (0.032 * _DOWN)
        limbs["foot"] = ankle + shin @ np.array([sign * 0.022, 0.018, 0.050])
        places |= {f"{side}_{name}": place for name, place in limbs.items()}
    return places, head, torso


def _clothes(rng: np.random.Generator, size: float) -> tuple[dict[str, Cloth], Color]:
    tone = np.asarray(_SKINS[rng.integers(len(_SKINS))]) * rng.uniform(0.92, 1.04)
    skin = Cloth((float(tone[0]), float(tone[1]), float(tone[2])), gloss=0.12)
    period = 0.055 * size
    shirt, trousers = Cloth.random(rng, period), Cloth.random(rng, period)
    shoes = Cloth(random_color(rng), gloss=0.25)
    sleeve, leg, glove = rng.random(), rng.random(), rng.random()
    wardrobe = {
        "neck": skin,
        "torso": shirt,
        "upper_arm": shirt if sleeve < 0.85 else skin,
        "lower_arm": shirt if sleeve < 0.45 else skin,
        "hand": Cloth(random_color(rng)) if glove < 0.12 else skin,
        "upper_leg": trousers,
        "lower_leg": trousers if leg < 0.6 else skin,
        "foot": shoes,
    }
    hair = _HAIRS[rng.integers(len(_HAIRS))] if rng.random() < 0.85 else random_color(rng)  # the rest wears a cap
    return wardrobe, hair
