"""Samplers, seeds and loaders: the same samples in the same order whatever the number of processes and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from polarpix.errors import InputError

__all__ = ["EpochSampler", "Key", "Loader", "build_loader", "sample_rng"]

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

    Raises:
        InputError: fewer samples than ranks.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, rank: int = 0, world: int = 1) -> None:
        if length < world:
            raise InputError(f"a split of {length} samples cannot be shared by {world} processes: use fewer devices")
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


class Carrying:
    """A data set that hands an :class:`InputError` over as an item.

    Raised in a loading process it would reach the user inside the text of a traceback.
    """

    def __init__(self, dataset: Keyed[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Any:
        try:
            return self.dataset[key]
        except InputError as error:
            return error


class CarryingCollate:
    """A collate function that lets the first such item through instead of a batch."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        error = next((item for item in items if isinstance(item, InputError)), None)
        return self.collate(items) if error is None else error


class Loader(DataLoader[Batch]):
    """A loader that raises, in the process of the reader, what :class:`Carrying` handed over."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch promises a class of its own
        for batch in super().__iter__():
            if isinstance(batch, InputError):
                raise batch
            yield batch


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
) -> Loader[Batch]:
    """A loader that shuffles and drops the last incomplete batch in training, and visits everything once otherwise.

    Raises:
        InputError: fewer samples than processes; and, while it is read, whatever is wrong with a sample.
    """
    sampler = EpochSampler(len(dataset), seed, training, rank, world)
    return Loader(
        Carrying(dataset),  # type: ignore[arg-type]  # torch types the index as int; ours is a Key
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=CarryingCollate(collate),
        pin_memory=torch.cuda.is_available(),
        drop_last=training and len(sampler) >= batch_size,
        persistent_workers=False,
        worker_init_fn=limit_threads,
        generator=torch.Generator().manual_seed(seed),
    )
