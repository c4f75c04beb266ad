"""What each command of ``polarpix data`` does. Heavy imports happen inside, as in :mod:`polarpix.commands`."""

from __future__ import annotations

__all__ = ["check", "convert", "sigmas"]


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
        path: a page (.yaml), a COCO keypoint file (.json), or a folder in the layout of COCO, VOC, Cityscapes, CamVid or
            plain folders.
        format: coco, voc, voc_aug, cityscapes, camvid or folder; by default it is found out by looking.
        images: folder of the images of a COCO file, where they are not beside it.
        json: FILE.json for the findings.
        html: FILE.html for a page with the worst cases as pictures.
        workers: processes that read files; 0 for one per core.
    """
    from polarpix.doctor.check import check as look_at
    from polarpix.doctor.check import told, write_record
    from polarpix.images import check_place

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


def sigmas() -> int:
    return 0


def convert() -> int:
    return 0
