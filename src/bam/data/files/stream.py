"""Batches of images decoded on demand, in an order that depends on (seed, epoch) alone."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from bam.data.files.options import ReadingOptions
from bam.data.files.workers import decode, default_workers
from bam.data.interface import Unreadable
from bam.data.plan import BatchPlan, epoch_generator

#: (seed, epoch) of the augmentation; None for no augmentation.
AugmentationSeed = tuple[int, int] | None


class Decoded(Protocol):
    """The interface of every decoder's output."""

    @property
    def numbers(self) -> Tensor:
        """Numbers of the readable images, int64 (n,)."""

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """(path, problem) of each unreadable image."""


AnyRequest = TypeVar("AnyRequest")
AnyDecoded = TypeVar("AnyDecoded", bound=Decoded)
AnyBatch = TypeVar("AnyBatch")


class StreamedBatches(ABC, Generic[AnyRequest, AnyDecoded, AnyBatch]):
    """A `bam.data.BatchSource` whose images are decoded by worker processes.

    The number of workers does not change the batches. With unreadable="skip", unreadable images are left out of their
    batch. If a process cannot read any image in its share of a training batch, it serves the next readable image in the
    epoch's order instead: each process then has something to train on, and none waits for another.

    Args:
        names: names of the images, for messages.
        decoder: turns a request into decoded images.
        options: how files are read.
        plan: which images go into which batch.
        device: device of the batches.
        augment: whether training images are augmented.
    """

    def __init__(
        self,
        names: Sequence[str],
        decoder: torch.utils.data.Dataset[AnyDecoded],
        options: ReadingOptions,
        plan: BatchPlan,
        device: torch.device | str,
        *,
        augment: bool = True,
    ) -> None:
        self.names, self.decoder, self.options, self.plan = names, decoder, options, plan
        self.device, self.augment = torch.device(device), augment
        self.unreadable = Unreadable()
        workers = options.workers
        if workers is None:  # on a CPU, workers would take cores away from the network
            processes = plan.shard[1]
            workers = 0 if self.device.type == "cpu" else default_workers(len(names) // processes, processes)
        self.num_workers = workers

    @abstractmethod
    def _request(self, numbers: list[int], seed: AugmentationSeed) -> AnyRequest:
        """The request to decode the images `numbers`."""

    @abstractmethod
    def _batch(self, decoded: AnyDecoded) -> AnyBatch:
        """Make a batch on the device from decoded images."""

    @property
    def steps(self) -> int:
        """Batches in a training epoch; a last, short batch is left out."""
        return self.plan.steps

    def train(self, seed: int, epoch: int, start: int = 0) -> Generator[AnyBatch, None, None]:
        """Serve the shuffled, augmented batches of an epoch, starting with batch number `start`. No batch is empty.

        Raises:
            ValueError: for an image that cannot be read, if unreadable="stop"; or if no image can be read.
        """
        order = torch.randperm(len(self.names), generator=epoch_generator(seed, epoch))
        augmentation_seed = (seed, epoch) if self.augment else None
        steps = range(start, self.steps)
        shares = (order[self.plan.training_share(step)] for step in steps)
        for step, decoded in zip(steps, self._decode(shares, augmentation_seed), strict=True):
            if not len(decoded.numbers):
                decoded = self._first_readable(order.roll(-(step + 1) * self.plan.batch_size), augmentation_seed)
            yield self._batch(decoded)

    def test(self) -> Generator[AnyBatch, None, None]:
        """Serve all images in order, without augmentation.

        Raises:
            ValueError: as `train`.
        """
        shares = self.plan.test_shares()
        num_served = 0
        for decoded in self._decode(shares, None):
            if len(decoded.numbers):
                yield self._batch(decoded)
            num_served += len(decoded.numbers)
        numbers = torch.cat(shares).tolist()
        if numbers and not num_served:
            raise ValueError(_nothing_readable([self.names[number] for number in numbers]))

    def take_unreadable(self) -> Unreadable:
        """Return the images left out since the last call, and reset the count."""
        unreadable, self.unreadable = self.unreadable, Unreadable()
        return unreadable

    def _decode(self, shares: Iterable[Tensor], seed: AugmentationSeed) -> Generator[AnyDecoded, None, None]:
        requests = (self._request(share.tolist(), seed) for share in shares)
        for decoded in decode(requests, self.decoder, self.num_workers, self.device.type == "cuda"):
            for path, problem in decoded.unreadable:
                if self.options.unreadable == "stop":
                    raise ValueError(
                        f"{path} {problem}. Replace or remove it, or leave such images out: "
                        """--data-options '{"unreadable": "skip"}'"""
                    )
                self.unreadable.add(Unreadable(1, path))
            yield decoded

    def _first_readable(self, order: Tensor, seed: AugmentationSeed) -> AnyDecoded:
        """The first image in `order` that can be read."""
        for number in order.split(1):
            decoded = self.decoder[self._request(number.tolist(), seed)]
            if len(decoded.numbers):
                return decoded
        raise ValueError(_nothing_readable(self.names))


def _nothing_readable(names: Sequence[str]) -> str:
    return f"none of the {len(names)} images can be read, e.g. {names[0]}; replace them with a fresh copy"
