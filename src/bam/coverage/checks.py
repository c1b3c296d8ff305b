"""The checks for one network, which cover everything that attaching attention promises."""

import copy
import dataclasses
import importlib.metadata
import importlib.util
import re
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bam.attention import AttentionSpec, attention_factory
from bam.attention.contract import takes_place
from bam.coverage.row import CHECKS, Failure, Row
from bam.coverage.ways import check_ways
from bam.dryrun import image_shape
from bam.placement import BOTTLENECKS, NoSuchSites, Sites, select_sites
from bam.private import tree_leaves
from bam.surgery import attach, attended, detach


def check(library: str, family: str, name: str, build: Callable[[], nn.Module], attention: str = "bam") -> Row:
    """Run all checks on the network that `build` returns, with random weights and the named attention module."""
    row = Row(library, family, name, versions=_versions("torch", library), attention=attention)
    start = time.perf_counter()
    current = "sites"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes on sites, and the libraries' own warnings
            for current, outcome in _outcomes(row, build):
                setattr(row, current, outcome)
                current = next((name for name in CHECKS if not getattr(row, name)), current)
    except Exception as error:  # whatever a network raises is a result of the survey
        setattr(row, current, "fail")
        message = (
            " ".join(str(error).split()) if isinstance(error, Failure | ValueError) else str(error).partition("\n")[0]
        )
        kind = "" if isinstance(error, Failure) else f"{type(error).__name__}: "
        row.reason = f"{current}: {kind}{message}"[:300]
    row.seconds = round(time.perf_counter() - start, 1)
    return row


def _versions(*packages: str) -> str:
    installed = [name for name in packages if importlib.util.find_spec(name) is not None]
    return ", ".join(f"{name} {importlib.metadata.version(name).partition('+')[0]}" for name in installed)


def _outcomes(row: Row, build: Callable[[], nn.Module]) -> Iterator[tuple[str, str]]:
    spec = AttentionSpec.parse(row.attention)
    sites, reason = _sites(build, spec)
    if sites is None:
        row.reason = reason
        yield "sites", "refused"
        return
    torch.manual_seed(0)
    model = _without_zeros(build().eval())
    row.params = sum(p.numel() for p in model.parameters())
    row.found = ", ".join(f"{site.label} ({site.channels} at 1/{site.stride})" for site in sites)
    row.reason = "; ".join(sites.notes)
    yield "sites", "pass"
    yield "levels", _levels(model, sites) if spec.placed() == (BOTTLENECKS,) else "other sites"
    row.side = _small_side(model, sites, spec)
    images = torch.randn(2, image_shape(model)[1], row.side, row.side)
    spec = _as_identity(model, spec, images)
    yield from _insertion(model, spec, images)
    yield "gradients", _gradients(model, spec, images)
    yield "ways", check_ways(row.library, model, images)
    yield "export", _export(model, images)


def _sites(build: Callable[[], nn.Module], spec: AttentionSpec) -> tuple[Sites | None, str]:
    """The sites of the network, or None and the reason if it has none of the kind; uses the meta device if possible."""
    try:
        with torch.device("meta"):
            model = build()
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # its constructor computes with values
        model = build()
    try:
        return select_sites(model, spec.placed()), ""
    except NoSuchSites as error:
        return None, re.split("[:;]", str(error))[0]


def _without_zeros(model: nn.Module) -> nn.Module:
    """Fill all-zero parameters with noise, as zeros hide changes and block gradients; returns `model`."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model


def _levels(model: nn.Module, sites: Sites) -> str:
    """Compare the sites with timm's list of stages, ignoring sites whose stride is not listed."""
    info = getattr(model, "feature_info", None)
    listed = [(level["reduction"], level["num_chs"]) for level in getattr(info, "info", info) or []]
    comparable = [site for site in sites if site.stride in {stride for stride, _ in listed}]
    if not comparable:
        return "none listed"
    same = all((site.stride, site.channels) in listed for site in comparable)
    return "pass" if same else "other map"


def _small_side(model: nn.Module, sites: Sites, spec: AttentionSpec) -> int:
    """A small image size with the same sites, or else the network's own size."""
    if getattr(model, "aux_logits", False):
        return 299  # in training, Inception's auxiliary classifiers need this size
    try:
        if [site.label for site in select_sites(model, spec.placed(), 96)] == [site.label for site in sites]:
            return 96
    except ValueError:
        pass  # the network does not accept this size
    return image_shape(model)[-1]


