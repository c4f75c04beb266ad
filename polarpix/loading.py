"""Samplers, seeds and loaders: the same samples in the same order whatever the number of processes and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, get_worker_info

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

    def count(self) -> int:
        """How many pictures samples are made of; an epoch may have more or fewer samples."""
        ...

    def picture(self, key: Key) -> int:
        """Which of them a sample is made of, which may be drawn anew in each epoch; without reading it."""
        ...

    def file(self, picture: int) -> str:
        """The file of a picture."""
        ...


def sample_rng(seed: int, key: Key) -> np.random.Generator:
    """The generator that augments one sample in one epoch of one run."""
    return np.random.default_rng([seed, *key])


class EpochSampler(Sampler[Key]):
    """Yields (epoch, position) pairs.

    With ``shuffle`` the order is a permutation drawn from (seed, epoch) and every rank gets equally many samples
    (the tail of fewer than ``world`` samples is left out of that epoch). Step s of ``world`` ranks with batch b covers
    the same samples as step s of one process with batch b * world. Without ``shuffle`` every position is yielded
    exactly once over all ranks: nothing is repeated to make the ranks even, so a metric counts each sample once.

    The first epoch that is asked for leaves out its first ``start`` samples of each rank: a resumed run has had them.

    Raises:
        InputError: fewer samples than ranks.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, rank: int = 0, world: int = 1, start: int = 0) -> None:
        if length < world:
            raise InputError(f"a split of {length} samples cannot be shared by {world} processes: use fewer devices")
        self.length, self.seed, self.shuffle, self.rank, self.world = length, seed, shuffle, rank, world
        self.epoch, self.start = 0, start

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch, also after a resume."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
            order = order[: self.length - self.length % self.world]
        epoch, start, self.start = self.epoch, self.start, 0
        for position in order[self.rank :: self.world][start:]:
            yield epoch, int(position)

    def __len__(self) -> int:
        if self.shuffle:
            return self.length // self.world
        return len(range(self.rank, self.length, self.world))


def shared(tensor: Tensor) -> Tensor:
    """The tensor in memory that processes forked or started from this one share."""
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor


class Carrying:
    """A data set that hands an :class:`InputError` over as an item.

    Raised in a loading process it would reach the user inside the text of a traceback. Every loading process notes in
    shared memory which sample it is at, so that one that dies can be told from the outside.

    Args:
        dataset: what is read.
        workers: how many processes read.
        skip: take the next readable sample in the place of one that cannot be read, and note it.
    """

    def __init__(self, dataset: Keyed[Any], workers: int = 0, skip: bool = False) -> None:
        self.dataset, self.skip = dataset, skip
        self.at = shared(torch.full((max(workers, 1), 2), -1))  # the key that each process is at
        self.unreadable = shared(torch.zeros(dataset.count() if skip else 0, dtype=torch.bool))  # pictures

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Any:
        process = get_worker_info()
        if process is not None:
            self.at[process.id] = torch.tensor(key)
        try:
            return self.dataset[key]
        except InputError as error:
            return self.next_readable(key, error) if self.skip else error

    def next_readable(self, key: Key, error: InputError) -> Any:
        """The sample after one that cannot be read; the error itself where none can."""
        epoch, position = key
        self.unreadable[self.dataset.picture(key)] = True
        for step in range(1, len(self)):
            other = epoch, (position + step) % len(self)
            if not self.unreadable[self.dataset.picture(other)]:
                try:
                    return self.dataset[other]
                except InputError:
                    self.unreadable[self.dataset.picture(other)] = True
        return error

    def file(self, picture: int) -> str:
        """The file of a picture, numbered as in what the loader's batches call ``index``."""
        return self.dataset.file(picture)


class CarryingCollate:
    """A collate function that lets the first such item through instead of a batch."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        error = next((item for item in items if isinstance(item, InputError)), None)
        return self.collate(items) if error is None else error


class Loader(DataLoader[Batch]):
    """A loader that raises, in the process of the reader, what :class:`Carrying` handed over."""

    dataset: Carrying  # type: ignore[assignment]  # torch types the index as int; ours is a Key
    processes: Sequence[Any] = ()  # that load at the moment

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch promises a class of its own
        batches = super().__iter__()
        self.processes = getattr(batches, "_workers", ())
        for batch in batches:
            if isinstance(batch, InputError):
                raise batch
            yield batch

    def lost(self) -> list[str]:
        """What each loading process that died was reading: one line each."""
        lines = []
        for number, process in enumerate(self.processes):
            if not process.is_alive() and process.exitcode:
                how = f"signal {-process.exitcode}" if process.exitcode < 0 else f"status {process.exitcode}"
                epoch, position = self.dataset.at[number].tolist()
                reader = self.dataset.dataset
                at = "" if position < 0 else reader.file(reader.picture((epoch, position)))
                told = f"on {at}" if at else "before its first picture"
                lines.append(f"{told} ({how})")
        return lines

    def unreadable(self) -> list[str]:
        """The pictures that were passed over so far."""
        return [self.dataset.file(int(one)) for one in self.dataset.unreadable.nonzero()]


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
    start: int = 0,
    skip: bool = False,
) -> Loader[Batch]:
    """A loader that shuffles and drops the last incomplete batch in training, and visits everything once otherwise.

    Args:
        dataset: what is read.
        collate: samples to a batch.
        seed: of the order.
        training: shuffled, in whole batches.
        batch_size: samples of this process's batch.
        workers: loading processes; 0 for none.
        rank: of this process.
        world: how many processes share the samples.
        start: batches that the first epoch leaves out, because a resumed run has had them.
        skip: pass over training samples that cannot be read.

    Raises:
        InputError: fewer samples than processes; and, while it is read, whatever is wrong with a sample.
    """
    sampler = EpochSampler(len(dataset), seed, training, rank, world, start * batch_size)
    return Loader(
        Carrying(dataset, workers, skip and training),  # type: ignore[arg-type]  # torch types the index as int
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
