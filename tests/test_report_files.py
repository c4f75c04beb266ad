"""Pages: whole, well-formed, escaped, and sufficient unto themselves."""

import base64
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.chart import Curves, svg, ticks
from polarpix.images import read_image
from polarpix.report import Bars, Change, Matrix, Report, Section, Share, Table
from polarpix.report_files import write_html, write_json, write_markdown

FLAT = np.full((20, 30, 3), (10, 200, 30), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (300, 400, 1), dtype=np.uint8).repeat(3, axis=2)
TRAIN = [(1, 0.5), (2, math.nan), (3, 0.25), (4, 0.125)]
EVIL = '<script>alert(1)</script> & "quoted" | `x`'


def report(text: str = "fine", value: object = 0.75) -> Report:
    return Report(
        title=f"Title {text}",
        summary=[("AP", value), (text, "ok"), ("parameters", 1234567), ("nothing", None)],
        sections=[
            Section(
                f"Pose {text}",
                f"First {text}.\n\nSecond.",
                Table(["model", text], [["psa", 0.5], [text, math.nan]]),
                [(f"flat {text}", FLAT), ("noise", NOISE)],
                [
                    Curves(
                        f"Loss {text}", {"train": [(1, 0.5), (2, math.nan), (3, 0.25), (4, 0.125)], text: [(1, 0.75)]}
                    )
                ],
            ),
            Section("Empty"),
            Section("Last", curves=[Curves("none", {})]),
        ],
        subtitle=text,
        conditions={"seed": 0, "command": text},
    )


