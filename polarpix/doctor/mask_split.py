"""`polarpix data split` of masks: a new root in the old one's layout, the pictures of train and val shared out anew."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from polarpix.config import SegDataConfig
from polarpix.doctor.choose import Choice
from polarpix.errors import InputError
from polarpix.images import IMAGE_SUFFIXES, check_place
from polarpix.seg.datasets import Files, build_seg_dataset, paired_files, voc_root

__all__ = ["split_masks"]

SHARED = ("train", "val")  # the splits that are shared out anew; every other one stays as it is
AUG_LISTS = ("trainaug", "train_aug")
VOC_PLACES = ("", "VOCdevkit/VOC2012", "VOC2012")


@dataclass
class Plan:
    """What a new root will hold.

    Args:
        counts: split -> its pictures.
        files: place below the new root -> the file that it is.
        texts: place below the new root -> what is written there.
    """

    counts: dict[str, int] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


def split_masks(source: str | Path, out: str | Path, choice: Choice) -> tuple[dict[str, int], bool]:
    """Write a set of masks whose pictures of train and val are shared out anew; every other split is as it was.

    The files of the new root are hard links where the file system has them, else copies; the old root stays as it is.
    The new root takes its name when it is whole; what was begun is removed, or, after a kill, lies in ``.NAME.part``.

    Args:
        source: a set in the layout of CamVid, VOC or plain folders, the latter also before any split.
        out: the new root.
        choice: which pictures are for validation.

    Returns:
        Split -> its pictures, and whether all files are hard links.

    Raises:
        InputError: no such set, a picture without label or the reverse, two of one name, a new root that is there
            already or lies in the old one, or as :meth:`Choice.held_out`.
    """
    source, out = Path(source), Path(out)
    if not source.is_dir():
        raise InputError(f"{source}: no such COCO keypoint file, nor a folder of pictures and masks: check the path")
    if not out.name:
        raise InputError("--out is missing: name the folder that the new set is to be")
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: is there already: name another --out, or remove it")
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{out}: lies in {source}, which stays as it is: name an --out outside it")
    check_place(out)
    plan = plan_split(source, choice)
    linked = True
    with whole_folder(out) as part:
        for place, file in tqdm(plan.files.items(), desc="writing", unit="file", disable=None, leave=False):
            linked &= link_or_copy(file, part / place)
        for place, text in plan.texts.items():
            (part / place).parent.mkdir(parents=True, exist_ok=True)
            (part / place).write_bytes(text)
    return plan.counts, linked


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder that becomes ``out`` at the end of the block, or is removed with all that is in it.

    Raises:
        InputError: another process is at it, or one was killed.
    """
    part = out.with_name(f".{out.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.mkdir()
    except FileExistsError:
        raise InputError(f"{part}: was left by a split that was killed, unless one is under way: remove it") from None
    try:
        yield part
        part.rename(out)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError) and error.filename2:  # of two files it is the second that has no room
            error.filename = error.filename2
        raise


