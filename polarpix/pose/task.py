"""The pose task for the trainer: wires data, network, codec, loss and metric; holds no mathematics of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from polarpix.calibration import Calibration, ScoreCounts
from polarpix.config import PoseRun
from polarpix.draw import draw_keypoints
from polarpix.errors import InputError
from polarpix.images import normalize
from polarpix.loading import Key, build_loader, sample_rng
from polarpix.pose.calibrate import Located, count_scores, coverage, fit_keypoints, pose_settings
from polarpix.pose.coco import CocoKeypoints
from polarpix.pose.codec import Codec, build_codec
from polarpix.pose.crop import PoseTransform
from polarpix.pose.evaluate import evaluate_pose, metric_names, open_split
from polarpix.pose.inference import predict_heatmaps, to_image_covariance, to_image_points
from polarpix.pose.loss import pose_loss
from polarpix.pose.model import PoseNet, build_pose_model, heatmap_stride
from polarpix.sheet import tile
from polarpix.types import FloatArray, KeypointSchema, PoseBatch, UInt8Array

__all__ = ["PoseCrops", "PoseData", "PoseTask", "collate", "run_codec"]

Item = tuple[UInt8Array, FloatArray, FloatArray, FloatArray, int]
"""Crop [H, W, 3], target [K * channels, h, w], weight [K], crop -> image affine [2, 3], position in the data set."""


def run_codec(run: PoseRun) -> Codec:
    """The codec of a page, for the heatmaps of its network."""
    height, width = run.model.input_size
    stride = heatmap_stride(run.model)
    return build_codec(run.model.codec, (height, width), (height // stride, width // stride), run.model.sigma)


class PoseCrops:
    """A data set through its transform and codec; asked by (epoch, position)."""

    def __init__(self, dataset: CocoKeypoints, transform: PoseTransform, codec: Codec, seed: int) -> None:
        self.dataset, self.transform, self.codec, self.seed = dataset, transform, codec, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def count(self) -> int:
        """Every instance has a picture."""
        return len(self.dataset)

    def picture(self, key: Key) -> int:
        """That of its instance."""
        return key[1]

    def file(self, picture: int) -> str:
        """The file of an instance's picture."""
        return str(self.dataset.images / self.dataset.instances[picture].file)

    def __getitem__(self, key: Key) -> Item:
        _, position = key
        crop, keypoints, visible, to_image = self.transform(self.dataset[position], sample_rng(self.seed, key))
        target, weight = self.codec.encode(keypoints, visible)
        return crop, target, weight, to_image, position


def collate(items: list[Item]) -> PoseBatch:
    """Stack crops; the images come out channels_last without a copy."""
    crops, targets, weights, affines, positions = zip(*items, strict=True)
    return PoseBatch(
        image=torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2),  # [B, 3, H, W]
        target=torch.from_numpy(np.stack(targets)),  # [B, K * channels, h, w]
        weight=torch.from_numpy(np.stack(weights)),  # [B, K]
        to_image=torch.from_numpy(np.stack(affines)),  # [B, 2, 3]
        index=torch.tensor(positions),  # [B]
    )


class PoseData(pl.LightningDataModule):
    """The splits of a run and their loaders."""

    def __init__(self, run: PoseRun) -> None:
        super().__init__()
        self.run = run
        self.datasets: dict[str, CocoKeypoints] = {}
        self.known: KeypointSchema | None = None  # in place of the file that the page names
        self.start = 0  # batches of its first epoch that a resumed training has had

    def dataset(self, split: str) -> CocoKeypoints:
        """The data set of "train", "val" or "test".

        Raises:
            InputError: the page names no such split, its files are not as they should be, or its keypoints are not
                those of a split opened before.
        """
        if split not in self.datasets:
            found = open_split(self.run.data, self.run.eval, split, self.known)
            for other in self.datasets.values():
                if other.schema.names != found.schema.names:
                    raise InputError(
                        f"{found.annotations}: its keypoints ({', '.join(found.schema.names)}) are not those of "
                        f"{other.annotations} ({', '.join(other.schema.names)}): use files of one skeleton"
                    )
            self.datasets[split] = found
        return self.datasets[split]

    @property
    def labels(self) -> KeypointSchema:
        """The skeleton of the set."""
        return self.dataset("train").schema

    def loader(self, split: str) -> DataLoader[PoseBatch]:
        """The loader of a split; only "train" is augmented and shuffled."""
        dataset, training, trainer = self.dataset(split), split == "train", self.trainer
        transform = PoseTransform(self.run.data, self.run.model, dataset.schema, training)
        return build_loader(
            PoseCrops(dataset, transform, run_codec(self.run), self.run.seed),
            collate,
            seed=self.run.seed,
            training=training,
            batch_size=self.run.engine.batch_size,
            workers=self.run.engine.workers,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
            start=self.start if training else 0,
            skip=self.run.engine.skip_unreadable,
        )

    def train_dataloader(self) -> DataLoader[PoseBatch]:
        return self.loader("train")

    def val_dataloader(self) -> DataLoader[PoseBatch]:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[PoseBatch]:
        return self.loader("test")


