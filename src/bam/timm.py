"""timm's CNNs with attention at their bottlenecks: `timm.create_model("bam_resnet50")` after `import bam.timm`."""

from collections import deque
from collections.abc import Callable
from typing import Any

from torch import nn

from bam.private import feature_getter, set_arguments
from bam.surgery import attach

try:
    import timm
except ImportError:
    raise ImportError("bam.timm needs timm: pip install 'bottleneck-attention[timm]'") from None

from timm.models import DefaultCfg, get_arch_pretrained_cfgs, load_pretrained, register_model

#: timm's modules of CNNs; each of their networks also comes as `bam_<name>`.
FAMILIES = (
    "byobnet", "convnext", "cspnet", "densenet", "dla", "dpn", "efficientnet", "ghostnet", "hgnet",
    "inception_next", "inception_resnet_v2", "inception_v3", "inception_v4", "mobilenetv3", "nfnet", "regnet",
    "repghost", "res2net", "resnest", "resnet", "resnetv2", "rexnet", "senet", "sknet", "starnet", "tresnet", "vgg",
    "vovnet", "xception", "xception_aligned",
)  # fmt: skip

default_cfgs: dict[str, DefaultCfg] = {}  # where timm's register_model looks for weights and input sizes

_DOC = """timm's {name} with an attention module at each bottleneck.

Args:
    pretrained: start with the weights of {name}.
    attention: a name in `bam.ATTENTION`, or a callable `channels -> nn.Module`.
    attention_options: what the attention module is built with, a dictionary such as dict(reduction=8).
    identity: start with the output of {name} bit for bit; default: where it is pretrained.
    features_only: return the maps of the stages (timm's `FeatureGetterNet`), refined where attention sits.
    **options: those of {name}.
"""


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    """What timm calls to build `bam_<name>`."""
    plain = timm.model_entrypoint(name)

    def build(
        pretrained: bool = False,
        *,
        attention: str | Callable[..., nn.Module] = "bam",
        attention_options: dict[str, Any] | None = None,
        identity: bool | None = None,
        features_only: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        **options: Any,
    ) -> nn.Module:
        start_at_identity = pretrained if identity is None else identity
        # Folders and hubs hold what was saved under this name, with attention; timm's own weights are without.
        saved = isinstance(pretrained_cfg, dict) and pretrained_cfg.get("source") in ("local-dir", "hf-hub")

        def finish(net: Any) -> Any:
            attach(net, attention, identity=start_at_identity, **(attention_options or {}))
            if pretrained and saved:
                in_chans = options.get("in_chans", 3)
                load_pretrained(net, num_classes=net.num_classes, in_chans=in_chans, cache_dir=options.get("cache_dir"))
            return net

        given: dict[str, Any] = {"pretrained_cfg": pretrained_cfg}
        given["pretrained_cfg_overlay"] = {**(pretrained_cfg_overlay or {}), "architecture": f"bam_{name}"}
        if features_only:  # timm calls feature_cls with the whole network, before it cuts off what is not needed
            given |= {"features_only": True, "feature_cls": lambda net, **how: feature_getter(finish(net), **how)}
        model = plain(pretrained and not saved, **given, **options)
        model = model if features_only else finish(model)
        set_arguments(model, {"identity": start_at_identity})  # to these timm adds the arguments of create_model
        return model

    build.__name__ = build.__qualname__ = f"bam_{name}"
    build.__doc__ = _DOC.format(name=name)
    return build


def _register(name: str) -> None:
    cfgs = {cfg.tag or "": cfg for cfg in get_arch_pretrained_cfgs(name).values()}
    if cfgs:
        default_cfgs[f"bam_{name}"] = DefaultCfg(deque(cfgs), cfgs, any(cfg.has_weights for cfg in cfgs.values()))
    globals()[f"bam_{name}"] = register_model(_entrypoint(name))


for _name in timm.list_models(module=FAMILIES):
    _register(_name)
