"""How much memory a computation keeps for its backward pass."""

import torch


def bytes_saved(compute, *known):
    """Bytes that `compute()` saves for its backward pass, each storage once; those of tensors in `known` do not count."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = compute()
    for tensor in known:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    del output
    return sum(storages.values())
