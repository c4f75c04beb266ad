"""README and docs: the Python runs, the commands parse, the pages load, and what is named is there."""

import copy
import functools
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from polarpix.attention import ATTENTION
from polarpix.backbones import SITES
from polarpix.cli import COMMANDS, GROUPS, run
from polarpix.demo.figures import FIGURE_CLASSES
from polarpix.engine.artifact import save_artifact
from polarpix.engine.optim import SCHEDULES
from polarpix.images import read_image, read_label, write_image, write_label
from polarpix.pages import RUNS, make_run
from polarpix.pose.codec import CODECS
from polarpix.pose.model import build_pose_model
from polarpix.pose.schema import load_schema
from polarpix.seg.datasets import SEG_DATASETS
from polarpix.seg.model import build_seg_model
from polarpix.types import ClassTable, KeypointSchema

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLES: list[dict[Any, Any]] = [
    ATTENTION,
    SITES,
    COMMANDS,
    SCHEDULES,
    CODECS,
    SEG_DATASETS,
]  # what docs/adding.md adds to
BACKBONE = {"name": "test_resnet", "attention": "psa_p"}
# What a fenced block may be, and how it is held to the truth.
LANGUAGES = {
    "python": "run by test_python_runs",
    "sh": "each line run or of a kind below",
    "yaml": "built by test_yaml_is_a_page_or_a_schema",
    "json": "what a command writes or reads, for looking at",
    "text": "folders, for looking at",
    "bibtex": "the paper",
    "{toctree}": "held by Sphinx, whose warnings are errors",
    "{eval-rst}": "as above",
}
# Programs of shell lines that are not run, and why.
OTHER_PROGRAMS = {
    "make": "makes an environment and runs everything; its targets are looked up",
    "python3": "makes an environment",
    "pip": "installs over the network",
    "python": "runs these very tests",
    "pre-commit": "changes the checkout",
    "curl": "asks a server; tests/web asks the same",
    "ray": "starts a cluster",
    "torchrun": "starts processes on several machines",
    "srun": "as above",
}
# Command lines that are held against the parser, the page and its keys, but not run, and why.
ONLY_PARSED = {
    r"(train(?!.*--print-config)|eval|calibrate|bench|demo)\b": "takes long, or a data set; its own tests run it",
    r"models\b": "builds every network of every page; tests/test_cli.py runs it",
    r".*(\bbody\b|\bstreet\b)": "takes the models in the box; tests/test_zoo.py runs it",
    r"compare\b": "takes evaluated runs; tests/review/test_compare.py runs it",
    r"serve\b": "runs until it is stopped; tests/web runs it",
    r"(export\b|.*\.(onnx|pt2|xml)\b)": "writes whole networks; tests/export and tests/runtime run it",
    r"data\b": "takes files of other programs; tests/doctor runs it",
    r"predict\b.*(--detector|--ray|\.mp4)": "takes what is not here; the tests of those parts run it",
    r".*\buser/": "takes the Hugging Face Hub; tests/hub runs it with another in its place",
}
RUN_ELSEWHERE = {"quickstart_train.md": "test_the_training_quick_start_runs"}


def blocks(text: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text.read_text(encoding="utf-8"), flags=re.M | re.S)


def named(texts: list[Path]) -> Any:
    return pytest.mark.parametrize("text", texts, ids=[str(text.relative_to(ROOT)) for text in texts])


