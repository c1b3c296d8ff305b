"""Parts of building a network that all tasks share: seeds, and BatchNorm over several processes."""

import torch
from accelerate import PartialState
from torch import nn

from bam.recipes import Recipe


def seed_network(recipe: Recipe) -> None:
    """Seed torch for the initial weights of the recipe's network."""
    torch.manual_seed(recipe.seed)


def seed_attention(recipe: Recipe) -> None:
    """Seed torch for the attention's initial weights; no other weights depend on them, so variants stay paired."""
    torch.manual_seed(recipe.seed + 1)


def seed_cross_modal(recipe: Recipe) -> None:
    """Seed torch for the weights of the cross-modal module, on which no others depend either."""
    torch.manual_seed(recipe.seed + 2)


def synchronized(network: nn.Module) -> nn.Module:
    """The network with BatchNorms that compute their statistics over all processes; unchanged for a single process.

    Raises:
        ValueError: on several CPU processes, which torch does not support.
    """
    if PartialState().num_processes == 1:
        return network
    if not torch.cuda.is_available():
        raise ValueError("batchnorm sync is for several GPUs: torch has no version for CPUs; choose another batchnorm")
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)
