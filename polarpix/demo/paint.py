"""The brush of the embedded data: shaded, textured solids painted over one another, each pixel remembering its owner.

Everything is drawn at its final size with analytic edges: a shape knows the distance of a pixel to its outline, and
the same distance gives coverage, surface normal and mask, so picture and labels cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["PATTERNS", "Canvas", "Cloth", "Color", "Plane", "Surface", "planes", "random_color"]

Color = tuple[float, float, float]  # RGB in 0..1
Plane = npt.NDArray[np.floating[Any]]  # float32 throughout, which the stubs of numpy lose on the way
Point = npt.NDArray[np.floating[Any]]  # [2], x and y in pixels


def _plain(u: Plane, v: Plane) -> Plane:
    return np.zeros(np.broadcast_shapes(u.shape, v.shape), np.float32)


def _hoops(u: Plane, v: Plane) -> Plane:
    return _soft(np.sin(u))


def _stripes(u: Plane, v: Plane) -> Plane:
    return _soft(np.sin(v))


def _checks(u: Plane, v: Plane) -> Plane:
    return _soft(np.sin(u) * np.sin(v) * 2)


def _plaid(u: Plane, v: Plane) -> Plane:
    return 0.5 * (_soft(np.sin(u)) + _soft(np.sin(v)))


def _dots(u: Plane, v: Plane) -> Plane:
    return _soft(np.cos(u) + np.cos(v) - 0.9)


def _zigzag(u: Plane, v: Plane) -> Plane:
    return _soft(np.sin(u + 1.2 * np.abs(np.mod(v / np.pi, 2) - 1)))


def _soft(wave: Plane) -> Plane:
    share: Plane = np.clip(0.5 + 2.5 * wave, 0, 1)
    return share


# Each gives the share [h, w] of the second colour from the places along (u) and across (v) the shape, in radians.
PATTERNS: dict[str, Callable[[Plane, Plane], Plane]] = {
    "plain": _plain,
    "hoops": _hoops,
    "stripes": _stripes,
    "checks": _checks,
    "plaid": _plaid,
    "dots": _dots,
    "zigzag": _zigzag,
}


def random_color(rng: np.random.Generator, low: float = 0.05, high: float = 0.95) -> Color:
    """A colour of random hue, saturation and lightness."""
    hue, saturation, value = rng.random(), 0.15 + 0.75 * rng.random(), low + (high - low) * rng.random()
    wheel = np.clip(np.abs(np.mod(hue * 6 + np.array([0.0, 4.0, 2.0]), 6) - 3) - 1, 0, 1)
    red, green, blue = (value * (1 - saturation * (1 - wheel))).tolist()
    return red, green, blue


@dataclass(frozen=True)
class Cloth:
    """What a surface is made of.

    Args:
        first: its colour.
        second: the colour of the pattern.
        pattern: a key of :data:`PATTERNS`.
        period: length of the pattern in pixels.
        gloss: strength of the highlight.
    """

    first: Color
    second: Color = (0.0, 0.0, 0.0)
    pattern: str = "plain"
    period: float = 8.0
    gloss: float = 0.0

    @classmethod
    def random(cls, rng: np.random.Generator, period: float) -> Cloth:
        """Any colours, any pattern, a period within a factor of about two of the one given."""
        pattern = "plain" if rng.random() < 0.2 else tuple(PATTERNS)[rng.integers(len(PATTERNS))]
        period = max(2.5, period * 2 ** rng.uniform(-1, 1))
        return cls(random_color(rng), random_color(rng), pattern, period, 0.2 * rng.random())

    def paint(self, u: Plane, v: Plane) -> Plane:
        """Colour [3, h, w] (a plain one [3, 1, 1]) at the places u along and v across, both [h, w] in pixels."""
        first = planes(self.first)
        if self.pattern == "plain":
            return first
        turn = np.float32(2 * np.pi / self.period)
        share = PATTERNS[self.pattern](u * turn, v * turn)  # [h, w]
        return first + share * (planes(self.second) - first)


Surface = Callable[[Plane, Plane, Plane], Plane]  # (u, v, normal z), each [h, w] -> [3, h, w]


def planes(color: Color) -> Plane:
    """A colour as [3, 1, 1]."""
    return np.array(color, np.float32).reshape(3, 1, 1)


@dataclass
class Canvas:
    """The picture so far, and which piece each of its pixels shows.

    Args:
        image: float32 [3, H, W], 0..1: planes, because a row of three is too short for numpy to be quick.
        light: direction towards the light (x, y, z), length 1; z points at the viewer.
        grain: float32 [H, W] around 1: the unevenness of every surface.
        piece: int16 [H, W], number of the piece on top, 0 for scenery.
        silhouette: bool [H, W], everything painted since it was last cleared, whether or not covered since.
    """

    image: Plane
    light: tuple[float, float, float]
    grain: Plane
    piece: npt.NDArray[np.int16] = field(init=False)
    silhouette: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.piece = np.zeros(self.image.shape[1:], np.int16)
        self.silhouette = np.zeros(self.image.shape[1:], np.bool_)

    def solid(
        self,
        start: Point,
        end: Point,
        radii: tuple[float, float, float],
        surface: Cloth | Surface,
        piece: int = 0,
        cap: float | None = None,
        shadow: float = 0.25,
    ) -> None:
        """Paint a limb: a tube from start to end with round ends.

        Args:
            start: centre of the first end.
            end: centre of the other.
            radii: half width at the start, at the end, and the extra in the middle.
            surface: its cloth, or a function of place and normal.
            piece: its number.
            cap: radius of the rounding at the ends; None for the half width, which makes half discs.
            shadow: how much it darkens what lies right beside it.
        """
        widest = max(radii[0], radii[1]) + max(radii[2], 0.0) + 3
        grid = self._grid(np.minimum(start, end) - widest, np.maximum(start, end) + widest)
        if grid is None:
            return
        rows, columns, x, y = grid
        axis = end - start
        length = max(float(np.hypot(*axis)), 1e-3)
        ux, uy = (axis / length).tolist()
        x, y = x - np.float32(start[0]), y - np.float32(start[1])
        along = x * np.float32(ux) + y * np.float32(uy)  # [h, w]
        across = y * np.float32(ux) - x * np.float32(uy)  # [h, w]
        t = np.clip(along / np.float32(length), 0, 1)  # [h, w]
        half = radii[0] + np.float32(radii[1] - radii[0]) * t + np.float32(radii[2] * 4) * t * (1 - t)
        rounding = half if cap is None else np.minimum(half, np.float32(cap))
        beyond = along - t * np.float32(length)
        side = np.abs(across) if cap is None else np.maximum(np.abs(across) - (half - rounding), 0)
        inside = rounding - np.sqrt(side * side + beyond * beyond)  # [h, w], pixels to the outline
        v, e = across / half, beyond / rounding
        nz = np.sqrt(np.maximum(1 - v * v - e * e, 0))
        lx, ly, lz = self.light
        lit = v * np.float32(ux * ly - uy * lx) + e * np.float32(ux * lx + uy * ly) + nz * np.float32(lz)
        if isinstance(surface, Cloth):
            bend = v * (1 + np.float32(0.4) * v * v) * half  # arc length around the tube, nearly
            color, gloss = surface.paint(along, bend), surface.gloss
        else:
            color, gloss = surface(t, v, nz), 0.0
        self._lay(rows, columns, inside, color, lit, gloss, piece, shadow)

    def ball(
        self,
        centre: Point,
        up: Point,
        semi: tuple[float, float],
        surface: Surface,
        piece: int = 0,
        shadow: float = 0.25,
    ) -> None:
        """Paint an ellipsoid.

        Args:
            centre: its middle.
            up: unit direction of its long axis.
            semi: half length along it, half width.
            surface: colour from the normal: along `up`, to the right of `up`, towards the viewer.
            piece: its number.
            shadow: how much it darkens what lies right beside it.
        """
        reach = max(semi) + 3
        grid = self._grid(centre - reach, centre + reach)
        if grid is None:
            return
        rows, columns, x, y = grid
        ux, uy = float(up[0]), float(up[1])
        x, y = x - np.float32(centre[0]), y - np.float32(centre[1])
        u = (x * np.float32(ux) + y * np.float32(uy)) / np.float32(semi[0])  # [h, w]
        v = (y * np.float32(ux) - x * np.float32(uy)) / np.float32(semi[1])  # [h, w]
        radius = np.sqrt(u * u + v * v)
        inside = (1 - radius) * np.float32(min(semi))
        nz = np.sqrt(np.maximum(1 - radius * radius, 0))
        lx, ly, lz = self.light
        lit = u * np.float32(ux * lx + uy * ly) + v * np.float32(ux * ly - uy * lx) + nz * np.float32(lz)
        self._lay(rows, columns, inside, surface(u, v, nz), lit, 0.15, piece, shadow)

    def darken(self, centre: Point, semi: tuple[float, float], strength: float) -> None:
        """A soft shadow on the ground: an upright ellipse with half axes (x, y)."""
        reach = np.asarray(semi) * 1.6
        grid = self._grid(centre - reach, centre + reach)
        if grid is None:
            return
        rows, columns, x, y = grid
        square = ((x - np.float32(centre[0])) / np.float32(semi[0])) ** 2
        square = square + ((y - np.float32(centre[1])) / np.float32(semi[1])) ** 2  # [h, w]
        self.image[:, rows, columns] *= 1 - np.float32(strength) * np.exp(-1.5 * square)

    def _grid(self, low: Point, high: Point) -> tuple[slice, slice, Plane, Plane] | None:
        height, width = self.piece.shape
        x0, y0 = max(int(low[0]), 0), max(int(low[1]), 0)
        x1, y1 = min(int(high[0]) + 2, width), min(int(high[1]) + 2, height)
        if x0 >= x1 or y0 >= y1:
            return None
        x = np.arange(x0, x1, dtype=np.float32)[None, :]
        return slice(y0, y1), slice(x0, x1), x, np.arange(y0, y1, dtype=np.float32)[:, None]

    def _lay(
        self,
        rows: slice,
        columns: slice,
        inside: Plane,
        color: Plane,
        lit: Plane,
        gloss: float,
        piece: int,
        shadow: float,
    ) -> None:
        view = self.image[:, rows, columns]  # [3, h, w]
        lit = np.maximum(lit, 0)
        bright = lit * np.float32(0.6) + np.float32(0.5)
        if gloss:
            bright += np.float32(gloss) * np.square(np.square(np.square(lit)))
        bright *= self.grain[rows, columns]
        cover = np.clip(inside + np.float32(0.5), 0, 1)  # [h, w]
        if shadow:
            near = np.clip(inside * np.float32(0.3) + 1, 0, 1)  # [h, w]: 1 at the outline, 0 about 3 pixels away
            view *= 1 - np.float32(shadow) * near * near
        view += cover * (color * bright - view)
        mask = inside >= 0
        self.piece[rows, columns][mask] = piece
        self.silhouette[rows, columns] |= mask
