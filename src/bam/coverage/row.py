"""The results for one network: one row of the survey, one column per check."""

import dataclasses

#: Check -> its meaning, in order; each is a column.
CHECKS = {
    "sites": "sites are found",
    "levels": "the sites are maps in timm's `feature_info`: the same map, or another map of the same stride",
    "identity": "with `identity=True` the output in eval mode equals the plain network's, bit for bit; up to rounding "
    'where a module replaces a convolution; "not claimed" for modules without this option',
    "keys": "the backbone's state-dict keys do not change, and a plain state dict loads",
    "detach": "`detach` restores the same modules and the same output",
    "gradients": "in one training step each attention parameter gets a finite gradient, and not all gradients are zero",
    "ways": "attention runs exactly once on each of the library's other ways through the network: timm's "
    "`forward_intermediates`, `features_only` and gradient checkpointing, torchvision's `create_feature_extractor`",
    "export": "`torch.export` with any batch size computes the same output",
}


@dataclasses.dataclass
class Row:
    """The results for one network; each check is "pass", a qualified pass, "fail" or "" (not reached)."""

    library: str
    family: str
    name: str
    params: int = 0
    side: int = 0  #: image size in pixels
    found: str = ""  #: the sites
    sites: str = ""  #: "refused" for a network without the places of this module
    levels: str = ""
    identity: str = ""
    keys: str = ""
    detach: str = ""
    gradients: str = ""
    ways: str = ""
    export: str = ""
    reason: str = ""
    seconds: float = 0.0
    versions: str = ""  #: versions of torch and of the network's library
    attention: str = "bam"

    @property
    def refused(self) -> bool:
        """Whether the network has no places for this module and so does not count."""
        return self.sites == "refused"

    @property
    def passed(self) -> bool:
        """Whether the network passed every check."""
        return all(getattr(self, name) not in ("", "fail", "refused") for name in CHECKS)


class Failure(Exception):
    """A check failed; the message says why."""
