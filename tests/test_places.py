"""Pictures by folder, list and address, and files that are written whole."""

from pathlib import Path
from typing import Any

import pytest

from polarpix.errors import InputError
from polarpix.places import list_places, opened, safe_name, write_whole


def test_places_of_folders_lists_and_addresses(figures: Path, tmp_path: Path) -> None:
    images = figures / "images" / "val"
    names = [f"{i:04d}.jpg" for i in range(5)]
    paths = [str(images / name) for name in names]
    assert list_places([str(images), paths[1]]) == paths
    assert list_places([f"file://{images}"]) == [f"file://{path}" for path in paths]
    assert list_places([f"file://{images}/*3.jpg"]) == [f"file://{paths[3]}"]
    (tmp_path / "list.txt").write_text("\n".join(reversed(paths)) + "\n\n")
    assert list_places([str(tmp_path / "list.txt")]) == paths[::-1]
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.txt").write_text("")
    for source, words in (
        (f"file://{tmp_path}/empty", "holds no images"),
        (str(tmp_path / "gone.txt"), "cannot be read"),
        (str(tmp_path / "none.txt"), "names no images"),
    ):
        with pytest.raises(InputError, match=words):
            list_places([source])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../a.png", "leads out"),
        ("a/../../b.png", "leads out"),
        ("..\\a.png", "leads out"),
        ("/etc/passwd", "leads out"),
        ("C:\\a.png", "leads out"),
        ("a\0.png", "leads out"),
        ("", "leads out"),
        (7, "leads out"),
        ("\ud800.png", "no valid Unicode"),
        ("x" * 300, "longer than"),
    ],
)
def test_names_that_leave_their_folder_or_are_none(name: Any, words: str) -> None:
    with pytest.raises(InputError, match=rf"^a\.json: file name .* ?{words}"):
        safe_name(name, "a.json")


def test_names_that_stay() -> None:
    for name in ("a.png", "sub/a b.png", "a..png", "ä.png"):
        assert safe_name(name, "") == name


def test_files_are_written_whole_and_read_again(tmp_path: Path) -> None:
    for place in (str(tmp_path / "new" / "a.bin"), f"file://{tmp_path}/other/a.bin", "memory://deep/a.bin"):
        for data in (b"first", b"second"):
            write_whole(place, data)
            with opened(place) as file:
                assert file.read() == data
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.bin"]
