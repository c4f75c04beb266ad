"""Names, ids and videos of what is written."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarpix.errors import InputError
from polarpix.outputs import Outputs, VideoFile, image_ids, overlay_names
from polarpix.predict import SegPredictor
from polarpix.sources import Frame, Medium, read_frames


def test_a_video_is_there_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.mp4"
    film = VideoFile(path, (64, 48), 10.0)
    for shade in (40, 120, 200):
        film.write(np.full((48, 64, 3), (shade, 60, 20), np.uint8))
    film.write(np.full((96, 128, 3), (240, 60, 20), np.uint8))  # fitted
    assert not path.exists()
    film.close()
    assert [one.name for one in path.parent.iterdir()] == ["a.mp4"]
    frames = list(read_frames(path))
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 4
    for frame, shade in zip(frames, (40, 120, 200, 240), strict=True):
        np.testing.assert_allclose(frame.image.mean(axis=(0, 1)), (shade, 60, 20), atol=4)  # RGB, not BGR
    assert frames[3].time == pytest.approx(0.3, abs=1e-3)


def test_a_video_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.mp4: a video of 0x0 cannot be written"):
        VideoFile(tmp_path / "a.mp4", (0, 0), 10.0)


def test_two_videos_one_after_the_other(seg: SegPredictor, tmp_path: Path) -> None:
    media = [Medium("video", "a/x.mp4"), Medium("video", "b/x.avi"), Medium("webcam", "0")]
    outputs = Outputs(tmp_path, media)
    for medium in media:
        for index in range(2):
            frame = Frame(np.full((32, 32, 3), 90, np.uint8), medium, index, index / 5, 5.0)
            result = seg.predict([frame])[0]
            outputs.add(frame, result, outputs.draw(frame, result))
    outputs.close()
    names = sorted(path.name for path in (tmp_path / "overlays").iterdir())
    assert names == ["a_x.mp4", "b_x.mp4", "webcam0.mp4"]
    assert all(len(list(read_frames(tmp_path / "overlays" / name))) == 2 for name in names)
    assert outputs.count == 6
    assert not (tmp_path / "images.json").exists()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "a/b"]),
            st.sampled_from(["x", "y", "b_x", "b_x_2"]),
            st.sampled_from([".jpg", ".png"]),
        ),
        unique=True,
        max_size=12,
    )
)
def test_every_file_gets_a_name_of_its_own(files: list[tuple[str, str, str]]) -> None:
    paths = [Path(folder) / f"{stem}{suffix}" for folder, stem, suffix in files]
    names = overlay_names(paths)
    assert len(set(names)) == len(paths)
    for path, name in zip(paths, names, strict=True):
        assert path.stem in name
        assert name == path.stem or Counter(p.stem for p in paths)[path.stem] > 1


def test_names_and_ids_by_example() -> None:
    paths = [Path(p) for p in ("a/1.jpg", "b/1.jpg", "b/1.png", "b/2.jpg")]
    assert overlay_names(paths) == ["a_1", "b_1", "b_1_2", "2"]
    assert image_ids(paths) == [1, 2, 3, 4]  # 1 stands for three files
    assert image_ids([Path("000139.jpg"), Path("x/7.png")]) == [139, 7]
    assert image_ids([Path("7.jpg"), Path("cat.jpg")]) == [1, 2]