class Page(HTMLParser):
    """Holds the tags to their order and collects what a browser would fetch."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.alternatives: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "xlink:href")]
        self.alternatives += [value or "" for name, value in attrs if name == "alt"]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(content: Report, folder: Path) -> tuple[str, Page]:
    write_html(content, folder / "page.html")
    source = (folder / "page.html").read_text(encoding="utf-8")
    return source, Page(source)


@pytest.mark.parametrize("text", ["fine", EVIL, "naïve 測試"])
def test_html_is_balanced_escaped_and_alone(tmp_path: Path, text: str) -> None:
    source, parsed = page(report(text), tmp_path)
    assert parsed.open == []
    assert "script" not in parsed.tags
    assert parsed.text.count(text) >= 7  # shown everywhere it was given, letter by letter
    assert parsed.alternatives == [f"flat {text}", "noise"]
    assert all(link.startswith(("data:image/", "#s")) for link in parsed.sources)
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme:dark" in style
    assert {"0.7500", "1,234,567", "–"} <= set(re.findall(r'class="value">([^<]*)<', source))


def test_pictures_are_inside_the_page(tmp_path: Path) -> None:
    _, parsed = page(report(), tmp_path)
    flat, noise = [link for link in parsed.sources if link.startswith("data:")]
    assert flat.startswith("data:image/png")
    assert noise.startswith("data:image/jpeg")  # a PNG of it would be large
    for link, wanted, limit in ((flat, FLAT, 0), (noise, NOISE, 5)):
        data = np.frombuffer(base64.b64decode(link.partition(",")[2]), np.uint8)
        found = cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)
        assert np.abs(found - wanted).mean() <= limit


def test_contact_sheets_get_the_whole_width(tmp_path: Path) -> None:
    wide = np.zeros((200, 900, 3), np.uint8)
    source, _ = page(Report("t", [], [Section("s", pictures=[("wide", wide), ("flat", FLAT)])]), tmp_path)
    assert source.count("<figure class=broad>") == 1
    assert source.count("<figure>") == 1


def test_json_holds_whole_numbers_and_no_pixels(tmp_path: Path) -> None:
    write_json(report(EVIL, value=np.float32(0.1)), tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text(encoding="utf-8")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    content = json.loads(text, parse_constant=refuse)
    assert content["summary"]["AP"] == float(np.float32(0.1))
    assert content["summary"]["nothing"] is None
    first = content["sections"][0]
    assert first["table"]["rows"] == [["psa", 0.5], [EVIL, None]]
    assert first["curves"][0]["series"]["train"][1] == [2, None]
    assert first["pictures"][0] == {"caption": f"flat {EVIL}", "shape": [20, 30, 3]}
    assert content["sections"][1]["table"] is None
    assert content["conditions"] == {"seed": 0, "command": EVIL}
    assert len(text) < 5000


def test_markdown_has_tables_and_picture_files(tmp_path: Path) -> None:
    write_markdown(report(EVIL), tmp_path / "deep" / "r.md")
    text = (tmp_path / "deep" / "r.md").read_text(encoding="utf-8")
    assert "<script>" not in text.replace("\\<", "")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    assert bars == {3, 4}  # two or three columns, whatever the text holds
    links = re.findall(r"\]\(<([^>]+)>\)", text)
    assert links == ["r_pictures/000.png", "r_pictures/001.jpg"]  # photographs as JPEG
    np.testing.assert_array_equal(read_image(tmp_path / "deep" / links[0]), FLAT)
    assert "## Conditions" in text


def test_a_line_breaks_where_a_value_is_missing() -> None:
    drawn = svg(Curves("t", {"a": [(1, 0), (2, 1), (3, math.nan), (4, 2), (5, 3), (6, math.inf), (7, 1)]}))
    assert [len(points.split()) for points in re.findall(r'points="([^"]*)"', drawn)] == [2, 2]
    assert drawn.count("<circle") == 5
    assert "nan" not in drawn.lower().replace("name", "")


def test_higher_values_are_drawn_higher() -> None:
    drawn = svg(Curves("t", {"a": [(0, 1.0), (1, 3.0), (2, 2.0)]}))
    places = [tuple(map(float, pair)) for pair in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x0 < x1 < x2
    assert y1 < y2 < y0
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6), st.floats(allow_nan=True, allow_infinity=True, width=32)),
        min_size=0,
        max_size=8,
    )
)
def test_every_chart_stays_on_its_sheet(points: list[tuple[float, float]]) -> None:
    drawn = svg(Curves("t", {"a": points, "b": []}))
    for x, y in re.findall(r'cx="([^"]+)" cy="([^"]+)"', drawn):
        assert -0.1 <= float(x) <= 640.1
        assert -0.1 <= float(y) <= 280.1
    assert Page(drawn).open == []


@settings(deadline=None, max_examples=60)
@given(low=st.floats(-1e5, 1e5), width=st.floats(1e-3, 1e6), count=st.integers(3, 10))
def test_ticks_are_few_even_and_inside(low: float, width: float, count: int) -> None:
    found = ticks(low, low + width, count)
    assert 1 <= len(found) <= count + 1
    assert found[0] >= low - 1e-6 * width
    assert found[-1] <= low + width + 1e-6 * width
    if len(found) > 2:
        np.testing.assert_allclose(np.diff(found), found[1] - found[0], rtol=1e-4)


def test_a_page_survives_being_written_again(tmp_path: Path) -> None:
    write_html(report("old"), tmp_path / "page.html")
    write_html(report("new"), tmp_path / "page.html")
    assert "Title new" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_bars_and_matrices_are_escaped_and_balanced(tmp_path: Path) -> None:
    section = Section(
        "Charts",
        alert=f"careful {EVIL}",
        bars=[Bars(EVIL, [("a", 0.5), (EVIL, math.nan), ("c", 2.0)])],
        matrices=[Matrix(EVIL, ["x", EVIL], ["p", "q", EVIL], [[0.25, 0.75, 0.0], [math.nan, 1.0, 0.0004]])],
    )
    content = Report("t", [], [section, Section("none", bars=[Bars("b", [])], matrices=[Matrix("m", [], [], [])])])
    source, parsed = page(content, tmp_path)
    assert parsed.open == []
    assert "script" not in parsed.tags
    assert f"careful {EVIL}" in parsed.text
    widths = [float(one) for one in re.findall(r'class="bar"[^>]* width="([\d.]+)"', source)]
    assert widths[0] * 2 == pytest.approx(widths[2], abs=0.2)  # never beyond its track
    assert widths[1] == 0
    assert re.findall(r">(25|75|100)</text>", source) == ["25", "75", "100"]  # what is nearly none stays empty
    write_json(content, tmp_path / "r.json")
    kept = json.loads((tmp_path / "r.json").read_text())["sections"][0]
    assert kept["matrices"][0]["values"] == [[0.25, 0.75, 0.0], [None, 1.0, 0.0004]]
    assert kept["bars"][0]["values"][0] == ["a", 0.5]
    write_markdown(content, tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text()
    assert "**careful" in text
    assert "| x | 25 | 75 |" in text


def test_a_matrix_of_many_classes_has_no_figures(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(30)]
    source, _ = page(
        Report("t", [], [Section("s", matrices=[Matrix("m", names, names, np.eye(30).tolist())])]), tmp_path
    )
    assert ">100</text>" not in source
    assert "class 3 at class 3: 100.00%" in source  # for the pointer


def test_differences_carry_sign_and_direction(tmp_path: Path) -> None:
    rows = [[Change(0.5), Change(-0.25, True), Change(0.125, False, 0.75), Change(math.nan), Share(0.256)]]
    source, _ = page(Report("t", [], [Section("s", table=Table(["a", "b", "c", "d", "e"], rows))]), tmp_path)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", source)
    assert cells == ["+0.5000", "-0.2500", "0.7500 (+0.1250)", "–", "25.6 %"]
    assert source.count('"number up"') == source.count('"number down"') == 1
    write_json(Report("t", [], [Section("s", table=Table(["a"], rows))]), tmp_path / "r.json")
    kept = json.loads((tmp_path / "r.json").read_text())["sections"][0]["table"]["rows"]
    assert kept == [[0.5, -0.25, 0.75, None, 0.256]]


def test_long_names_of_lines_go_below_the_chart() -> None:
    series = {f"a run with a rather long name {i}": TRAIN for i in range(4)}
    drawn = svg(Curves("loss", series))
    height = int(re.findall(r'viewBox="0 0 640 (\d+)"', drawn)[0])
    keys = [float(y) for y in re.findall(r'class="key[^>]* y="([\d.]+)"', drawn)]
    assert height > 280
    assert len(keys) == 4
    assert all(280 < y < height for y in keys)
    assert "<circle" not in svg(Curves("t", {"a": [(i, i) for i in range(100)]}))