def link_or_copy(file: Path, target: Path) -> bool:
    """A hard link to a file, or to what a symlink leads to; where there can be none a copy. Whether it is a link.

    Raises:
        InputError: the file system takes two names for one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    file = file.resolve()
    if target.exists():
        raise InputError(f"{file}: another file has the same name but for upper and lower case: rename one")
    try:
        os.link(file, target)
    except OSError:  # another file system, one without links, or a file of somebody else
        shutil.copyfile(file, target)
        return False
    return True


def plan_split(source: Path, choice: Choice) -> Plan:
    """What the new root of a set holds.

    Raises:
        InputError: as :func:`split_masks`.
    """
    for is_laid_out, plan in LAYOUTS.values():
        if is_laid_out(source):
            return plan(source, choice)
    raise InputError(
        f"{source}: folder is laid out as none of VOC (JPEGImages), CamVid (<split> beside <split>annot) and plain "
        "folders (images, labels): see docs/data.md; of keypoints name the JSON file"
    )


def camvid(root: Path, choice: Choice) -> Plan:
    """<split>/ beside <split>annot/."""
    splits = [path.name for path in folders(root) if path.name == "test" or (root / f"{path.name}annot").is_dir()]
    pairs = {split: (root / split, root / f"{split}annot") for split in splits}
    places = {split: (split, f"{split}annot") for split in (*SHARED, *splits)}
    return of_folders(root, pairs, places, choice)


def plain_folders(root: Path, choice: Choice) -> Plan:
    """images/<split>/ and labels/<split>/, or images/ and labels/ without splits."""
    images, labels = root / "images", root / "labels"
    splits = sorted({path.name for path in (*folders(images), *folders(labels))})
    loose = [path for path in sorted(images.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if splits and loose:
        raise InputError(f"{loose[0]}: lies beside the folders of the splits ({', '.join(splits)}): move it into one")
    pairs = {split: (images / split, labels / split) for split in splits} or {"": (images, labels)}
    places = {split: (f"images/{split}", f"labels/{split}") for split in (*SHARED, *splits)}
    plan = of_folders(root, pairs, places, choice)
    if (root / "classes.yaml").is_file():  # which `polarpix data convert` writes
        plan.texts["classes.yaml"] = (root / "classes.yaml").read_bytes()
    return plan


def of_folders(
    root: Path, pairs: dict[str, tuple[Path, Path]], places: dict[str, tuple[str, str]], choice: Choice
) -> Plan:
    """A plan for splits that are folders.

    Args:
        root: named in errors.
        pairs: split -> its folders of images and of labels.
        places: split -> what these are called below the new root.
        choice: which pictures are for validation.
    """
    shared, others = [split for split in SHARED if split in pairs], [split for split in pairs if split != "test"]
    if not shared and len(others) == 1:
        shared = others
    if not shared:
        raise InputError(
            f"{root}: has the splits {', '.join(pairs)}, none called train or val: rename the one to share"
        )
    pool: dict[str, tuple[Path, Path]] = {}
    for split in shared:
        for folder in pairs[split]:
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder, but it has a partner: add it or remove that one")
        if not any(visible(folder) for folder in pairs[split]):
            continue  # made for the pictures that are to come
        for image, label in paired_files(*pairs[split]):
            other = pool.setdefault(image.stem, (image, label))[0]
            if other != image:
                raise InputError(f"{image}: {other} has the same name, and both may come into one split: rename one")
    plan, ordered = Plan(), [pool[stem] for stem in sorted(pool)]
    for split, members in zip(SHARED, apart(ordered, choice, root), strict=True):
        plan.counts[split] = len(members)
        for pair in members:
            plan.files |= {f"{place}/{file.name}": file for place, file in zip(places[split], pair, strict=True)}
    for split in (one for one in pairs if one not in shared):
        for place, folder in zip(places[split], pairs[split], strict=True):
            files = [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
            plan.files |= {f"{place}/{file.name}": file for file in files}
        plan.counts[split] = sum(file.suffix.lower() in IMAGE_SUFFIXES for file in pairs[split][0].glob("*"))
    return plan


def apart(pairs: Files, choice: Choice, root: Path) -> tuple[Files, Files]:
    """Pairs of picture and label for training and for validation; warns where neighbours are alike."""
    held = choice.held_out([image.name for image, _ in pairs], root)
    choice.warn_of_neighbours([image for image, _ in pairs], root)
    parts = [[pair for i, pair in enumerate(pairs) if (i in held) is inside] for inside in (False, True)]
    return parts[0], parts[1]


def voc(root: Path, choice: Choice) -> Plan:
    """JPEGImages, SegmentationClass and new lists; with the extra labels, trainaug.txt and SegmentationClassAug too."""
    root = voc_root(root)
    names = sorted(path.stem for path in (root / "ImageSets" / "Segmentation").glob("*.txt"))
    shared = [split for split in SHARED if split in names] if "train" in names else ["trainval"]
    pool = dict(pair for split in shared for pair in listed(root, split))
    train, val = apart(sorted(pool.items()), choice, root)
    lists = {"train": stems(root, train), "val": stems(root, val)}
    plan = Plan({split: len(members) for split, members in lists.items()})
    for image, label in pool.items():
        plan.files |= {file.relative_to(root).as_posix(): file for file in (image, label)}
    for split in (one for one in names if one not in (*SHARED, *AUG_LISTS)):
        if split == "trainval":
            lists[split] = stems(root, sorted(pool.items()))
            continue
        pairs = listed(root, split)
        if any(image in pool for image, _ in pairs):
            warnings.warn(f"{root}: {split}.txt is left out, it holds pictures of train or val", stacklevel=2)
            continue
        lists[split] = stems(root, pairs)
        plan.counts[split] = len(pairs)
        for file in (file for pair in pairs for file in pair if file.is_file()):
            plan.files[file.relative_to(root).as_posix()] = file
    for split in (one for one in AUG_LISTS if one in names):
        lists[split] = augmented(root, split, lists, choice, plan)
    plan.texts = {
        f"ImageSets/Segmentation/{name}.txt": "".join(f"{stem}\n" for stem in one).encode()
        for name, one in lists.items()
    }
    return plan


def augmented(root: Path, split: str, lists: dict[str, list[str]], choice: Choice, plan: Plan) -> list[str]:
    """The list of the pictures with extra labels: those it had and the new train, without what is held out.

    A picture that has no label in SegmentationClass cannot validate; where a pattern is of its name it is left out.
    """
    old = stems(root, build_seg_dataset(SegDataConfig(format="voc_aug", root=str(root)), split).files)
    official = {*lists["train"], *lists["val"]}
    matched = {stem for stem in old if stem not in official and choice.matches(stem)}
    if matched:
        warnings.warn(
            f"{root}: {len(matched)} pictures of {split}.txt are of the pattern {choice.val!r} but have no label in "
            "SegmentationClass: they are left out",
            stacklevel=2,
        )
    held = matched | {*lists["val"]}
    found = [stem for stem in dict.fromkeys([*old, *lists["train"]]) if stem not in held]
    for stem in found:
        label = root / "SegmentationClassAug" / f"{stem}.png"
        if not label.is_file():
            label = root / "SegmentationClass" / f"{stem}.png"
        plan.files[f"JPEGImages/{stem}.jpg"] = root / "JPEGImages" / f"{stem}.jpg"
        plan.files[f"SegmentationClassAug/{stem}.png"] = label
    plan.counts[split] = len(found)
    return found


def listed(root: Path, split: str) -> Files:
    """The pairs of a list of VOC's."""
    return build_seg_dataset(SegDataConfig(format="voc", root=str(root)), split).files


def stems(root: Path, pairs: Iterable[tuple[Path, Path]]) -> list[str]:
    """What the lists of VOC call pictures."""
    return [image.relative_to(root / "JPEGImages").as_posix().removesuffix(".jpg") for image, _ in pairs]


def cityscapes(root: Path, choice: Choice) -> Plan:
    """Refused."""
    raise InputError(f"{root}: is laid out as Cityscapes, whose splits are official and by city: take them as they are")


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, but for hidden files."""
    return [one for one in folder.iterdir() if not one.name.startswith(".")]


def folders(path: Path) -> list[Path]:
    """The folders in a folder, by name."""
    return sorted(one for one in visible(path) if one.is_dir())


# Layout -> whether a folder has it, and what plans for it, in the order in which they are tried.
LAYOUTS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, Choice], Plan]]] = {
    "voc": (lambda root: any((root / sub / "JPEGImages").is_dir() for sub in VOC_PLACES), voc),
    "cityscapes": (lambda root: (root / "leftImg8bit").is_dir(), cityscapes),
    "camvid": (lambda root: any((root / f"{path.name}annot").is_dir() for path in folders(root)), camvid),
    "folder": (lambda root: (root / "images").is_dir() and (root / "labels").is_dir(), plain_folders),
}
