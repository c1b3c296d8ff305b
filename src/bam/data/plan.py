"""The order in which images are served."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchPlan:
    """Which images go into which batch, and which process serves them.

    Attributes:
        num_images: size of the data set.
        batch_size: images per batch, over all processes together.
        shard: (rank, number of processes); each process serves its share of every batch.
    """

    num_images: int
    batch_size: int
    shard: tuple[int, int] = (0, 1)

    @property
    def steps(self) -> int:
        """Batches in a training epoch; a last, short batch is left out."""
        return self.num_images // self.batch_size

    def training_share(self, step: int) -> slice:
        """The positions of this process's share of training batch `step` in the epoch's order."""
        rank, processes = self.shard
        return slice(step * self.batch_size + rank, (step + 1) * self.batch_size, processes)

    def test_shares(self, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """Numbers of the test images that this process serves, batch by batch: int64 (n,) each."""
        rank, processes = self.shard
        numbers = torch.arange(rank, self.num_images, processes, device=device)
        return numbers.split(max(1, self.batch_size // processes))


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The generator that shuffles an epoch."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)
