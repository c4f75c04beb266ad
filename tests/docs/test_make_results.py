"""The tables of the pages are what the records below benchmarks/results say."""

from pathlib import Path

import pytest
from make_results import BEGIN, END, PAGES, filled, read_records


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_is_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text, PAGES[page](read_records())) == text, "run: python docs/make_results.py"


def test_every_page_with_marks_is_written() -> None:
    folder = next(iter(PAGES)).parent
    assert {*PAGES} == {page for page in folder.glob("*.md") if BEGIN in page.read_text(encoding="utf-8")}


def test_filling_twice_changes_nothing_more() -> None:
    once = filled(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n", "a table")
    assert once == f"before\n\n{BEGIN}\n\na table\n{END}\n\nafter\n"
    assert filled(once, "a table") == once


def test_lost_marks_are_refused() -> None:
    with pytest.raises(ValueError, match="results:begin"):
        filled("a page without marks", "")
