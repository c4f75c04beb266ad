"""Config pages: YAML and command-line overrides -> the dataclasses of a run. Unknown keys are refused."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import yaml

from polarpix.bounds import check_values
from polarpix.config import PoseRun, SegRun
from polarpix.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = [
    "RUNS",
    "check_size",
    "flatten",
    "load_page",
    "make_run",
    "page_task",
    "page_text",
    "read_page",
    "run_parser",
]

RUNS: dict[str, type[PoseRun] | type[SegRun]] = {"pose": PoseRun, "seg": SegRun}

# What the parser calls a kind of value, in words.
KINDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'list'>": "a list, [..., ...]",
    "<class 'tuple'>": "a list, [..., ...]",
    "<class 'NoneType'>": "null",
    "list[str]": "a list of texts, [..., ...]",
    "tuple[int, int]": "a list of 2 whole numbers",
    "dict[str, typing.Any]": "a mapping, {...: ...}",
    "<class 'dict'>": "a mapping, {...: ...}",
}


class PageLoader(yaml.SafeLoader):
    """YAML in which a key may be given once only; the last one would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_page(path: str | Path) -> dict[str, Any]:
    """The mapping of a YAML page.

    Raises:
        InputError: no such file, not a YAML mapping, or a key given twice.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=3)
        raise InputError(f"{path}: no such page" + (f": did you mean {', '.join(near)}?" if near else ""))
    try:
        page = yaml.load(path.read_text(encoding="utf-8"), PageLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no Unicode, no date, nested too deep
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split()):.300}") from error
    check_size(page, str(path))
    if not isinstance(page, dict):
        raise InputError(f"{path}: holds no keys: a page starts with 'task: pose' or 'task: seg'")
    return page


def check_size(value: Any, source: str, most: int = 10_000) -> None:
    """Refuse YAML whose aliases unfold to far more than is written, or to itself.

    Raises:
        InputError: more values than ``most``, or nested without end.
    """
    rest, count = [value], 0
    while rest:
        one = rest.pop()
        count += 1
        if count > most:
            raise InputError(f"{source}: unfolds to more than {most} values: write it out, without aliases")
        if isinstance(one, dict | list):
            rest += one.values() if isinstance(one, dict) else one


def page_task(page: dict[str, Any], source: str) -> str:
    """The task of a page.

    Raises:
        InputError: it names none of the tasks.
    """
    task = page.get("task")
    if not isinstance(task, str) or task not in RUNS:
        raise InputError(f"{source}: task is {task!r:.100}: write one of {', '.join(RUNS)}")
    return task


def run_parser(task: str, command: str, description: str) -> ArgumentParser:
    """A parser with one option per key of a page: ``--optim.lr 0.001``."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"polarpix {command}", description=description, exit_on_error=False)
    parser.add_class_arguments(RUNS[task], nested_key=None)
    return parser


def known_keys(parser: ArgumentParser) -> list[str]:
    """Every key of a page, dotted."""
    return [action.dest for action in parser._actions if action.dest not in ("help", "config")]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted keys; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value and key != "attention_options":
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def make_run(
    page: dict[str, Any], overrides: Sequence[str] = (), source: str = "page", command: str = "train"
) -> PoseRun | SegRun:
    """The run of a page with command-line overrides applied.

    Args:
        page: the mapping of a page.
        overrides: arguments such as ``--optim.lr 0.001``.
        source: named in errors.
        command: named in help texts.

    Raises:
        InputError: an unknown key (with the nearest known one), or a value of the wrong kind or out of its range.
    """
    from jsonargparse import ArgumentError

    task = page_task(page, source)
    parser = run_parser(task, command, f"Options of a {task} page.")
    keys = known_keys(parser)
    for key, value in flatten(page).items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            mend = f": did you mean {near[0]!r}?" if near else f": a {task} page has {', '.join(keys[:6])}, ..."
            raise InputError(f"{source}: no key {key!r:.100}{mend}")
        inner = next((one for one in keys if one.startswith(f"{key}.")), None)
        if inner and value != {}:
            raise InputError(f"{source}: {key:.100} is {value!r:.100}: it holds keys such as {inner}, or leave it out")
    check_options(overrides, keys, f"'polarpix {command} --help' and 'polarpix info {task}' list them")
    try:
        base = parser.parse_object(page)
        values = parser.parse_args(list(overrides), namespace=base) if overrides else base
        run: PoseRun | SegRun = RUNS[task](**vars(parser.instantiate_classes(values)))
    except (ArgumentError, ValueError, TypeError) as error:
        raise InputError(f"{source}: {one_line(error):.600}") from error
    found = flatten(asdict(run))
    for key in (key for key, value in found.items() if value is None):
        check_null(run, key, source)
    check_values(found, task, source)
    return run


def check_null(run: PoseRun | SegRun, key: str, source: str) -> None:
    """Refuse a null that the key does not know; the parser takes it for any."""
    *rooms, name = key.split(".")
    holder = type(reduce(getattr, rooms, run))
    kind = get_type_hints(holder)[name]
    if type(None) not in get_args(kind):
        raise InputError(f"{source}: {key} is null: give {in_words(str(kind))}, or leave it out")


def check_options(overrides: Sequence[str], keys: Sequence[str], mend: str) -> None:
    """Refuse an option that is no key of the page; "--eval.pck+ 0.5" (append) is one."""
    for option in overrides:
        if not option.startswith("--"):
            continue
        name = option[2:].partition("=")[0].removesuffix("+")
        if name not in keys and not any(key.startswith(f"{name}.") for key in keys):
            near = difflib.get_close_matches(name, keys, n=1, cutoff=0.5)
            raise InputError(f"no option --{name}: " + (f"did you mean --{near[0]}?" if near else mend))


def one_line(error: Exception) -> str:
    """The message of a parser's error on one line, what it expects in words."""
    text = " ".join(str(error).split()).removeprefix("error: ")
    found = re.fullmatch(r'Parser key "(.+?)": Expected an? (.+?)\. Got value: (.*)', text)
    if found is None:
        found = re.fullmatch(r'Parser key "(.+?)": .* Subtypes: \[(.+)\] Errors: .* Given value: (.*)', text)
    if found is None:
        return text
    key, kinds, value = found.groups()
    wanted = [in_words(kind) for kind in re.split(r", (?=<class|\w+\[)", kinds)]
    return f"{key} is {value!r}: give {' or '.join(wanted)}"


def in_words(kind: str) -> str:
    """A kind of value as the parser or Python calls it, in words."""
    choices = re.fullmatch(r"(?:typing\.)?Literal\[(.+)\]", kind)
    if choices:
        return "one of " + choices[1].replace("'", "")
    several = re.fullmatch(r"tuple with (\d+) elements", kind)
    return f"a list of {several[1]}" if several else KINDS.get(kind, kind)


def load_page(path: str | Path, overrides: Sequence[str] = ()) -> PoseRun | SegRun:
    """Read a YAML page and apply overrides.

    Raises:
        InputError: see :func:`read_page` and :func:`make_run`.
    """
    return make_run(read_page(path), overrides, str(path))


def page_text(run: PoseRun | SegRun) -> str:
    """The resolved page as YAML that :func:`load_page` reads back to the same run."""
    return str(yaml.safe_dump({"task": run.task} | plain(asdict(run)), sort_keys=False))


def plain(value: Any) -> Any:
    """Tuples as lists, for YAML that any tool reads."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
