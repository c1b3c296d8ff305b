"""Attach attention to a torchvision network, check that its output stays the same, and train with a frozen backbone.

python examples/attach_to_torchvision.py
"""

import tempfile
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

import bam

torch.manual_seed(0)
model = resnet18(weights=None).eval()  # weights="DEFAULT" for the pretrained network
images, labels = torch.randn(8, 3, 64, 64), torch.randint(1000, (8,))
plain = model(images)

bam.attach(model, identity=True)
print("attention at", *bam.attended(model), "- output unchanged:", torch.equal(model(images), plain))

# Fine-tuning: only the attention and the classifier learn; the attention has its own learning rate.
bam.freeze_backbone(model, trainable=["fc"])
optimizer = torch.optim.SGD([{"params": model.fc.parameters()}, *bam.attention_groups(model, lr=0.1)], lr=0.01)
model.train()
for step in range(3):
    loss = cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}")

with tempfile.TemporaryDirectory() as folder:  # the attention alone, for any copy of the backbone
    path = Path(folder) / "attention.safetensors"
    bam.save_attention(model, path)
    print(f"attention saved in {path.stat().st_size / 1e3:.0f} kB")
attended = model.eval()(images)
with bam.without_attention(model):
    print(f"loss with it {cross_entropy(attended, labels):.3f}, without {cross_entropy(model(images), labels):.3f}")