class PoseTask(pl.LightningModule):
    """Training and evaluation steps of a pose network.

    Args:
        run: the page.
        labels: the skeleton; its length is the number of keypoints.
        optimizers: called with this task when training starts; gives what Lightning's ``configure_optimizers`` gives.
    """

    def __init__(self, run: PoseRun, labels: KeypointSchema, optimizers: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.run, self.labels, self.optimizers_of = run, labels, optimizers
        self.model: PoseNet = build_pose_model(run.model, len(labels.names))
        self.codec = run_codec(run)
        self.loss = pose_loss(run.loss)
        self.found: list[tuple[Tensor, ...]] = []  # index [B], and what `locate` gives
        self.results: dict[str, float] = {}
        self.coco: list[dict[str, Any]] = []
        self.located: Located | None = None  # of the last evaluation, one of each instance
        self.calibration: Calibration | None = None  # fitted on the last validation

    def configure_optimizers(self) -> Any:
        return self.optimizers_of(self) if self.optimizers_of else None

    @property
    def metric_names(self) -> list[str]:
        """What an evaluation can give."""
        return metric_names(self.run.eval, self.labels)

    def training_step(self, batch: PoseBatch, index: int) -> Tensor:
        layout = torch.channels_last if self.run.engine.channels_last else torch.contiguous_format
        heatmaps = self.model(normalize(batch.image).contiguous(memory_format=layout))  # [B, K * channels, h, w]
        loss: Tensor = self.loss(heatmaps, batch.target, batch.weight)
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch.image), sync_dist=True)
        return loss

    def locate(self, image: Tensor, to_image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Crops uint8 [B, 3, H, W] -> keypoints, scores, spread and pixel as :class:`~polarpix.pose.calibrate.Located`
        has them, by the page's protocol."""
        protocol = self.run.eval
        heatmaps = predict_heatmaps(
            self.model,
            image,
            self.labels.flip_order if protocol.flip_test else None,
            protocol.shift_flipped,
            self.run.engine.channels_last,
            self.codec.channels_per_keypoint,
        )  # [B, K * channels, h, w]
        keypoints, scores = self.codec.decode(heatmaps)
        spread, pixel = (
            to_image_covariance(self.codec.covariance(heatmaps, keypoints, fit), to_image)
            for fit in ((1.0, 0.0), (0.0, 1.0))
        )
        return to_image_points(keypoints, to_image), scores, spread, pixel

    def evaluation_step(self, batch: PoseBatch) -> None:
        self.found.append((batch.index.cpu(), *(one.cpu() for one in self.locate(batch.image, batch.to_image))))

    def evaluation_end(self, split: str) -> None:
        trainer: Any = self.trainer
        dataset: CocoKeypoints = trainer.datamodule.dataset(split)
        parts = gather(self.found)
        index, *columns = (torch.cat(column) for column in zip(*parts, strict=True))
        order = index.argsort()
        located = self.located = Located(*(column[order].numpy() for column in columns))
        self.results, self.coco = evaluate_pose(
            dataset, located.keypoints, located.scores, self.run.eval, self.run.data.box_padding
        )
        self.found = []
        if split == "val":
            measured = self.measured(dataset)
            self.calibration = fit_keypoints(dataset, located, split, pose_settings(self.run)) if measured else None
        for name, value in self.results.items():
            self.log(name, value, prog_bar=name == self.run.monitor)

    def measured(self, dataset: CocoKeypoints) -> bool:
        """Whether each instance of a split has its own annotation, by which scores can be judged."""
        return dataset.labelled and self.run.eval.boxes == "gt"

    def score_counts(self, dataset: CocoKeypoints) -> ScoreCounts | None:
        """The scores of the last evaluation against the annotations; null where there are none."""
        return count_scores(dataset, self.located) if self.located and self.measured(dataset) else None

    def coverage(
        self, dataset: CocoKeypoints, calibration: Calibration | None
    ) -> dict[float, tuple[float, float]] | None:
        """What share of the places the ellipses of the last evaluation held; null where nothing is annotated."""
        return coverage(dataset, self.located, calibration) if self.located and self.measured(dataset) else None

    def on_validation_epoch_start(self) -> None:
        self.found = []

    def validation_step(self, batch: PoseBatch, index: int) -> None:
        self.evaluation_step(batch)

    def on_validation_epoch_end(self) -> None:
        self.evaluation_end("val")

    def on_test_epoch_start(self) -> None:
        self.found = []

    def test_step(self, batch: PoseBatch, index: int) -> None:
        self.evaluation_step(batch)

    def on_test_epoch_end(self) -> None:
        self.evaluation_end("test")

    @torch.no_grad()
    def pictures(self, dataset: CocoKeypoints, count: int) -> UInt8Array:
        """Truth beside prediction for ``count`` instances spread over a data set: one picture [H, W, 3]."""
        transform = PoseTransform(self.run.data, self.run.model, self.labels, training=False)
        rows: list[UInt8Array] = []
        for position in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int):
            sample = dataset[int(position)]
            crop, truth, visible, _ = transform(sample)
            image = torch.from_numpy(crop).permute(2, 0, 1)[None].to(self.device)  # [1, 3, H, W]
            identity = torch.eye(2, 3, device=self.device)[None]
            keypoints, scores, *_ = self.locate(image, identity)
            zoom = max(1, round(240 / max(crop.shape)))
            rows += [
                draw_keypoints(crop, truth[None], self.labels, visible[None], threshold=0, zoom=zoom),
                draw_keypoints(crop, keypoints.cpu().numpy(), self.labels, scores.cpu().numpy(), zoom=zoom),
            ]
        return tile(rows, columns=4, captions=["truth", "prediction"] * (len(rows) // 2))


def gather(parts: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """The parts of all processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return parts
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, parts)
    return [part for one in everyone for part in one]
