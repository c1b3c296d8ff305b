"""timm's CNNs with attention at their bottlenecks: `timm.create_model("bam_resnet50")` after `import bam.timm`."""

from collections import deque
from collections.abc import Callable
from typing import Any

from torch import nn

from bam.attention import AttentionSpec
from bam.private import feature_extractor, set_arguments
from bam.surgery import attach

try:
    import timm
except ImportError:
    raise ImportError("bam.timm needs timm: pip install 'bottleneck-attention[timm]'") from None

from timm.models import DefaultCfg, get_arch_pretrained_cfgs, load_pretrained, register_model

#: timm's modules with CNNs; each of their networks is also registered as `bam_<name>`.
FAMILIES = (
    "byobnet", "convnext", "cspnet", "densenet", "dla", "dpn", "efficientnet", "ghostnet", "hgnet",
    "inception_next", "inception_resnet_v2", "inception_v3", "inception_v4", "mobilenetv3", "nfnet", "regnet",
    "repghost", "res2net", "resnest", "resnet", "resnetv2", "rexnet", "senet", "sknet", "starnet", "tresnet", "vgg",
    "vovnet", "xception", "xception_aligned",
)  # fmt: skip

default_cfgs: dict[str, DefaultCfg] = {}  # timm's register_model takes weights and input sizes from here

_DOC = """timm's {name} with an attention module at each bottleneck. Call it as `timm.create_model("bam_{name}", ...)`.

Args:
    pretrained: start with the weights of {name}.
    attention: a name in `bam.ATTENTION`, an `AttentionSpec` or its text ("bam(reduction=8)"), or a callable
        `channels -> nn.Module`, see `bam.attach`. timm can save the text with the network, not the others.
    attention_options: further options of the attention module, e.g. dict(reduction=8).
    identity: start with the output of {name} bit for bit; default: the value of `pretrained`.
    features_only: return the maps of the stages, with attention applied; by timm's `feature_cls`, default "getter".
    **options: passed on to {name}: num_classes, in_chans, pretrained_cfg, pretrained_cfg_overlay, ...

Raises:
    ValueError: for an unknown attention, or options that it does not take.
"""


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    """The function that timm calls to build `bam_<name>`."""
    plain = timm.model_entrypoint(name)

    def build(
        pretrained: bool = False,
        *,
        attention: str | AttentionSpec | Callable[..., nn.Module] = "bam",
        attention_options: dict[str, Any] | None = None,
        identity: bool | None = None,
        features_only: bool = False,
        **options: Any,
    ) -> nn.Module:
        start_as_identity = pretrained if identity is None else identity
        # Weights from a folder or the hub were saved under this name and include attention; timm's own weights do not.
        cfg = options.get("pretrained_cfg")
        saved = isinstance(cfg, dict) and cfg.get("source") in ("local-dir", "hf-hub")

        def finish(net: Any) -> Any:
            attach(net, attention, identity=start_as_identity, **(attention_options or {}))
            if pretrained and saved:
                in_chans = options.get("in_chans", 3)
                load_pretrained(net, num_classes=net.num_classes, in_chans=in_chans, cache_dir=options.get("cache_dir"))
            return net

        overlay = {**(options.get("pretrained_cfg_overlay") or {}), "architecture": f"bam_{name}"}
        plain_options = options | {"pretrained_cfg_overlay": overlay}
        if features_only:
            extractor = feature_extractor(options.get("feature_cls", "getter"))
            plain_options |= {"features_only": True, "feature_cls": _finishing(extractor, finish)}
        model = plain(pretrained and not saved, **plain_options)
        model = model if features_only else finish(model)
        set_arguments(model, {"identity": start_as_identity})  # timm adds the arguments of create_model
        return model

    build.__name__ = build.__qualname__ = f"bam_{name}"
    build.__doc__ = _DOC.format(name=name)
    return build


def _finishing(extractor: type[nn.Module], finish: Callable[[nn.Module], nn.Module]) -> type[nn.Module]:
    """A class like `extractor` that calls `finish` on the whole network before it drops the parts it does not need."""

    def build(self: nn.Module, network: nn.Module, *arguments: Any, **options: Any) -> None:
        extractor.__init__(self, finish(network), *arguments, **options)
        self.__class__ = extractor

    return type(extractor.__name__, (extractor,), {"__init__": build})


def _register(name: str) -> None:
    cfgs = {cfg.tag or "": cfg for cfg in get_arch_pretrained_cfgs(name).values()}
    if cfgs:
        default_cfgs[f"bam_{name}"] = DefaultCfg(deque(cfgs), cfgs, any(cfg.has_weights for cfg in cfgs.values()))
    globals()[f"bam_{name}"] = register_model(_entrypoint(name))


for _name in timm.list_models(module=FAMILIES):
    _register(_name)