def shell_lines(text: Path) -> list[list[str]]:
    """The commands of a text's shell blocks, split into words, without the folder of the environment."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [[line[0].removeprefix(".venv/bin/"), *line[1:]] for line in words if line]


def yaml_blocks() -> dict[str, dict[str, Any]]:
    """The YAML blocks of all texts by the file name in their first line, else by place."""
    found = {}
    for text in TEXTS:
        for number, block in enumerate(blocks(text, "yaml")):
            name = re.match(r"# (\S+\.yaml)\n", block)
            found[name[1] if name else f"{text.name} {number}"] = yaml.safe_load(block)
    return found


def write_detections(folder: Path) -> None:
    """One detected box on photos/1.jpg."""
    box = [{"image_id": 1, "category_id": 1, "bbox": [20, 10, 40, 50], "score": 0.9}]
    (folder / "detections.json").write_text(json.dumps(box))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The working folder that the Python of the texts expects: two untrained runs and a photograph."""
    schema = KeypointSchema(("a", "b"), (), ((0, 1),), (0.05, 0.05), "test")
    pose = make_run(
        {
            "task": "pose",
            "name": "my_keypoints",
            "model": {"backbone": BACKBONE, "head_channels": [8, 8, 8], "input_size": [64, 64]},
        }
    )
    seg = make_run(
        {
            "task": "seg",
            "name": "my_masks",
            "model": {"backbone": {**BACKBONE, "output_stride": 16}, "aspp_channels": 8, "low_channels": 8},
        }
    )
    classes = ClassTable(("background", "leaf"), ((0, 0, 0), (0, 200, 0)))
    for page, network, labels in (
        (pose, build_pose_model(pose.model, 2), schema),  # type: ignore[arg-type]  # the task says which run it is
        (seg, build_seg_model(seg.model, 2), classes),  # type: ignore[arg-type]  # as above
    ):
        save_artifact(
            tmp_path / "runs" / page.task / page.name / "weights" / "best.safetensors",
            network.state_dict(),
            page,
            labels,
            {},
        )
    for name in ("photo.jpg", "photos/1.jpg", "more/2.png"):
        write_image(tmp_path / name, np.full((300, 240, 3), 120, np.uint8))
    write_detections(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    kept = [dict(table) for table in TABLES]
    yield
    for table, rows in zip(TABLES, kept, strict=True):
        table.clear()
        table.update(rows)


@named([text for text in TEXTS if blocks(text, "python")])
def test_python_runs(text: Path, runs: None) -> None:
    namespace: dict[str, Any] = {"__name__": "text"}
    for number, block in enumerate(blocks(text, "python"), start=1):
        exec(compile(block, f"{text.name}, block {number}", "exec"), namespace)


def check_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A polarpix command line: command, options, and the keys of the page it is for."""
    name = words[0]
    if name in ("--help", "--version"):
        return
    table = COMMANDS
    if name in GROUPS:
        table, name = dict(GROUPS[name][1]), words[1]
        monkeypatch.setitem(GROUPS, words[0], ("", table))
    assert name in table, f"no command {name}"
    calls: list[dict[str, Any]] = []

    @functools.wraps(table[name])
    def recorder(*positional: Any, **named: Any) -> int:
        calls.append(inspect.signature(recorder).bind(*positional, **named).arguments)
        return 0

    monkeypatch.setitem(table, name, recorder)
    assert run(words) == 0
    values = calls[0]
    if name in ("train", "accuracy"):
        pages = yaml_blocks()
        page = pages.get(values["config"]) or yaml.safe_load((ROOT / values["config"]).read_text())
        make_run(page, values["options"])
    elif name in ("eval", "predict", "explain") or (name == "export" and "weights" in values):
        parts = Path(values["weights"]).parts
        task = parts[1] if len(parts) == 3 else "seg" if parts == ("street",) else "pose"
        make_run({"task": task, "name": parts[-1]}, values["options"])


@named([text for text in TEXTS if text.name != "CHANGELOG.md"])
def test_every_block_is_of_a_kind(text: Path) -> None:
    """No block escapes: it is run, or it is of a kind that has a reason not to be."""
    fences = re.findall(r"^ *(```+|~~~+)(.*)$", text.read_text(encoding="utf-8"), flags=re.M)
    assert len(fences) % 2 == 0
    for i, (fence, language) in enumerate(fences):
        assert fence == "```", f"{fence}: three backticks, so that the tests see the block"
        assert language in (LANGUAGES if i % 2 == 0 else ("",)), f"a block of {language!r}: give it a row of LANGUAGES"
    assert len(fences) // 2 == sum(len(blocks(text, re.escape(language))) for language in LANGUAGES)
    for program, *_ in shell_lines(text):
        assert program == "polarpix" or program in OTHER_PROGRAMS, f"{program}: say why it is not run"


@named([text for text in TEXTS if shell_lines(text)])
def test_commands_run(text: Path, runs: None) -> None:
    """In the folder that the pages assume: runs of either task, pictures, boxes."""
    if text.name in RUN_ELSEWHERE:
        return
    for program, *words in shell_lines(text):
        line = " ".join(words)
        if program == "polarpix" and not any(re.match(pattern, line) for pattern in ONLY_PARSED):
            assert run(words) == 0, line


SMALL: dict[str, Any] = {  # over a page of a text, so that it trains in seconds
    "model": {"backbone": {"name": "test_resnet", "weights": None}},
    "engine": {"epochs": 1, "batch_size": 4, "accelerator": "cpu", "workers": 0, "pictures": 1},
}
SMALL_MODEL: dict[str, dict[str, Any]] = {
    "pose": {"head_channels": [8, 8, 8], "input_size": [64, 64]},
    "seg": {"aspp_channels": 8, "low_channels": 8},
}


def own_data(figures: Path, folder: Path) -> None:
    """The drawn figures as the keypoints and the masks that the quick start is about, and a folder of photos."""
    for split in ("train", "val"):
        truth = json.loads((figures / "annotations" / f"{split}.json").read_text())
        for image in truth["images"]:
            image["file_name"] = f"{split}_{image['file_name']}"
        (folder / "data/hands").mkdir(parents=True, exist_ok=True)
        (folder / "data/hands" / f"{split}.json").write_text(json.dumps(truth))
        for path in (figures / "images" / split).iterdir():
            picture = read_image(path)
            write_image(folder / "data/hands/images" / f"{split}_{path.name}", picture)
            write_image(folder / "data/leaves/images" / split / path.name, picture)
            label = read_label(figures / "labels" / split / f"{path.stem}.png").clip(0, 2)
            write_label(folder / "data/leaves/labels" / split / f"{path.stem}.png", label, FIGURE_CLASSES.colors)
    write_image(folder / "photos/1.jpg", picture)
    write_detections(folder)


def test_the_training_quick_start_runs(figures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the page, in its order, on small data with small networks."""
    own_data(figures, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("hands.yaml", "leaves.yaml"):
        page = copy.deepcopy(yaml_blocks()[name])
        page["model"] |= SMALL_MODEL[page["task"]]
        for part, keys in SMALL.items():
            for key, value in keys.items():
                page[part][key] = page[part][key] | value if isinstance(value, dict) else value
        if page["task"] == "seg":
            page["data"]["crop_size"] = [64, 64]
        Path(name).write_text(yaml.safe_dump(page))
    for program, *words in shell_lines(ROOT / "docs" / "quickstart_train.md"):
        if program == "polarpix":
            assert run(words) == 0, words
    for name in ("report.html", "metrics.csv", "weights/best.safetensors", "eval/val/report.html"):
        assert (tmp_path / "runs/pose/hands" / name).is_file(), name
        assert (tmp_path / "runs/seg/leaves" / name).is_file(), name
    assert len(json.loads((tmp_path / "hands_found" / "keypoints.json").read_text())) == 1
    assert (tmp_path / "leaves_found" / "labels" / "1.png").is_file()


@named([text for text in TEXTS if shell_lines(text)])
def test_commands_parse(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M)
    for program, *words in shell_lines(text):
        if program == "polarpix":
            check_command(words, monkeypatch)
        elif program == "make":
            assert words[0] in targets, f"no target {words[0]}"
        for word in words:
            if word.startswith(("tests/", "docs/", "configs/")):
                assert (ROOT / word).exists(), word


@named(TEXTS)
def test_inline_commands_exist(text: Path) -> None:
    for name in re.findall(r"`polarpix (\S+?)(?=[ `])", text.read_text(encoding="utf-8")):
        assert name.startswith("--") or name in COMMANDS or name in GROUPS


@pytest.mark.parametrize("name", yaml_blocks())
def test_yaml_is_a_page_or_a_schema(name: str, tmp_path: Path) -> None:
    page = yaml_blocks()[name]
    if "task" in page:
        assert isinstance(make_run(page), RUNS[page["task"]])
    else:
        (tmp_path / "schema.yaml").write_text(yaml.safe_dump(page))
        assert len(load_schema(tmp_path / "schema.yaml").names) == len(page["names"])


@named(TEXTS)
def test_links_lead_somewhere(text: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (text.parent / target.partition("#")[0]).is_file(), target


@named(TEXTS)
def test_named_files_are_there(text: Path) -> None:
    for path in re.findall(r"`((?:polarpix|configs|docs|tests)/[\w./]+)`", text.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


def test_contributing_names_every_module() -> None:
    """The tree of CONTRIBUTING.md is the tree of the package."""
    tree = next(block for block in blocks(ROOT / "CONTRIBUTING.md", "text") if block.startswith("polarpix/"))
    told, room = set(), ""
    for line in tree.splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        if name.endswith("/"):
            room = name if indent == 2 else ""
        elif name.endswith(".py"):
            told.add((room if indent == 4 else "") + name)
    there = {path.relative_to(ROOT / "polarpix").as_posix() for path in (ROOT / "polarpix").glob("**/*.py")}
    assert told == {path for path in there if not path.endswith("__init__.py")}
