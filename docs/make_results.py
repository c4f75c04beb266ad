"""Write the tables of the pages in PAGES from benchmarks/results/*.json: python docs/make_results.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from result_tables import calibration, export, prediction, reliability, results, speed
from result_tables.parts import Records

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

# Page -> what writes all that is between its marks.
PAGES: dict[Path, Callable[[Records], str]] = {
    ROOT / "docs" / "results.md": results.tables,
    ROOT / "docs" / "speed.md": speed.tables,
    ROOT / "docs" / "export.md": export.tables,
    ROOT / "docs" / "calibration.md": calibration.tables,
    ROOT / "docs" / "prediction.md": prediction.tables,
    ROOT / "docs" / "reliability.md": reliability.tables,
}


def read_records(folder: Path = RECORDS) -> Records:
    """File name -> record, in order of the names."""
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def filled(page: str, text: str) -> str:
    """The page with a new text between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the marks {BEGIN} and {END} are not both there: put them around the tables")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


if __name__ == "__main__":
    for path, write in PAGES.items():
        path.write_text(filled(path.read_text(encoding="utf-8"), write(read_records())), encoding="utf-8")
