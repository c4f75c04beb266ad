"""The page of `polarpix explain`: strips and heat maps of the gates, their figures, and which do nothing."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from polarpix.gates import GateSpread
from polarpix.report import Report, Section, Share, Table, Value
from polarpix.review.explain import BlockGates, View
from polarpix.sheet import PAPER
from polarpix.types import UInt8Array

__all__ = ["explain_report", "gate_picture", "short_names", "summary_lines"]

WIDE = 280  # pixels of a picture on the page
STRIP = 44  # height of the channel strip
RELEASED = (
    "The spatial gate of the released forms is nearly constant by construction and no fault of the training: it is a "
    "sigmoid over a softmax along all pixels (parallel: between 0.5 and 0.73, and 0.5 + 1/4P for an even map of P "
    "pixels; sequential: a weighted sum of such softmaxes)."
)


def explain_report(
    blocks: Sequence[BlockGates],
    kept: Sequence[View],
    count: int,
    threshold: float,
    title: str,
    facts: dict[str, Value],
) -> Report:
    """The whole page.

    Args:
        blocks: with their gates.
        kept: views whose gates are drawn.
        count: views that the figures are of.
        threshold: spread below which a gate is called constant.
        title: the network's name.
        facts: what the page depends on.
    """
    flat = [block for block in blocks if block.constant(threshold)]
    names = short_names([block.name for block in blocks])
    kinds = {block.kind for block in blocks}
    same = f" All blocks have the form {blocks[0].kind}." if len(kinds) == 1 else ""
    sections = [
        Section(
            "Which gates are constant",
            "\n\n".join(summary_lines(blocks, count, threshold)),
            alert=f"{len(flat)} of {len(blocks)} blocks have a constant gate." if flat else "",
        ),
        Section(
            "Block by block",
            f"Smallest and largest value of each gate, its standard deviation, the share of values within 0.01 of 0 or "
            f"1 (saturated) and within 0.02 of 0.5 (undecided). {same}{_of(count)}",
            table=_table(blocks, names, threshold),
        ),
    ]
    for i, view in enumerate(kept):
        pictures = [
            (_caption(block, name, i, threshold), gate_picture(view.image, block.heats[i], block.strips[i], threshold))
            for block, name in zip(blocks, names, strict=True)
        ]
        sections.append(
            Section(
                view.name,
                "Spatial gate as heat over the picture, from blue (its smallest value) to red (its largest); a "
                "constant one is one colour. Below it the channel gate, its values sorted from largest to smallest, "
                "on a scale from 0 to 1 with a line at 0.5."
                if i == 0
                else "",
                pictures=[("what the network sees", _fitted(view.image)), *pictures],
            )
        )
    return Report(
        title=f"Gates of {title}",
        subtitle="What every polarized self-attention of the network does with "
        + ("one picture or crop." if count == 1 else f"{count} pictures or crops."),
        summary=[
            ("blocks", len(blocks)),
            ("constant channel gates", sum("channel" in block.constant(threshold) for block in blocks)),
            ("constant spatial gates", sum("spatial" in block.constant(threshold) for block in blocks)),
            ("constant below a spread of", f"{threshold:g}"),
        ],
        sections=sections,
        conditions=facts,
    )


def summary_lines(blocks: Sequence[BlockGates], count: int, threshold: float) -> list[str]:
    """In words: how many blocks have a constant gate, which, and what that means."""
    lines = [
        "A gate is called constant if its largest and its smallest value are less than "
        f"{threshold:g} apart{'' if count == 1 else f' in each of the {count} inputs'}: it then scales all channels, "
        "or all pixels, alike, which the next layer could do as well."
    ]
    names = dict(zip((block.name for block in blocks), short_names([block.name for block in blocks]), strict=True))
    for word in ("channel", "spatial"):
        having = [block for block in blocks if (block.channel if word == "channel" else block.spatial)]
        named = [names[block.name] for block in having if word in block.constant(threshold)]
        if not having:
            lines.append(f"No block has a {word} gate.")
        elif named:
            lines.append(
                f"{word.capitalize()} gate constant in {len(named)} of {len(having)} blocks: {', '.join(named)}."
            )
        else:
            lines.append(f"{word.capitalize()} gate constant in none of {len(having)} blocks.")
    if any(block.flat for block in blocks):
        lines.append(RELEASED)
    return lines


def short_names(names: Sequence[str]) -> list[str]:
    """Names of modules without the parts that all begin and end with; at least one part is left."""
    parts = [name.split(".") for name in names]
    shortest = min(map(len, parts))
    first = last = 0
    if len(names) > 1:
        while first < shortest - 1 and len({one[first] for one in parts}) == 1:
            first += 1
        while last < shortest - 1 - first and len({one[-1 - last] for one in parts}) == 1:
            last += 1
    return [".".join(one[first : len(one) - last]) for one in parts]


def gate_picture(
    image: UInt8Array,
    heat: npt.NDArray[np.float32] | None,
    strip: npt.NDArray[np.float32] | None,
    threshold: float,
) -> UInt8Array:
    """The spatial gate [h, w] over the picture [H, W, 3], above the sorted channel gate [C]; either may be missing."""
    picture = _fitted(image)
    height, width = picture.shape[:2]
    if heat is not None:
        low, spread = float(heat.min()), float(heat.max() - heat.min())
        if spread < threshold:  # stretched to its own spread, noise would look like a pattern
            low, spread = float(heat.mean()) - threshold * 5, threshold * 10
        level = np.clip((heat - low) / max(spread, 1e-12), 0, 1).astype(np.float32)
        smooth = cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR)
        glow = cv2.applyColorMap(np.rint(np.nan_to_num(smooth) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
        grey = picture.mean(axis=2, keepdims=True)  # the colours are the gate's alone
        picture = np.asarray(np.rint(grey * 0.45 + glow * 0.55), np.uint8)
    if strip is None:
        return picture
    ordered = np.sort(np.nan_to_num(strip))[::-1]
    bars = ordered[np.arange(width) * len(ordered) // width]  # [W]
    up = (STRIP - 1 - np.arange(STRIP))[:, None] / (STRIP - 1)  # 1 on top
    plot = np.where(
        (up <= bars[None])[..., None], np.array((37, 99, 235), np.uint8), np.array((226, 232, 240), np.uint8)
    )
    plot[STRIP // 2, ::4] = (90, 98, 112)
    gap = np.full((4, width, 3), PAPER, np.uint8)
    return np.concatenate([picture, gap, plot.astype(np.uint8)])


def _fitted(image: UInt8Array) -> UInt8Array:
    """The picture at the width of the page's grid, and not much higher than wide."""
    height, width = image.shape[:2]
    factor = min(WIDE / width, 1.4 * WIDE / height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)


