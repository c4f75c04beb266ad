"""The segmentation task for the trainer: wires data, network, loss and metric; holds no mathematics of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from polarpix.calibration import Calibration, ScoreCounts, fit_curve
from polarpix.config import SegRun
from polarpix.draw import draw_mask
from polarpix.errors import InputError
from polarpix.images import normalize
from polarpix.loading import Key, build_loader, sample_rng
from polarpix.seg.analysis import Ranking, picture_score
from polarpix.seg.augment import SegTransform
from polarpix.seg.datasets import SegDataset, build_seg_dataset, with_coarse
from polarpix.seg.loss import seg_loss, training_loss
from polarpix.seg.miou import ConfusionMatrix, SegScores
from polarpix.seg.model import build_seg_model, warn_of_reach
from polarpix.seg.multiscale import predict_probabilities
from polarpix.seg.submission import Submission
from polarpix.seg.uniform import class_index, draw_uniform
from polarpix.sheet import tile
from polarpix.types import ClassTable, SegBatch, UInt8Array

__all__ = ["SegCrops", "SegData", "SegTask", "collate", "pixel_settings"]

Item = tuple[UInt8Array, UInt8Array, int]
"""Image [H, W, 3], label [H, W], position in the data set."""


class SegCrops:
    """A data set through its transform; asked by (epoch, position).

    When training, a share ``data.uniform`` of the positions is replaced by a class drawn uniformly and a picture that
    holds it (class-uniform sampling, Zhu et al., CVPR 2019). Which picture holds what is kept in the folder ``cache``.
    Coarsely labelled pictures are then drawn in no other way, and without it follow the others in every epoch.
    """

    def __init__(self, dataset: SegDataset, transform: SegTransform, seed: int, cache: Path | None = None) -> None:
        data = transform.data
        self.dataset = with_coarse(data, dataset) if transform.training else dataset
        self.transform, self.seed = transform, seed
        self.uniform = data.uniform if transform.training else 0.0
        self.length = len(dataset) if self.uniform else len(self.dataset)
        self.holders = class_index(self.dataset, cache) if self.uniform else []
        if self.holders and data.coarse_classes is not None:
            for name, holders in zip(dataset.classes.names, self.holders, strict=True):
                if name not in data.coarse_classes:
                    holders[:] = [position for position in holders if position < self.length]

    def __len__(self) -> int:
        return self.length

    def drawn(self, key: Key, rng: np.random.Generator) -> tuple[int, int | None]:
        """The picture that is read, and the class its crop is centred on, if any."""
        if self.uniform and rng.random() < self.uniform:
            return draw_uniform(self.holders, rng)
        return key[1], None

    def count(self) -> int:
        """Those that may be drawn, coarsely labelled ones among them."""
        return len(self.dataset)

    def picture(self, key: Key) -> int:
        """The one that is drawn for a crop."""
        return self.drawn(key, sample_rng(self.seed, key))[0]

    def file(self, picture: int) -> str:
        """The file of a picture."""
        return str(self.dataset.files[picture][0])

    def __getitem__(self, key: Key) -> Item:
        rng = sample_rng(self.seed, key)
        position, focus = self.drawn(key, rng)
        image, label = self.transform(self.dataset[position], rng, focus)
        return image, label, position


def collate(items: list[Item]) -> SegBatch:
    """Stack crops of one size; the images come out channels_last without a copy."""
    images, labels, positions = zip(*items, strict=True)
    image = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # [B, 3, H, W]
    return SegBatch(image, torch.from_numpy(np.stack(labels)), torch.tensor(positions))


class SegData(pl.LightningDataModule):
    """The splits of a run and their loaders."""

    def __init__(self, run: SegRun) -> None:
        super().__init__()
        self.run = run
        self.datasets: dict[str, SegDataset] = {}
        self.start = 0  # batches of its first epoch that a resumed training has had

    def dataset(self, split: str) -> SegDataset:
        """The data set of "train", "val" or "test" (the page says which folder or list that is).

        Raises:
            InputError: the page names no such split, or its files are not as they should be.
        """
        if split not in self.datasets:
            name = {"train": self.run.data.train, "val": self.run.data.val, "test": self.run.data.test}[split]
            if name is None:
                raise InputError(f"data.{split} is empty on this page: name the split, or evaluate another one")
            self.datasets[split] = build_seg_dataset(self.run.data, name)
        return self.datasets[split]

    @property
    def labels(self) -> ClassTable:
        """The class table of the set."""
        return self.dataset("train").classes

    def crops(self, split: str) -> SegCrops:
        """What the network sees of a split; only "train" is augmented."""
        dataset = self.dataset(split)
        transform = SegTransform(self.run.data, dataset.classes.ignore, split == "train", self.run.eval.centre_crop)
        return SegCrops(dataset, transform, self.run.seed, cache=Path(self.run.out) / "cache")

    def loader(self, split: str, batch_size: int) -> DataLoader[SegBatch]:
        """The loader of a split; only "train" is augmented and shuffled."""
        trainer = self.trainer
        return build_loader(
            self.crops(split),
            collate,
            seed=self.run.seed,
            training=split == "train",
            batch_size=batch_size,
            workers=self.run.engine.workers,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
            start=self.start if split == "train" else 0,
            skip=self.run.engine.skip_unreadable,
        )

    def train_dataloader(self) -> DataLoader[SegBatch]:
        warn_of_reach(self.run.model, self.run.data.crop_size)
        return self.loader("train", self.run.engine.batch_size)

    def val_dataloader(self) -> DataLoader[SegBatch]:
        return self.loader("val", 1)  # pictures of a set may differ in size

    def test_dataloader(self) -> DataLoader[SegBatch]:
        return self.loader("test", 1)


class SegTask(pl.LightningModule):
    """Training and evaluation steps of a segmentation network.

    Args:
        run: the page.
        labels: the class table; its length is the number of outputs.
        optimizers: called with this task when training starts; gives what Lightning's ``configure_optimizers`` gives.
    """

    def __init__(self, run: SegRun, labels: ClassTable, optimizers: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.run, self.labels, self.optimizers_of = run, labels, optimizers
        self.model = build_seg_model(run.model, len(labels.names))
        seg_loss(run.loss)  # refuses an unknown name before anything is trained
        self.results: dict[str, float] = {}
        self.counts = ScoreCounts()  # of the last evaluation: confidences against the truth
        self.calibration: Calibration | None = None  # fitted on the last validation
        self.submission: Submission | None = None  # takes every prediction of an evaluation
        self.ranking: Ranking | None = None  # likewise, with its score

    def configure_optimizers(self) -> Any:
        return self.optimizers_of(self) if self.optimizers_of else None

    @property
    def metric_names(self) -> list[str]:
        """What an evaluation can give."""
        return list(SegScores(0.0, (0.0,) * len(self.labels.names), 0.0, 0.0, 0.0, 0).metrics(self.labels))

    def inputs(self, image: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> normalised, in the page's memory layout."""
        layout = torch.channels_last if self.run.engine.channels_last else torch.contiguous_format
        return normalize(image).contiguous(memory_format=layout)

    def training_step(self, batch: SegBatch, index: int) -> Tensor:
        run = self.run
        outputs = self.model.outputs(self.inputs(batch.image))
        loss = training_loss(outputs, batch.label, self.labels.ignore, run.loss, run.aux_weight, run.scale_weight)
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch.image), sync_dist=True)
        return loss

    def evaluation_step(self, batch: SegBatch) -> None:
        probabilities = predict_probabilities(
            self.model, self.inputs(batch.image), self.run.eval, self.run.data.crop_size
        )  # [B, C, H, W]
        confidence, found = probabilities.max(dim=1)  # [B, H, W]
        cells = self.confusion.update(found, batch.label)  # [C, C]
        known = batch.label != self.labels.ignore
        self.counts.add(confidence[known].float().cpu().numpy(), (found == batch.label)[known].cpu().numpy())
        if self.ranking:  # one picture a batch, see SegData
            label = found[0].to(torch.uint8).cpu().numpy()
            self.ranking.add(int(batch.index[0]), picture_score(cells.cpu().numpy()), label)
        if self.submission:
            for position, label in zip(batch.index.tolist(), found.to(torch.uint8).cpu().numpy(), strict=True):
                self.submission.write(position, label)

    def evaluation_end(self, split: str) -> None:
        self.confusion.all_reduce()
        gather(self.counts)
        if self.ranking:
            self.ranking.gather()
        scores = self.confusion.compute()
        # A server may have the labels: there is then nothing to measure, only something to write.
        self.results = scores.metrics(self.labels) if scores.pixels or not self.submission else {}
        for name, value in self.results.items():
            self.log(name, value, prog_bar=name == self.run.monitor)
        if split == "val":
            self.calibration = fit_pixels(self.counts, self.run)

    def score_counts(self, dataset: SegDataset) -> ScoreCounts:
        """The confidences of the last evaluation against the truth."""
        return self.counts

    def on_validation_epoch_start(self) -> None:
        self.counts = ScoreCounts()
        self.confusion = ConfusionMatrix(len(self.labels.names), self.labels.ignore, self.device)

    def validation_step(self, batch: SegBatch, index: int) -> None:
        self.evaluation_step(batch)

    def on_validation_epoch_end(self) -> None:
        self.evaluation_end("val")

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(self, batch: SegBatch, index: int) -> None:
        self.evaluation_step(batch)

    def on_test_epoch_end(self) -> None:
        self.evaluation_end("test")

    @torch.no_grad()
    def pictures(self, dataset: SegDataset, count: int) -> UInt8Array:
        """Truth beside prediction for ``count`` samples spread over a data set: one picture [H, W, 3]."""
        rows: list[UInt8Array] = []
        for position in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int):
            sample = dataset[int(position)]
            image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].to(self.device)
            probabilities = predict_probabilities(
                self.model, self.inputs(image), self.run.eval, self.run.data.crop_size
            )
            found = probabilities[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
            zoom = max(1, round(240 / max(sample.image.shape)))
            rows += [
                draw_mask(sample.image, sample.label, self.labels, zoom=zoom),
                draw_mask(sample.image, found, self.labels, zoom=zoom),
            ]
        return tile(rows, columns=4, captions=["truth", "prediction"] * (len(rows) // 2))


def gather(counts: ScoreCounts) -> None:
    """Add up what the processes of a distributed run have counted; nothing happens in a single process."""
    if dist.is_available() and dist.is_initialized():
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, counts.counts)
        counts.counts = np.sum(everyone, axis=0)


def pixel_settings(run: SegRun) -> dict[str, Any]:
    """What the confidences of a network depend on besides its weights."""
    values = {key: getattr(run.eval, key) for key in ("mode", "window", "overlap", "scales", "flip")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def fit_pixels(counts: ScoreCounts, run: SegRun) -> Calibration | None:
    """The calibration of a network from its confidences on the validation split; null where nothing is labelled."""
    if not counts.total:
        return None
    return Calibration(*fit_curve(counts), split="val", samples=counts.total, protocol=pixel_settings(run))
