"""A network with its card in a folder or on the Hugging Face Hub; :func:`polarpix.load` takes both back."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from polarpix.engine.artifact import Artifact, load_artifact, write_artifact, write_text
from polarpix.errors import InputError
from polarpix.hub.card import Facts, model_card
from polarpix.records import read_record
from polarpix.zoo import MODELS, WEIGHTS, is_hub_id

__all__ = ["Shareable", "halved", "push", "save_pretrained"]


class Shareable:
    """What holds a network and can be given away: :class:`polarpix.predict.PosePredictor` and its neighbour."""

    artifact: Artifact

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write weights, page and card; the options are those of :func:`save_pretrained`."""
        return save_pretrained(self.artifact, folder, **options)

    def push_to_hub(self, repo: str, **options: Any) -> str:
        """Upload weights, page and card; the options are those of :func:`push`."""
        return push(self.artifact, repo, **options)


def save_pretrained(
    source: Artifact | str | Path,
    target: str | Path,
    *,
    facts: Facts | None = None,
    record: str | Path = "",
    half: bool = False,
    name: str = "",
) -> Path:
    """Write a network with its card: ``README.md``, ``config.yaml`` and ``weights/best.safetensors``.

    Args:
        source: a run folder, a weights file, or what was loaded from one.
        target: a folder, which is then as good as a run folder; or a file ending in .safetensors, for the weights alone
            with the card beside them (body.safetensors and body.md).
        facts: what the card is to say of data and licences.
        record: record.json of an evaluation; by default that of the run folder's test split, else of its val split.
        half: keep the weights of convolutions and layers in 16 bits: half the size.
        name: what the card's lines load; by default the target, or the model's name where that is its place in the box.

    Returns:
        The target.

    Raises:
        InputError: no such weights, a record of another network, or a place that cannot be written.
    """
    artifact, found = opened(source, record)
    artifact = halved(artifact) if half else artifact
    target = Path(target)
    single = target.suffix == ".safetensors"
    boxed = next((key for key, model in MODELS.items() if model.file == target.resolve()), "")
    card = model_card(artifact, name or boxed or str(target), facts, found)
    if single:
        write_artifact(target, artifact)
        write_text(target.with_suffix(".md"), card)
        return target
    write_artifact(target / WEIGHTS, artifact)
    write_text(target / "config.yaml", yaml.safe_dump(artifact.run, sort_keys=False, allow_unicode=True))
    write_text(target / "README.md", card)
    return target


def push(
    source: Artifact | str | Path,
    repo: str,
    *,
    facts: Facts | None = None,
    record: str | Path = "",
    half: bool = False,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a network with its card to the Hugging Face Hub.

    Args:
        source: a run folder, a weights file, or what was loaded from one.
        repo: "user/name"; made if it is not there.
        facts: what the card is to say of data and licences.
        record: record.json of an evaluation, as for :func:`save_pretrained`.
        half: keep the weights of convolutions and layers in 16 bits.
        private: of a new repository: for its owner only.
        token: of the Hub; by default the one of ``hf auth login``.

    Returns:
        The address of the repository.

    Raises:
        InputError: a name of another form, no such weights, no connection, no login, or no right to write there.
    """
    if not is_hub_id(repo):
        raise InputError(f"repository {repo!r}: give user/name, as on the Hugging Face Hub")
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(source, folder, facts=facts, record=record, half=half, name=repo)
        try:
            api = HfApi(token=token)
            address = str(api.create_repo(repo, private=private, exist_ok=True))
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Weights, page and card from polarpix")
        except Exception as error:  # whose errors come up depends on the version of huggingface_hub: requests or httpx
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{repo}: could not be uploaded ({reason}): check the connection and 'hf auth login', or write a "
                "folder instead"
            ) from error
    return address


def halved(artifact: Artifact) -> Artifact:
    """The same with every matrix and kernel in 16 bits; vectors, among them statistics that may be large, stay."""

    def half(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.half() if tensor.dtype == torch.float32 and tensor.dim() > 1 else tensor

    return dataclasses.replace(artifact, state={name: half(tensor) for name, tensor in artifact.state.items()})


def opened(source: Artifact | str | Path, record: str | Path) -> tuple[Artifact, dict[str, Any] | None]:
    """The weights, and the record of their evaluation where there is one."""
    artifact = source if isinstance(source, Artifact) else load_artifact(source)
    if record:
        return artifact, read_record(record)
    file = Path(artifact.file)
    if file.parent.name == "weights":
        for split in ("test", "val"):
            path = file.parent.parent / "eval" / split / "record.json"
            if path.is_file():
                return artifact, read_record(path)
    return artifact, None
