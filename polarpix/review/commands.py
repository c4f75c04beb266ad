"""What `polarpix explain` and `polarpix compare` do. Heavy imports happen inside, as in :mod:`polarpix.commands`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from polarpix.errors import InputError

__all__ = ["compare", "explain"]


def explain(
    weights: str,
    source: list[str],
    boxes: str = "",
    category: int | None = None,
    threshold: float = 0.02,
    pictures: int = 2,
    config: str = "",
    out: str = "explain.html",
    device: str = "auto",
    options: Sequence[str] = (),
) -> int:
    """Show what the gates of every attention block do with a picture, and flag those that are constant: one HTML page.

    Args:
        weights: weights/best.safetensors, a run folder, a model's name (default body); a .pth with --config.
        source: images, folders or globs.
        boxes: x,y,width,height in pixels for every image, or a COCO detection JSON; by default the whole image.
        category: the category_id of the detections to take, where the JSON holds several.
        threshold: a gate whose largest and smallest value are less than this apart is called constant.
        pictures: of so many the gates are drawn; the figures are of all.
        config: a page to predict by instead of the one inside the weights file.
        out: the page that is written.
        device: auto, cpu, cuda, cuda:1, ...
    """
    from polarpix.engine.evaluate import conditions
    from polarpix.images import check_place
    from polarpix.predict import PosePredictor, load
    from polarpix.report_files import write_html
    from polarpix.review.explain import explain as look_inside
    from polarpix.review.explain import views
    from polarpix.review.explain_page import explain_report, summary_lines

    if not 0 < threshold < 1:
        raise InputError(f"--threshold is {threshold:g}: give a spread between 0 and 1, such as 0.02")
    if pictures < 0:
        raise InputError(f"--pictures is {pictures}: give 0 or more")
    page = Path(out)
    check_place(page)
    predictor = load(weights, device, options, config)
    if isinstance(predictor, PosePredictor) and not boxes and not predictor.run.data.whole_image:
        warnings.warn("no --boxes: whole images are shown, though the network learned from boxes", stacklevel=1)
    blocks, kept, count = look_inside(predictor, views(predictor, source, boxes, category), pictures)
    facts = {"command": " ".join(["polarpix", *sys.argv[1:]]), "weights": weights, **conditions()}
    write_html(explain_report(blocks, kept, count, threshold, predictor.run.name, facts), page)
    flat = sum(bool(block.constant(threshold)) for block in blocks)
    print("\n".join(summary_lines(blocks, count, threshold)))
    print(f"{flat} of {len(blocks)} blocks have a constant gate\npage: {page}")
    return 0


def compare(runs: list[str], split: str = "", out: str = "compare.html") -> int:
    """Put evaluated runs side by side: metrics, protocols, pages, costs, classes or keypoints, curves, pictures.

    Args:
        runs: run folders, folders of an evaluation, record.json files, models' names; differences are to the first.
        split: which evaluation of a run folder to take, val or test; by default test where all have it, else val.
        out: the page that is written.
    """
    from polarpix.images import check_place
    from polarpix.report_files import write_html
    from polarpix.review.compare import compare_report, terminal_lines, warning
    from polarpix.review.runs import find_runs

    page = Path(out)
    check_place(page)
    found = find_runs(runs, split)
    write_html(compare_report(found, " ".join(["polarpix", *sys.argv[1:]])), page)
    print("\n".join(terminal_lines(found)))
    told = warning(found)
    if told:
        red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
        print(f"{red}polarpix: warning: {told}{plain}", file=sys.stderr)
    print(f"page: {page}")
    return 0
