"""Ways in which others copy a network, each a function of it and of images (N, 3, H, W)."""

import copy
import pickle

import torch

COPIES = {
    "deepcopy": lambda model, images: copy.deepcopy(model),
    "pickle": lambda model, images: pickle.loads(pickle.dumps(model)),
    "fx": lambda model, images: torch.fx.symbolic_trace(model),
    "compile": lambda model, images: torch.compile(model, fullgraph=True, backend="aot_eager"),
    "export": lambda model, images: torch.export.export(model, (images,)).module(),
}
