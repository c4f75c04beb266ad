"""Weights by name: the models in the box, those on the Hugging Face Hub, and files."""

from __future__ import annotations

import difflib
import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polarpix.errors import InputError

__all__ = [
    "DEFAULT",
    "EXPORTED",
    "MODELS",
    "WEIGHTS",
    "BoxedModel",
    "fetch",
    "find_weights",
    "is_exported",
    "is_hub_id",
    "model_and_sources",
    "model_lines",
    "named_folder",
    "no_weights",
]

WEIGHTS = "weights/best.safetensors"  # where a run folder and a repository of the Hub keep them
EXPORTED = (".onnx", ".pt2", ".xml")
"""Endings of the files of ``polarpix export``."""
FOLDER = Path(__file__).resolve().parent / "weights"


@dataclass(frozen=True)
class BoxedModel:
    """A trained network that comes with the package.

    Args:
        file: its weights file; its model card lies beside it, with the ending .md.
        about: what it finds, in a few words.
    """

    file: Path
    about: str

    @property
    def card(self) -> Path:
        """Its model card."""
        return self.file.with_suffix(".md")


MODELS: dict[str, BoxedModel] = {
    "body": BoxedModel(FOLDER / "body.safetensors", "14 joints of one person"),
    "street": BoxedModel(FOLDER / "street.safetensors", "11 classes of a street scene"),
}

DEFAULT = "body"  # for a picture that comes without a model
NETWORK_FILES = (".safetensors", ".pth", ".pt", ".tar", ".ckpt", ".bin", ".onnx", ".pt2", ".xml")


def model_and_sources(words: Sequence[str]) -> tuple[str, list[str]]:
    """The model and its sources on a command line: the first word, or :data:`DEFAULT` where pictures come alone.

    Raises:
        InputError: one word, and it is a model: the picture is what is missing.
    """
    first, *rest = words
    kind = (mimetypes.guess_type(first, strict=False)[0] or "").partition("/")[0]
    if kind in ("image", "video"):
        return DEFAULT, list(words)
    if rest:
        return first, rest
    path = Path(first)
    model = first in MODELS or path.suffix in NETWORK_FILES or (path / WEIGHTS).exists()
    if model or (is_hub_id(first) and not path.exists()):
        raise InputError(f"{first}: a model, and no picture for it: name one behind it, such as {first} photo.jpg")
    return DEFAULT, [first]


def find_weights(name: str | Path) -> Path:
    """The file or folder that a name means.

    Args:
        name: a model of :data:`MODELS`; a file or folder; "user/name", a model on the Hugging Face Hub. A folder that
            is called like a model in the box is given as a ``Path``, or as ``./body`` on the command line.

    Returns:
        The path; where it is of neither kind, as it was given, and perhaps not there.

    Raises:
        InputError: a model that this installation does not hold, one that the Hub does not have or give, or an exported
            file, which holds no weights to load.
    """
    if is_exported(name):
        raise InputError(f"{name}: is an exported file, which predict and info take: give the weights it was made from")
    if isinstance(name, Path):
        return name
    if name in MODELS:
        file = MODELS[name].file
        if not file.is_file():
            raise InputError(
                f"model {name!r}: {file} is not in this installation: install a release that holds it, or give a "
                "weights file or a run folder"
            )
        return file
    if is_hub_id(name) and not Path(name).exists():
        return fetch(name, [WEIGHTS])[0]
    return Path(name)


def is_exported(name: str | Path) -> bool:
    """Whether a name is that of a file of ``polarpix export``."""
    return Path(name).suffix in EXPORTED and not Path(name).is_dir()


def named_folder(name: str | Path) -> Path | None:
    """The folder for what is made of a model by name, whose file is not among the user's own; null for a path."""
    if isinstance(name, Path) or (name not in MODELS and Path(name).exists()):
        return None
    return Path("runs", "named", name.replace("/", "_"))


def is_hub_id(name: str) -> bool:
    """Whether a name has the form "user/name" and is not the name of a file."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name)) and not re.search(
        r"\.(safetensors|pth|pt|tar|ckpt|bin|onnx)$", name
    )


def no_weights(path: Path) -> str:
    """What to say of a path where there are no weights."""
    near = difflib.get_close_matches(str(path), MODELS, n=1)
    give = f"give a run folder, its {WEIGHTS}, or the name of a model ({', '.join(MODELS)})"
    return f"{path}: no such weights file: {f'did you mean the model {near[0]!r}?' if near else give}"


def fetch(repo: str, names: Sequence[str]) -> list[Path]:
    """Files of a model on the Hugging Face Hub, downloaded once; without a network those that were downloaded before.

    Raises:
        InputError: no such repository, none that may be read, a file it does not hold, or no connection.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    reason = ""
    try:
        HfApi().model_info(repo, timeout=10)
    except GatedRepoError as error:
        raise InputError(f"{repo}: asks for consent: give it at https://huggingface.co/{repo}, then log in") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{repo}: no such file or folder here and no such model on the Hugging Face Hub: check the name; a private "
            "one needs 'hf auth login'"
        ) from error
    except Exception as error:  # whose errors come up depends on the version of huggingface_hub: requests or httpx
        reason = (str(error) or type(error).__name__).splitlines()[0]
    files = []
    for name in names:
        try:
            files.append(Path(hf_hub_download(repo, name, local_files_only=bool(reason))))
        except LocalEntryNotFoundError as error:
            raise InputError(
                f"{repo}: no such file or folder here, and the Hugging Face Hub cannot be reached ({reason or error}): "
                "check the name or the connection"
            ) from error
        except EntryNotFoundError as error:
            raise InputError(f"{repo}: holds no {name}: it was not pushed by polarpix") from error
        except Exception as error:  # as above
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"{repo}: {name} could not be downloaded ({line}): try again") from error
    return files


def model_lines() -> list[str]:
    """One line for each model in the box: name, megabytes, what it finds."""
    lines = []
    for name, model in MODELS.items():
        there = model.file.is_file()
        size = f"{model.file.stat().st_size / 1e6:.1f} MB" if there else "not here"
        lines.append(f"{name:<10} {size:>8}  {model.about}" + (f"; card: {model.card}" if there else ""))
    return lines
