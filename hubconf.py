"""Attended networks for torch.hub: `torch.hub.load("<owner>/<repository>", "bam_resnet50", pretrained=True)`."""

import pathlib
import sys

dependencies = ["torch", "torchvision"]
sys.path.insert(0, str(pathlib.Path(__file__).parent / "src"))


def attended(backbone="resnet50", pretrained=False, attention="bam", identity=None, num_classes=1000, **options):
    """A classification network of torchvision with an attention module at each bottleneck.

    Args:
        backbone: name of the network, see `bam models`.
        pretrained: start from published weights: True for the library's default, or a tag, or a file; the classifier
            stays random if num_classes differs from theirs.
        attention: a name in `bam.ATTENTION`, or a callable `channels -> nn.Module`.
        identity: start with the backbone's own output bit for bit; default: if it is pretrained.
        num_classes: number of classes.
        **options: passed to the attention module, e.g. reduction=8.

    Raises:
        ValueError: for an unknown network, attention or tag.
        OSError: if the weights cannot be downloaded.
    """
    from bam import attach
    from bam.models import build, load_pretrained

    model = build(backbone, num_classes)
    if pretrained:
        load_pretrained(model, backbone, "default" if pretrained is True else pretrained, num_classes)
    return attach(model, attention, identity=bool(pretrained) if identity is None else identity, **options)


def _named(backbone):
    def entry(pretrained=False, **options):
        return attended(backbone, pretrained, **options)

    entry.__name__ = entry.__qualname__ = f"bam_{backbone}"
    entry.__doc__ = f"""torchvision's {backbone} with BAM at each bottleneck: `attended("{backbone}", ...)`.

    Args:
        pretrained: load torchvision's default weights into the backbone, whose output is kept bit for bit at first.
        **options: `attention`, `identity`, `num_classes` and the options of the attention module.
    """
    return entry


for _backbone in (
    *("resnet18", "resnet34", "resnet50", "resnet101"),
    *("mobilenet_v3_large", "densenet121", "convnext_tiny"),
):
    globals()[f"bam_{_backbone}"] = _named(_backbone)
