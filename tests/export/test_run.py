"""What is exported is compared, kept or refused, and says what it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from polarpix.engine.artifact import load_artifact
from polarpix.errors import InputError
from polarpix.export import run as module
from polarpix.export.run import Export, export, parse_size
from polarpix.predict import SegPredictor, load
from polarpix.runtime.sessions import open_session
from polarpix.zoo import MODELS, BoxedModel


def test_a_pose_export_was_compared_on_noise_and_on_the_val_split(pose_export: Export) -> None:
    assert [(one.inputs, one.count) for one in pose_export.differences] == [
        ("noise", 1),
        ("noise", 3),
        ("val split", 8),
    ]
    assert all(one.largest["keypoints"] < 0.05 and one.largest["scores"] < 1e-4 for one in pose_export.differences)
    assert pose_export.size == pose_export.file.stat().st_size


def test_a_seg_export_takes_any_size_and_batch(seg_export: Export, seg_folder: Path) -> None:
    assert [one.inputs for one in seg_export.differences] == ["noise", "val split"]
    session, _ = open_session(seg_export.file, "cpu")
    with pytest.warns(UserWarning, match="calibrated by another protocol"):
        torch_predictor = load(seg_folder, "cpu", ["--eval.scales", "[0.5]"])
    assert isinstance(torch_predictor, SegPredictor)
    rng = np.random.default_rng(0)
    for shape in ((1, 64, 64, 3), (1, 65, 64, 3), (3, 50, 81, 3), (2, 97, 33, 3)):
        images = rng.integers(0, 256, shape, np.uint8)
        label, confidence = session(images)
        assert (label.dtype, label.shape, confidence.shape) == (np.uint8, shape[:3], shape[:3])
        for image, one, sure in zip(images, label, confidence, strict=True):
            (wanted,), (confident,) = torch_predictor.label(image[None])
            assert (one != wanted).mean() <= 1e-3
            np.testing.assert_allclose(sure, confident, atol=1e-4)


def test_the_file_alone_says_what_it_is(pose_export: Export, pose_folder: Path) -> None:
    artifact = load_artifact(pose_folder)
    _, texts = open_session(pose_export.file, "cpu")
    assert (texts["task"], texts["form"], texts["layout"], texts["commit"]) == (
        "pose",
        "paper",
        "parallel",
        artifact.commit,
    )
    assert json.loads(texts["labels"])["names"] == list(artifact.labels.names)
    assert json.loads(texts["run"])["model"]["codec"] == "udp"
    assert json.loads(texts["udp"]) is True
    assert json.loads(texts["metrics"]) == artifact.metrics


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch, pose_export: Export) -> list[npt.NDArray[Any]]:
    """Export without tracing: what "was written" is the session fixture's file, which adds what the list holds."""
    wrong: list[npt.NDArray[Any]] = []

    def write(program: Any, signature: Any, metadata: Any, path: Path) -> None:
        path.write_bytes(pose_export.file.read_bytes())

    def opened(path: Path, device: str) -> Any:
        session, texts = open_session(path, device)

        def run(*inputs: Any) -> list[npt.NDArray[Any]]:
            points, *more = session(*inputs)
            return [points + (wrong[0] if wrong else 0), *more]

        return run, texts

    form = module.FORMATS["onnx"]
    monkeypatch.setitem(module.FORMATS, "onnx", type(form)(form.suffix, form.packages, write))
    monkeypatch.setattr(module, "trace", lambda predictor, size: (None, None))
    monkeypatch.setattr(module, "open_session", opened)
    return wrong