def _of(count: int) -> str:
    return "" if count == 1 else f" Means over the {count} inputs, but smallest and largest of them all."


def _row(spreads: Sequence[GateSpread]) -> list[Value]:
    if not spreads:
        return [None] * 4
    n = len(spreads)
    return [
        f"{min(one.low for one in spreads):.3f}\u00a0..\u00a0{max(one.high for one in spreads):.3f}",
        f"{sum(one.std for one in spreads) / n:.3f}",
        Share(sum(one.saturated for one in spreads) / n),
        Share(sum(one.undecided for one in spreads) / n),
    ]


def _table(blocks: Sequence[BlockGates], names: Sequence[str], threshold: float) -> Table:
    """One row per block; the columns of a gate that no block has are left out."""
    mixed = len({block.kind for block in blocks}) > 1
    headers, wanted = ["block", "C", *(["form"] if mixed else [])], []
    for word in ("channel", "spatial"):
        if any(block.channel if word == "channel" else block.spatial for block in blocks):
            headers += [f"{word} gate", "std", "saturated", "undecided"]
            wanted.append(word)
    rows: list[list[Value]] = []
    for block, name in zip(blocks, names, strict=True):
        cells: list[Value] = [name, block.channels, *([block.kind] if mixed else [])]
        for word in wanted:
            cells += _row(block.channel if word == "channel" else block.spatial)
        flat = block.constant(threshold)
        rows.append([*cells, "both" if len(flat) == 2 else "".join(flat)])
    return Table([*headers, "constant"], rows)


def _caption(block: BlockGates, name: str, i: int, threshold: float) -> str:
    parts = [name]
    for word, spreads in (("channel", block.channel), ("spatial", block.spatial)):
        if not spreads:
            parts.append(f"no {word} gate")
            continue
        one = spreads[i]
        flag = " CONSTANT" if one.is_constant(threshold) else ""
        parts.append(f"{word}\u00a0{one.low:.3f}\u00a0..\u00a0{one.high:.3f}{flag}")
    return " · ".join(parts)