def _as_identity(model: nn.Module, spec: AttentionSpec, images: Tensor) -> AttentionSpec:
    """`spec` with `identity=True`, unless its modules do not take that, or replace convolutions here."""
    if not getattr(attention_factory(spec.name), "starts_as_identity", False):
        return spec
    attach(model, spec, image=images)
    replaces = all(takes_place(module) for module in attended(model).values())
    detach(model)
    return spec if replaces else dataclasses.replace(spec, identity=True)


def _insertion(model: nn.Module, spec: AttentionSpec, images: Tensor) -> Iterator[tuple[str, str]]:
    plain, state = _outputs(model, images), model.state_dict()
    modules = [(name, id(module)) for name, module in model.named_modules()]
    if not all(torch.isfinite(value).all() for value in plain):
        raise Failure("the plain network's own output is not finite")
    attach(model, spec, image=images)
    yield "identity", _identity(model, spec, plain, images)
    new = tuple(f"{label.removeprefix('before ')}.attention." for label in attended(model))
    if [key for key in model.state_dict() if not key.startswith(new)] != list(state):
        raise Failure("backbone keys have changed")
    report = model.load_state_dict(state, strict=False)
    if report.unexpected_keys or not all(key.startswith(new) for key in report.missing_keys):
        raise Failure(f"a plain state does not load: {report}")
    yield "keys", "pass"
    detach(model)
    if modules != [(name, id(module)) for name, module in model.named_modules()]:
        raise Failure("the modules have changed")
    if not _equal(plain, _outputs(model, images)):
        raise Failure("the output has changed")
    yield "detach", "pass"


def _identity(model: nn.Module, spec: AttentionSpec, plain: list[Tensor], images: Tensor) -> str:
    outputs = _outputs(model, images)
    if all(takes_place(module) for module in attended(model).values()):
        if not all(
            torch.allclose(a, b, 1e-3, 1e-4 * float(b.abs().max())) for a, b in zip(outputs, plain, strict=True)
        ):
            raise Failure("the output has changed")
        return "up to rounding"
    if spec.identity and not _equal(plain, outputs):
        raise Failure("the output has changed")
    return "pass" if spec.identity else "not claimed"


def _gradients(model: nn.Module, spec: AttentionSpec, images: Tensor) -> str:
    attach(model, spec, image=images)
    if not any(True for module in attended(model).values() for _ in module.parameters()):
        return "no parameters"
    model.requires_grad_(False)
    for module in attended(model).values():
        module.requires_grad_(True)
        if spec.identity:
            nn.init.ones_(module.get_parameter("scale"))  # at 0, the branches get no gradient
    for layer in model.modules():
        if probability := {"StochasticDepth": "p", "DropPath": "drop_prob"}.get(type(layer).__name__):
            setattr(layer, probability, 0.0)  # a block that is dropped for all images gets no gradient
    before = copy.deepcopy(model.state_dict())
    loss: Any = sum(value.square().mean() for value in _outputs(model.train(), images, grad=True))
    loss.backward()
    for site, module in attended(model).items():
        gradients = {name: p.grad for name, p in module.named_parameters()}
        for name, gradient in gradients.items():
            if gradient is None or not torch.isfinite(gradient).all():
                raise Failure(f"{site}: {name} has {'no' if gradient is None else 'no finite'} gradient")
        if not any(gradient.abs().max() > 0 for gradient in gradients.values() if gradient is not None):
            raise Failure(f"{site}: all gradients are 0")
    model.eval().load_state_dict(before)  # discard BatchNorm statistics from noise
    return "pass"


def _export(model: nn.Module, images: Tensor) -> str:
    try:
        _compare_export(model, images)
    except AssertionError:  # random weights may amplify rounding; a difference in double precision is not rounding
        _compare_export(copy.deepcopy(model).double(), images.double())
    return "pass"


def _compare_export(model: nn.Module, images: Tensor) -> None:
    larger_batch = torch.cat([images, images[:1].flip(-1)])
    dynamic_shapes = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(model, (images,), dynamic_shapes=dynamic_shapes, strict=False).module()
    for actual, expected in zip(_outputs(program, larger_batch), _outputs(model, larger_batch), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def _outputs(model: Any, images: Tensor, grad: bool = False) -> list[Tensor]:
    with torch.set_grad_enabled(grad):
        return [leaf for leaf in tree_leaves(model(images)) if isinstance(leaf, Tensor)]


def _equal(before: list[Tensor], after: list[Tensor]) -> bool:
    return len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
