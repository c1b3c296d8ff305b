"""Attention in timm's networks: attached in one line, by timm name, and in a feature backbone.

python examples/attach_to_timm.py
"""

import timm
import torch

import bam
import bam.timm  # registers bam_resnet18, bam_convnext_tiny, ... with timm

torch.manual_seed(0)
images = torch.randn(2, 3, 64, 64)

# Any network, in one line. Swin's maps are (N, H, W, C); `attach` handles them too.
for name in ("efficientnet_b0", "convnext_atto", "swinv2_cr_tiny_ns_224"):
    model = timm.create_model(name).eval()
    size = model.pretrained_cfg["input_size"][1] if "swin" in name else 64
    image = torch.randn(1, 3, size, size)
    plain = model(image)
    bam.attach(model, identity=True)
    print(f"{name}: attention at {', '.join(bam.attended(model))}; unchanged: {torch.equal(model(image), plain)}")

# By name; pretrained=True would load timm's weights and keep their output exactly.
model = timm.create_model("bam_resnet18", num_classes=10, attention_options={"reduction": 8})
print("classes:", tuple(model(images).shape), "- attention:", len(bam.attended(model)))
features = timm.create_model("bam_resnet18", features_only=True)
print("features:", *(tuple(map.shape[1:]) for map in features(images)))

# timm's own option puts a module inside each block.
model = timm.create_model("resnet18", block_args={"attn_layer": bam.BAM})
print("inside blocks:", sum(isinstance(module, bam.BAM) for module in model.modules()))
