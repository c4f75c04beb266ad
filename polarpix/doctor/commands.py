"""What each command of ``polarpix data`` does. Heavy imports happen inside, as in :mod:`polarpix.commands`."""

from __future__ import annotations

from pathlib import Path

from polarpix.errors import InputError

__all__ = ["check", "convert", "sigmas", "split"]


def check(
    path: str,
    format: str = "",
    images: str = "",
    json: str = "",
    html: str = "",
    workers: int = 0,
) -> int:
    """Look for silent faults of a data set; status 0 clean, 1 findings, 2 cannot be read.

    Args:
        path: a page (.yaml), a COCO keypoint file (.json), or a folder in the layout of COCO, VOC, Cityscapes, CamVid
            or plain folders.
        format: coco, voc, voc_aug, cityscapes, camvid or folder; by default it is found out by looking.
        images: folder of the images of a COCO file, where they are not beside it.
        json: FILE.json for the findings.
        html: FILE.html for a page with the worst cases as pictures.
        workers: processes that read files; 0 for one per core.
    """
    from polarpix.doctor.check import check as look_at
    from polarpix.doctor.check import told, write_record
    from polarpix.images import check_place

    if workers < 0:
        raise InputError(f"--workers {workers}: give at least 1, or 0 for one per core")
    for file in filter(None, (json, html)):
        check_place(file)
    result = look_at(path, format, images, workers or None)
    print(told(result))
    if json:
        write_record(result, json)
    if html:
        from polarpix.doctor.page import write_page

        write_page(result, html)
        print(html)
    return 1 if result.found.serious() else 0


def sigmas(files: list[str], out: str = "sigmas.yaml", schema: str = "") -> int:
    """Estimate OKS sigmas from repeated annotations of the same instances; writes a schema file for training.

    Args:
        files: COCO keypoint files, at least two, one of each annotator or round.
        out: FILE.yaml for the schema.
        schema: a schema file with names, mirror pairs and skeleton; by default those of the first file.
    """
    from polarpix.doctor.sigmas import FEWEST, estimate_files, sigma_schema
    from polarpix.images import check_place
    from polarpix.pose.schema import save_schema

    check_place(out)
    found, known, instances = estimate_files(files, schema)
    width = max(len(one.name) for one in found)
    print(f"{instances:,} instances annotated repeatedly")
    print(f"{'keypoint':<{width}}   sigma  95% interval     instances   pairs")
    for one in found:
        interval = f"{one.low:.4f} .. {one.high:.4f}"
        print(f"{one.name:<{width}}  {one.value:.4f}  {interval}  {one.instances:>9,}  {one.pairs:>6,}")
    few = [one.name for one in found if one.instances < FEWEST]
    if few:
        print(f"fewer than {FEWEST} instances: {', '.join(few)}: the intervals are not to be trusted")
    save_schema(sigma_schema(known, found, instances), out)
    print(out)
    return 0


def convert(
    source: str,
    target: str,
    from_: str = "",
    to: str = "",
    images: str = "",
    split: str = "train",
    padding: str = "0.1",
    schema: str = "",
) -> int:
    """Convert annotations between COCO, DeepLabCut, YOLO-pose, LabelMe and CVAT, and COCO instances to masks.

    Args:
        source: the file; of YOLO its data.yaml, of LabelMe its folder.
        target: the file; for YOLO, LabelMe and masks a folder.
        from_: coco, dlc, yolo, labelme or cvat.
        to: coco, dlc, yolo, labelme, cvat or masks.
        images: folder of the images, which dlc, yolo and masks need.
        split: the split that is read from YOLO, or written for YOLO and masks.
        padding: around keypoints where a format has no boxes: a share of the longer side, or pixels as 20px.
        schema: a schema file with names, skeleton and category where a format has none.
    """
    from polarpix.doctor.convert import convert as run
    from polarpix.doctor.tables import Options

    table = run(source, target, from_, to, Options.of(images, split, padding, schema))
    print(f"{target}: {len(table['images']):,} images, {len(table['annotations']):,} annotations")
    return 0


def split(source: str, out: str = "", val: str = "0.1", how: str = "random", seed: int = 0) -> int:
    """Share the pictures of a set out to train and val: of a COCO keypoint file, or of folders of pictures and masks.

    Args:
        source: the COCO keypoint file, or a folder in the layout of CamVid, VOC or plain folders (images and labels,
            split or not), of which the pictures of train and val are shared out anew; it stays as it is.
        out: folder for train.json and val.json, by default the file's own; of masks the new folder, in the same layout.
        val: what is for val: a share, a number of pictures, or names with * and ?, several with commas between:
            'drive7*,drive9*'.
        how: random, or last: the pictures with the highest ids or the last names, for frames of a video, of which
            neighbours are alike.
        seed: of the random draw.
    """
    from polarpix.doctor.choose import Choice

    choice = Choice(val, how, seed)
    if Path(source).is_file() or Path(source).suffix == ".json":
        from polarpix.doctor.split import split_file
        from polarpix.pose.coco_json import read_page

        for path in split_file(source, out or Path(source).parent, choice):
            page = read_page(path)
            print(f"{path}: {len(page['images']):,} images, {len(page['annotations']):,} annotations")
        return 0
    from polarpix.doctor.mask_split import split_masks

    counts, linked = split_masks(source, out, choice)
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    print(f"{out}: {told} pictures ({'hard links to' if linked else 'copies of'} the files of {source})")
    return 0
