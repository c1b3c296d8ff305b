"""Image files decoded batch by batch, in an order that depends on (seed, epoch) alone: what all of them share."""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from bam.data.folder.workers import decode, default_workers
from bam.data.interface import Unreadable, epoch_generator

#: The (seed, epoch) to augment images by; None to leave them as they are.
Augmentation = tuple[int, int] | None


class Decoded(Protocol):
    """What comes of a request, whatever else it holds."""

    @property
    def numbers(self) -> Tensor:
        """The numbers of the images that could be read, int64 (n,)."""

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """(path, what is wrong with it) of the rest."""


class ReadingOptions(Protocol):
    """How files are read; nothing that is computed depends on it."""

    @property
    def workers(self) -> int | None:
        """Processes that decode; None chooses."""

    @property
    def unreadable(self) -> str:
        """ "stop" at a damaged image, or "skip" it."""


AnyRequest = TypeVar("AnyRequest")
AnyDecoded = TypeVar("AnyDecoded", bound=Decoded)


class Stream(Generic[AnyRequest, AnyDecoded]):
    """What a decoder makes of images, in batches. They do not depend on the number of processes that decode.

    With unreadable="skip", an image that cannot be read is left out of its batch. If none of a process's part of a
    training batch can be read, the next readable image of the epoch's order stands in: no process trains on nothing,
    and none waits for another that has nothing to train on.

    Args:
        names: of the images, for messages.
        decoder: requests to what comes of them.
        ask: (numbers of images, how to augment them) to a request.
        options: how files are read.
        batch_size: over all processes together.
        device: where batches go.
        shard: (rank, number of processes); each decodes its share alone.
    """

    def __init__(
        self,
        names: Sequence[str],
        decoder: torch.utils.data.Dataset[AnyDecoded],
        ask: Callable[[list[int], Augmentation], AnyRequest],
        options: ReadingOptions,
        batch_size: int,
        device: torch.device,
        shard: tuple[int, int],
    ) -> None:
        self.names, self.decoder, self.ask, self.options = names, decoder, ask, options
        self.batch_size, self.device, self.shard = batch_size, device, shard
        self.unreadable = Unreadable()
        workers = options.workers
        if workers is None:  # on a CPU they would take from the network the cores that it computes on
            workers = 0 if device.type == "cpu" else default_workers(len(names) // shard[1], shard[1])
        self.num_workers = workers

    @property
    def steps(self) -> int:
        """Batches in a training epoch; a last, short batch is left out."""
        return len(self.names) // self.batch_size

    def train(
        self, seed: int, epoch: int, start: int = 0, *, augment: bool = True
    ) -> Generator[AnyDecoded, None, None]:
        """The shuffled batches of an epoch, from batch number `start` on, none of them empty.

        Without `augment`, images are as they are in testing.

        Raises:
            ValueError: for an image that cannot be read, unless such are skipped; then if there is no other.
        """
        order = torch.randperm(len(self.names), generator=epoch_generator(seed, epoch))
        augmentation = (seed, epoch) if augment else None
        rank, processes = self.shard
        steps = range(start, self.steps)
        parts = (order[step * self.batch_size + rank : (step + 1) * self.batch_size : processes] for step in steps)
        for step, decoded in zip(steps, self._decode(parts, augmentation), strict=True):
            if not len(decoded.numbers):
                decoded = self._stand_in(order.roll(-(step + 1) * self.batch_size), augmentation)
            yield decoded

    def test(self) -> Generator[AnyDecoded, None, None]:
        """All images in order, as they are.

        Raises:
            ValueError: for an image that cannot be read, unless such are skipped; then if there is no other.
        """
        rank, processes = self.shard
        mine = torch.arange(rank, len(self.names), processes)
        served = 0
        for decoded in self._decode(mine.split(max(1, self.batch_size // processes)), None):
            if len(decoded.numbers):
                yield decoded
            served += len(decoded.numbers)
        if not served and len(mine):
            raise ValueError(_nothing_readable([self.names[number] for number in mine.tolist()]))

    def take_unreadable(self) -> Unreadable:
        """The images that the batches served since the last call lack."""
        taken, self.unreadable = self.unreadable, Unreadable()
        return taken

    def _decode(self, parts: Iterable[Tensor], augmentation: Augmentation) -> Generator[AnyDecoded, None, None]:
        requests = (self.ask(part.tolist(), augmentation) for part in parts)
        for decoded in decode(requests, self.decoder, self.num_workers, self.device.type == "cuda"):
            for path, wrong in decoded.unreadable:
                if self.options.unreadable == "stop":
                    raise ValueError(
                        f"{path} {wrong}. Replace or remove it, or leave such images out: "
                        """--data-options '{"unreadable": "skip"}'"""
                    )
                self.unreadable.add(Unreadable(1, path))
            yield decoded

    def _stand_in(self, order: Tensor, augmentation: Augmentation) -> AnyDecoded:
        """The first image in `order` that can be read."""
        for number in order.split(1):
            decoded = self.decoder[self.ask(number.tolist(), augmentation)]
            if len(decoded.numbers):
                return decoded
        raise ValueError(_nothing_readable(self.names))


def _nothing_readable(names: Sequence[str]) -> str:
    return f"none of the {len(names)} images can be read, e.g. {names[0]}"
