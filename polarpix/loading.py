"""Samplers, seeds and loaders: the same samples in the same order whatever the number of processes and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

__all__ = ["EpochSampler", "Key", "build_loader", "sample_rng"]

Key = tuple[int, int]
"""Epoch and position: what a sampler hands to a data set, so that a sample's randomness depends on nothing else."""

Item = TypeVar("Item", covariant=True)
Batch = TypeVar("Batch")


class Keyed(Protocol[Item]):
    """A data set that is asked by :data:`Key`."""

    def __getitem__(self, key: Key) -> Item: ...

    def __len__(self) -> int: ...


def sample_rng(seed: int, key: Key) -> np.random.Generator:
    """The generator that augments one sample in one epoch of one run."""
    return np.random.default_rng([seed, *key])


class EpochSampler(Sampler[Key]):
    """Yields (epoch, position) pairs.

    With ``shuffle`` the order is a permutation drawn from (seed, epoch) and every rank gets equally many samples
    (the tail of fewer than ``world`` samples is left out of that epoch). Step s of ``world`` ranks with batch b covers
    the same samples as step s of one process with batch b * world. Without ``shuffle`` every position is yielded
    exactly once over all ranks: nothing is repeated to make the ranks even, so a metric counts each sample once.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, rank: int = 0, world: int = 1) -> None:
        if shuffle and length < world:
            raise ValueError(f"{length} training samples cannot be shared by {world} processes")
        self.length, self.seed, self.shuffle, self.rank, self.world = length, seed, shuffle, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch, also after a resume."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
            order = order[: self.length - self.length % self.world]
        for position in order[self.rank :: self.world]:
            yield self.epoch, int(position)

    def __len__(self) -> int:
        if self.shuffle:
            return self.length // self.world
        return len(range(self.rank, self.length, self.world))


def limit_threads(worker: int) -> None:
    """One thread per loading process: the processes are the parallelism."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def build_loader(
    dataset: Keyed[Any],
    collate: Callable[[list[Any]], Batch],
    *,
    seed: int,
    training: bool,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Batch]:
    """A loader that shuffles and drops the last incomplete batch in training, and visits everything once otherwise."""
    sampler = EpochSampler(len(dataset), seed, training, rank, world)
    as_torch: Dataset[Any] = dataset  # type: ignore[assignment]  # torch types the index as int; ours is a Key
    return DataLoader(
        as_torch,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        drop_last=training and len(sampler) >= batch_size,
        persistent_workers=False,
        worker_init_fn=limit_threads,
        generator=torch.Generator().manual_seed(seed),
    )
