"""What surrounds the figures: textured backgrounds, clutter that looks like limbs, occluders, light and the camera."""

from __future__ import annotations

import cv2
import numpy as np

from polarpix.demo.paint import Canvas, Cloth, Plane, Surface, planes, random_color
from polarpix.types import UInt8Array

__all__ = ["blank_canvas", "expose", "paint_clutter", "paint_occluders"]


def _field(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Plane:
    """Smooth noise [H, W] in about -1..1 with so many bumps along the shorter side."""
    height, width = size
    unit = min(size) / cells
    smooth = cv2.INTER_CUBIC if cells < 10 else cv2.INTER_LINEAR
    coarse = rng.uniform(-1, 1, (max(2, round(height / unit)) + 1, max(2, round(width / unit)) + 1))
    return np.asarray(cv2.resize(coarse.astype(np.float32), (width, height), interpolation=smooth), np.float32)


def blank_canvas(rng: np.random.Generator, size: tuple[int, int]) -> Canvas:
    """A canvas [H, W] with a wall or sky above, a floor below, both uneven and patterned."""
    height, width = size
    unit = min(size)
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    horizon = height * rng.uniform(0.45, 0.8) + (x - width / 2) * np.float32(rng.normal(0, 0.05))
    floor = np.clip((y - horizon) / np.float32(0.006 * unit + 0.5) + 0.5, 0, 1)  # [H, W]
    image = np.zeros((3, height, width), np.float32)
    for share in (1 - floor, floor):
        cloth = Cloth.random(rng, rng.uniform(0.05, 0.3) * unit)
        angle = rng.uniform(0, np.pi)
        u = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
        v = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
        calm, grey = np.float32(rng.uniform(0.15, 0.6)), np.float32(rng.uniform(0.2, 0.8))
        plain = planes(cloth.first)
        color = plain + calm * (cloth.paint(u, v) - plain)
        image += share * (color + grey * (color.mean(axis=0) - color))  # walls and floors are duller than clothes
    uneven = 1 + sum(np.float32(strength) * _field(rng, size, n) for n, strength in ((3, 0.22), (9, 0.12), (28, 0.08)))
    image *= uneven
    tilt, raise_ = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8)
    light = (
        float(np.sqrt(1 - raise_**2) * np.cos(tilt)),
        float(-np.sqrt(1 - raise_**2) * abs(np.sin(tilt))),  # light comes from above
        float(raise_),
    )
    grain = 1 + 0.05 * _field(rng, size, 40) + 0.05 * _field(rng, size, 7)
    return Canvas(image, light, grain.astype(np.float32))


def _bar(rng: np.random.Generator, canvas: Canvas, centre: tuple[float, float], length: float, width: float) -> None:
    angle = rng.uniform(0, np.pi)
    half = 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
    middle = np.asarray(centre)
    cap = width * rng.uniform(0.1, 1) if rng.random() < 0.5 else None
    radii = (width, width * rng.uniform(0.5, 1.2), width * rng.uniform(0, 0.2))
    canvas.solid(middle - half, middle + half, radii, Cloth.random(rng, width), cap=cap, shadow=0.2)


def _wrapped(cloth: Cloth, radius: float) -> Surface:
    def surface(u: Plane, v: Plane, nz: Plane) -> Plane:
        return cloth.paint(u * np.float32(radius), v * np.float32(radius))

    return surface


def paint_clutter(rng: np.random.Generator, canvas: Canvas) -> None:
    """Boxes, balls, wires, and bars as thick, shaded and dressed as limbs: what a detector of edges would fall for."""
    height, width = canvas.piece.shape
    unit = min(height, width)
    for _ in range(rng.integers(4, 13)):
        centre = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
        kind = rng.random()
        if kind < 0.5:  # limbs of nobody
            _bar(rng, canvas, centre, unit * rng.uniform(0.08, 0.35), unit * rng.uniform(0.012, 0.05))
        elif kind < 0.7:  # boxes
            _bar(rng, canvas, centre, unit * rng.uniform(0.05, 0.3), unit * rng.uniform(0.05, 0.14))
        elif kind < 0.85:  # balls
            radius = unit * rng.uniform(0.03, 0.1)
            surface = _wrapped(Cloth.random(rng, unit * 0.05), radius)
            canvas.ball(np.asarray(centre), np.array([0.0, -1.0]), (radius, radius * rng.uniform(0.7, 1)), surface)
        else:  # wires, in short pieces, since a slanting piece costs its bounding box
            angle, thin, cloth = rng.uniform(0, np.pi), unit * rng.uniform(0.003, 0.008), Cloth(random_color(rng))
            step = unit * rng.uniform(0.06, 0.14) * np.array([np.cos(angle), np.sin(angle)])
            for n in range(-5, 5):
                start = np.asarray(centre) + n * step
                canvas.solid(start, start + step, (thin, thin, 0.0), cloth, shadow=0)


def paint_occluders(rng: np.random.Generator, canvas: Canvas) -> None:
    """In four of ten pictures something stands in front: a pole, a rail, a bush of leaves or a box."""
    if rng.random() > 0.4:
        return
    height, width = canvas.piece.shape
    unit = min(height, width)
    kind = rng.integers(4)
    cloth = Cloth.random(rng, unit * 0.08)
    x, y = float(rng.uniform(0.1, 0.9) * width), float(rng.uniform(0.55, 0.95) * height)
    thick = unit * rng.uniform(0.015, 0.04)
    if kind == 0:  # pole
        lean = rng.normal(0, 0.05) * height
        canvas.solid(np.array([x, -10.0]), np.array([x + lean, height + 10.0]), (thick, thick, 0.0), cloth)
    elif kind == 1:  # rail
        lean = rng.normal(0, 0.05) * width
        canvas.solid(np.array([-10.0, y]), np.array([width + 10.0, y + lean]), (thick, thick, 0.0), cloth)
    elif kind == 2:  # leaves
        green = rng.uniform(0.3, 0.7)
        for _ in range(rng.integers(6, 16)):
            angle, long = rng.uniform(-2.6, -0.5), unit * rng.uniform(0.1, 0.3)
            root = np.array([x + rng.normal(0, 0.05) * unit, height + 4.0])
            tip = root + long * np.array([np.cos(angle), np.sin(angle)])
            leaf = Cloth((green * rng.uniform(0.2, 0.7), green * rng.uniform(0.8, 1.2), green * rng.uniform(0.1, 0.5)))
            canvas.solid(root, tip, (thick * 0.5, thick * 0.1, thick * 0.5), leaf)
    else:  # box
        side = unit * rng.uniform(0.06, 0.12)
        foot = np.array([x, height + side * 0.2])
        canvas.solid(foot - (0, side * rng.uniform(1, 2.2)), foot, (side, side, 0.0), cloth, cap=side * 0.15)


def expose(rng: np.random.Generator, image: Plane) -> UInt8Array:
    """The camera: uneven light, tint, contrast, a little blur, noise. float [3, H, W] in 0..1 to uint8 [H, W, 3]."""
    size = (image.shape[1], image.shape[2])
    gloom = 1 + np.float32(0.25) * _field(rng, size, 1)
    tint = rng.normal(1, 0.05, 3) * rng.uniform(0.85, 1.15) * 255
    image = image * tint.astype(np.float32).reshape(3, 1, 1) * gloom
    image += rng.standard_normal(size, np.float32) * np.float32(rng.uniform(1, 7))
    out = np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    if rng.random() < 0.35:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), rng.uniform(0.3, 0.8) * min(size) / 192), np.uint8)
    return out
