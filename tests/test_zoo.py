"""Names lead to weights: in the box, on the Hub, on the disk; and where there are none, one line says so."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

import polarpix
from polarpix import zoo
from polarpix.cli import run
from polarpix.engine.artifact import load_artifact
from polarpix.errors import InputError
from polarpix.export import run as exporting
from polarpix.predict import PosePredictor
from polarpix.review.runs import find_runs
from polarpix.zoo import MODELS, BoxedModel, fetch, find_weights, is_hub_id, named_folder

LARGEST = 12_000_000  # bytes of a model in the box


@pytest.fixture
def boxed(pose_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BoxedModel:
    """A small network in the place of the body model."""
    model = BoxedModel(tmp_path / "installed" / "body.safetensors", "figures")
    model.file.parent.mkdir()
    model.file.write_bytes((pose_folder / "weights" / "best.safetensors").read_bytes())
    model.card.write_text("a card")
    monkeypatch.setitem(MODELS, "body", model)
    monkeypatch.chdir(tmp_path)
    return model


def test_a_model_in_the_box_is_used_by_its_name(
    boxed: BoxedModel, figures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(polarpix.load("body", "cpu"), PosePredictor)
    image = str(figures / "images" / "val" / "0000.jpg")
    for words in (["--model", "body", image], [image, "--model=body", "--device", "cpu"], ["body", image]):
        out = tmp_path / f"out {words[0][-4:]}"
        assert run(["predict", *words, "--out", str(out), "--eval.flip_test", "false"]) == 0
        assert (out / "keypoints.json").is_file()
    capsys.readouterr()
    assert run(["info", "body"]) == 0
    assert f"card       {boxed.card}" in capsys.readouterr().out
    assert run(["models", "--folder", str(tmp_path)]) == 0
    megabytes = f"{boxed.file.stat().st_size / 1e6:.1f} MB"
    assert f"  body       {megabytes:>8}  figures; card: {boxed.card}" in capsys.readouterr().out


def test_its_gates_are_explained_by_a_picture_alone(boxed: BoxedModel, figures: Path, tmp_path: Path) -> None:
    image = str(figures / "images" / "val" / "0000.jpg")
    with pytest.warns(UserWarning, match="no model is named: body is taken"):
        assert run(["explain", image]) == 0
    assert run(["explain", image, "--model", "body", "--out", "named.html"]) == 0
    assert (tmp_path / "explain.html").stat().st_size > 10_000
    assert (tmp_path / "named.html").is_file()


def test_an_evaluation_by_name_stays_among_the_users_files(boxed: BoxedModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="body: nothing evaluated here: run polarpix eval body first"):
        find_runs(["body", "body"])
    assert run(["eval", "--model", "body"]) == 0
    record = tmp_path / "runs" / "named" / "body" / "eval" / "val" / "record.json"
    assert record.is_file()
    assert [one.folder for one in find_runs(["body", str(record)])] == [
        record.parent.relative_to(tmp_path),
        record.parent,
    ]


def test_an_export_by_name_stays_among_the_users_files(boxed: BoxedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Path] = []

    def stop(path: Path) -> None:
        """The first thing that is done with the place; the export itself is tested in its room."""
        places.append(path)
        raise InputError("enough")

    monkeypatch.setattr(exporting, "check_place", stop)
    own = f"runs/named/body/{boxed.file.stem}.pt2"
    for words, place in ((["body"], own), (["--model", "body", "--out", "x/y.pt2"], "x/y.pt2")):
        with pytest.raises(InputError, match="enough"):
            run(["export", *words, "--to", "torch_export"])
        assert places[-1] == Path(place)


def test_a_folder_of_that_name_is_given_as_a_path(boxed: BoxedModel, tmp_path: Path) -> None:
    (tmp_path / "body").mkdir()
    assert find_weights("body") == boxed.file
    assert find_weights("./body") == find_weights(Path("body")) == Path("body")
    assert named_folder("body") == Path("runs/named/body")
    assert named_folder("./body") is named_folder(Path("body")) is None
    assert named_folder("somebody/model") == Path("runs/named/somebody_model")


@pytest.mark.parametrize("name", ["a.onnx", Path("a.pt2"), "some/where/a.xml"])
def test_an_exported_file_holds_no_weights(name: str | Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is an exported file, .*: give the weights it was made from"):
        find_weights(name)
    (tmp_path / "run.xml").mkdir()
    assert find_weights(tmp_path / "run.xml") == tmp_path / "run.xml"


def test_models_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(MODELS, "body", BoxedModel(tmp_path / "body.safetensors", "nothing"))
    with pytest.raises(InputError, match=r"model 'body': .* is not in this installation: install a release"):
        polarpix.load("body")
    with pytest.raises(InputError, match=r"bodi: no such weights file: did you mean the model 'body'\?"):
        load_artifact("bodi")
    with pytest.raises(InputError, match=r"zzz: no such weights file: give .* the name of a model \(body, street\)"):
        polarpix.load("zzz")
    with pytest.raises(InputError, match=r"--model needs a name: body, street"):
        run(["predict", "photo.jpg", "--model"])


@pytest.mark.parametrize("name", MODELS)
def test_what_is_in_the_box_is_small_and_has_a_card(name: str) -> None:
    model = MODELS[name]
    assert model.file.is_file() == model.card.is_file()
    if model.file.is_file():
        assert model.file.stat().st_size <= LARGEST
        artifact, card = load_artifact(name), model.card.read_text()
        assert f'polarpix.load("{name}")' in card
        assert artifact.commit in card
        assert "not stated" not in card


def test_names_of_the_hub() -> None:
    assert is_hub_id("some-one/a.model_1")
    for other in ("body", "runs/pose/x", "/a/b", "./b", "weights/x.safetensors", "a/b.pth", "../b", "a/"):
        assert not is_hub_id(other), other


class Answer(Exception):  # noqa: N818  # stands for errors of any HTTP library
    """No connection."""


def raising(error: Exception) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        raise error

    return call


def hub_error(kind: type[Exception], words: str) -> Exception:
    """An error of huggingface_hub without the response that its constructor wants."""
    error = kind.__new__(kind)
    Exception.__init__(error, words)
    return error


@pytest.mark.parametrize(
    ("asked", "got", "words"),
    [
        (errors.RepositoryNotFoundError, None, "no such file or folder here and no such model on the Hugging Face Hub"),
        (errors.GatedRepoError, None, "asks for consent"),
        (Answer, errors.LocalEntryNotFoundError, r"the Hugging Face Hub cannot be reached \(first line\): check"),
        (None, errors.EntryNotFoundError, r"holds no weights/best.safetensors: it was not pushed by polarpix"),
        (None, Answer, r"weights/best.safetensors could not be downloaded \(first line\): try again"),
    ],
)
def test_what_the_hub_does_not_give(
    asked: type[Exception] | None, got: type[Exception] | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Api:
        model_info = raising(hub_error(asked, "first line\nsecond")) if asked else lambda *_, **__: None

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    if got:
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(hub_error(got, "first line\nsecond")))
    with pytest.raises(InputError, match=f"some/one: .*{words}"):
        fetch("some/one", [zoo.WEIGHTS])


def test_without_a_connection_what_was_downloaded_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        model_info = raising(Answer())

    def download(repo: str, name: str, local_files_only: bool) -> str:
        assert local_files_only
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert fetch("some/one", ["a", "b"]) == [tmp_path / "a", tmp_path / "b"]
