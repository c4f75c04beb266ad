"""Pictures by folder, list and address, and files that are written whole."""

from pathlib import Path

import pytest

from polarpix.errors import InputError
from polarpix.places import list_places, opened, write_whole


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


def test_files_are_written_whole_and_read_again(tmp_path: Path) -> None:
    for place in (str(tmp_path / "new" / "a.bin"), f"file://{tmp_path}/other/a.bin", "memory://deep/a.bin"):
        for data in (b"first", b"second"):
            write_whole(place, data)
            with opened(place) as file:
                assert file.read() == data
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.bin"]
