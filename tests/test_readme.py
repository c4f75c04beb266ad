"""README and docs: the Python runs, the commands parse, the pages load, and what is named is there."""

import functools
import inspect
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
from polarpix.engine.artifact import save_artifact
from polarpix.engine.optim import SCHEDULES
from polarpix.images import write_image
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
BACKBONE = {"name": "resnet10t", "attention": "psa_p"}


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
    write_image(tmp_path / "photo.jpg", np.full((300, 240, 3), 120, np.uint8))
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
    elif name in ("eval", "predict") or (name == "export" and "weights" in values):
        _, task, title = Path(values["weights"]).parts
        make_run({"task": task, "name": title}, values["options"])


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