def test_a_file_that_differs_is_not_kept(unwritten: list[npt.NDArray[Any]], pose_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "pose.onnx"
    export(pose_folder, "onnx", out)
    before = out.read_bytes()
    out.write_bytes(b"old")
    unwritten.append(np.float32(0.2))
    with pytest.raises(
        InputError, match=r"keypoints of the exported file differ from torch by 0\.28.* px, at most 0\.1"
    ):
        export(pose_folder, "onnx", out)
    assert out.read_bytes() == b"old"
    assert [path.name for path in out.parent.iterdir()] == ["pose.onnx"]  # no rest beside it
    unwritten[0] = np.float32(np.nan)
    with pytest.raises(InputError, match="differ from torch by nan"):
        export(pose_folder, "onnx", out)
    unwritten[0] = np.float32(0.01)
    export(pose_folder, "onnx", out)
    assert out.read_bytes() == before


def test_a_model_by_name_is_exported_among_the_users_files(
    unwritten: list[npt.NDArray[Any]], pose_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxed = tmp_path / "installed" / "body.safetensors"
    boxed.parent.mkdir()
    boxed.write_bytes((pose_folder / "weights" / "best.safetensors").read_bytes())
    monkeypatch.setitem(MODELS, "body", BoxedModel(boxed, "figures"))
    monkeypatch.chdir(tmp_path)
    assert export("body", "onnx").file == Path("runs/named/body/body.onnx")
    assert Path("runs/named/body/body.onnx").is_file()
    assert list(boxed.parent.iterdir()) == [boxed]


def test_another_type_is_not_kept(unwritten: list[npt.NDArray[Any]], pose_folder: Path, tmp_path: Path) -> None:
    unwritten.append(np.float64(0))
    with pytest.raises(InputError, match=r"gives float64 \[1, 14, 2\], torch float32 \[1, 14, 2\]"):
        export(pose_folder, "onnx", tmp_path / "pose.onnx")


def test_pictures_of_the_user_are_compared(
    unwritten: list[npt.NDArray[Any]], pose_folder: Path, figures: Path, tmp_path: Path
) -> None:
    folder = str(figures / "images" / "test")
    found = export(pose_folder, "onnx", tmp_path / "pose.onnx", check_images=folder)
    assert (found.differences[-1].inputs, found.differences[-1].count) == (folder, 3)


def test_without_the_split_drawn_figures_are_compared(
    unwritten: list[npt.NDArray[Any]], pose_folder: Path, tmp_path: Path
) -> None:
    found = export(pose_folder, "onnx", tmp_path / "pose.onnx", options=["--data.root", str(tmp_path)])
    assert found.differences[-1].inputs == "drawn figures"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "tflite"}, "--to tflite: choose one of onnx, torch_export, openvino"),
        ({"to": "onnx", "out": "a.pt2"}, r"--out a\.pt2: --to onnx writes a file that ends in \.onnx"),
        ({"to": "onnx", "size": (64, 64)}, "--size is for segmentation"),
        ({"to": "onnx", "check_images": "nowhere/"}, "nowhere/: no such file or folder"),
        ({"to": "onnx", "options": ["--eval.flip_tset", "false"]}, "did you mean --eval.flip_test"),
    ],
)
def test_wrong_orders_are_refused(arguments: dict[str, Any], message: str, pose_folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        export(pose_folder, **arguments)


def test_wrong_files_and_places_are_refused(pose_export: Export, pose_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is an exported file, .*: give the weights it was made from"):
        export(pose_export.file, "openvino")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no folder: choose another place"):
        export(pose_folder, "onnx", tmp_path / "file" / "a.onnx")
    with pytest.raises(InputError, match="no such weights file"):
        export(tmp_path / "nothing", "onnx")


def test_windows_need_a_fixed_size(seg_folder: Path, tmp_path: Path) -> None:
    options = ["--eval.mode", "sliding", "--eval.window", "[64, 64]"]
    with pytest.raises(InputError, match=r"add --size HEIGHT,WIDTH, or --eval\.mode whole"):
        export(seg_folder, "torch_export", tmp_path / "a.pt2", options=options)
    found = export(seg_folder, "torch_export", tmp_path / "a.pt2", (64, 80), options=options)
    session, texts = open_session(found.file, "cpu")
    assert json.loads(texts["size"]) == [64, 80]
    assert session(np.zeros((3, 64, 80, 3), np.uint8))[0].shape == (3, 64, 80)


def test_sizes_are_parsed() -> None:
    assert parse_size("") is None
    assert parse_size("360, 480") == (360, 480)
    for text in ("360", "0,5", "a,b", "1,2,3", "-1,5"):
        with pytest.raises(InputError, match=f"--size {text}: give HEIGHT,WIDTH"):
            parse_size(text)
