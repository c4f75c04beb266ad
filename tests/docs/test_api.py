"""The API page holds everything that is meant to be used from outside."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def documented() -> set[tuple[str, str]]:
    """(module where it is defined, name) of everything on the page."""
    found = set()
    for kind, target, options in re.findall(r"^\.\. auto(\w+):: (\S+)\n((?:   :.*\n)*)", PAGE, flags=re.M):
        if kind == "module":
            listed = re.search(r":members: (.+)", options)
            names = listed[1].split(", ") if listed else importlib.import_module(target).__all__
            found |= {home(target, name) for name in names}
        else:
            module, _, name = target.rpartition(".")
            found.add(home(module, name))
    return found


def home(module: str, name: str) -> tuple[str, str]:
    """Where a name comes from: a function or class says so, a table or an alias does not."""
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__module__, value.__qualname__
    return "", name


def imported(text: Path) -> set[tuple[str, str]]:
    """(module, name) of what a text's Python imports from polarpix; modules themselves aside."""
    found = set()
    for block in re.findall(r"^```python\n(.*?)^```$", text.read_text(encoding="utf-8"), flags=re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "polarpix":
                found |= {home(str(node.module), alias.name) for alias in node.names}
    return found


@pytest.mark.parametrize("module", ["polarpix", "polarpix.hub", "polarpix.backbones", "polarpix.psa"])
def test_what_a_room_offers_is_on_the_page(module: str) -> None:
    names = [name for name in importlib.import_module(module).__all__ if not name.startswith("__")]
    assert {home(module, name) for name in names} <= documented()


@pytest.mark.parametrize("text", TEXTS, ids=[text.name for text in TEXTS])
def test_what_the_pages_use_is_on_the_page(text: Path) -> None:
    assert imported(text) <= documented()


def test_every_page_leads_on_from_the_index() -> None:
    """The sidebar takes new pages by itself; the index says what each of them is."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert "\n*\n```" in index
    for text in TEXTS[1:]:
        assert text.stem == "index" or f"]({text.name})" in index, f"{text.name}: give it a link in docs/index.md"


def test_what_is_documented_says_something() -> None:
    """No name stands on the page without words."""
    for module, name in documented():
        if module.startswith("polarpix"):
            assert (getattr(importlib.import_module(module), name).__doc__ or "").strip(), f"{module}.{name}"
