"""The gate compiled by torch.compile, within a network that is not: one kernel per pass over F.

The map M(F) is not kept for the backward pass. For the sum of two logits, the exponentials are computed outside the
compiled kernels, one per channel and place, and the kernels run at the speed of memory; torch.compile would compute
one per element. The first call compiles for some seconds. Sizes are dynamic, but sizes of 1 or above 4096, very small
maps, another dtype, layout or option compile again.
"""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bam import private
from bam.kernels import formula
from bam.kernels.autograd import gradients_of_formula, wants_formula, without_autocast
from bam.kernels.layout import flat, is_channels_last, unflat


def gate(
    features: Tensor, channel_logits: Tensor | None, spatial_logits: Tensor | None, scale: Tensor | None, combine: str
) -> Tensor:
    """`bam.kernels.gate`, compiled; features are contiguous in either layout.

    Raises:
        RuntimeError: if nothing can be compiled here.
    """
    others = (None if t is None else t.to(features.dtype) for t in (channel_logits, spatial_logits, scale))
    return _Gate.apply(combine, features, *others)


class _Gate(torch.autograd.Function):
    """The formula on flattened maps, and its gradients."""

    @staticmethod
    def forward(ctx: Any, combine: str, features: Tensor, *others: Tensor | None) -> Tensor:
        ctx.combine = combine
        ctx.save_for_backward(features, *others)
        if _is_separable(features, others, combine):
            output = _run(_refine, *_with_exponentials(features, others))
        else:
            output = _run(formula.gate, *_flattened(features, others), combine)
        return unflat(output, features.shape, is_channels_last(features))

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        if wants_formula(gradient):
            return None, *gradients_of_formula(partial(formula.gate, combine=ctx.combine), inputs, needed, [gradient])
        features, *others = inputs
        last = is_channels_last(features)
        if _is_separable(features, others, ctx.combine):
            gradients = iter(
                _run(_gradients_of_sum, _stored(gradient, last), _with_exponentials(features, others), needed, last)
            )
        else:
            gradients = iter(
                _run(_gradients, _stored(gradient, last), _flattened(features, others), ctx.combine, needed)
            )
        for_features = unflat(next(gradients), features.shape, last) if needed[0] else None
        for_others = (next(gradients).view_as(t) if need else None for t, need in zip(others, needed[1:], strict=True))
        return None, for_features, *for_others


def _flattened(features: Tensor, others: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Features and both logits as they are stored, flattened; and the scale. Autograd does not follow them."""
    last = is_channels_last(features)
    *maps, scale = features, *others
    return [*(None if t is None else _stored(t, last) for t in maps), None if scale is None else scale.detach()]


def _stored(maps: Tensor, last: bool) -> Tensor:
    """`flat`, without what torch.compile tells apart: any strides, even of sizes of 1, and that this is a view."""
    maps = flat(maps, last)
    return maps.reshape(-1).view(maps.shape).detach()


def _is_separable(features: Tensor, others: Sequence[Tensor | None], combine: str) -> bool:
    """See `formula.is_separable`; float64 keeps the formula."""
    mc, ms, _ = others
    return features.dtype != torch.float64 and formula.is_separable(features, mc, ms, combine)


def _with_exponentials(features: Tensor, others: Sequence[Tensor | None]) -> list[Tensor | None]:
    """`_flattened`, with `exp_neg` of the logits in float32 instead of the logits."""
    exponentials = [None if t is None else formula.exp_neg(t.float()) for t in others[:2]]
    return _flattened(features, [*exponentials, *others[2:]])


def _maps(channel_exp: Tensor, spatial_exp: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """M(F), and s M(F)."""
    attention = 1 / (1 + channel_exp * spatial_exp)
    return attention, attention if scale is None else attention * scale


def _refine(features: Tensor, channel_exp: Tensor, spatial_exp: Tensor, scale: Tensor | None) -> Tensor:
    """The formula for the sum of two logits, from `exp_neg` of each."""
    _, weighted = _maps(channel_exp, spatial_exp, scale)
    return (features + features * weighted).to(features.dtype)


def _gradients_of_sum(gradient: Tensor, inputs: Sequence[Any], needed: Sequence[bool], last: bool) -> list[Tensor]:
    """The needed gradients of `_refine`, for the logits."""
    features, *others = inputs
    attention, weighted = _maps(*others)
    for_attention = gradient.float() * features
    for_logits = for_attention * weighted * (1 - attention)
    gradients = [
        gradient + gradient * weighted,
        for_logits.sum(1 if last else 2, keepdim=True),
        for_logits.sum(2 if last else 1, keepdim=True),
        (for_attention * attention).sum().view(1),
    ]
    return [t.to(features.dtype) for t, need in zip(gradients, needed, strict=True) if need]


def _gradients(gradient: Tensor, inputs: Sequence[Tensor | None], combine: str, needed: Sequence[bool]) -> list[Tensor]:
    """The needed gradients of the formula."""

    def of_needed(*chosen: Tensor) -> Tensor:
        remaining = iter(chosen)
        features, mc, ms, scale = (next(remaining) if need else t for t, need in zip(inputs, needed, strict=True))
        assert features is not None
        return formula.gate(features, mc, ms, scale, combine)

    pull_back: Any = torch.func.vjp(of_needed, *(t for t, need in zip(inputs, needed, strict=True) if need))[1]
    return list(pull_back(gradient))


@functools.cache
def _compiled(function: Callable[..., Any], threads: int) -> Callable[..., Any]:
    # By default, what a small map or a process with one thread compiles runs on one thread, also for larger maps and in
    # later processes.
    return torch.compile(function, dynamic=True, options={"cpp.min_chunk_size": 1, "cpp.threads": threads})


#: Sizes of the maps that are compiled first, (N, H W, C) or (N, C, H W). torch.compile writes sums of more than 4096
#: numbers in another way, so small maps and large sizes have their own. All differ: it takes equal sizes for one. N is
#: small, or each map would be computed by one thread; the others are large enough if one of them is 1.
_SMALL, _USUAL, _LARGE = (3, 36, 20), (3, 1400, 1376), (3, 4160, 4112)
_MANY = 4096
_MOST_KINDS = 64
_EAGER = ("torch.compile is switched off",)
_compiled_kinds: dict[Callable[..., Any], set[tuple[Any, ...]]] = {}


def _run(function: Callable[..., Any], *inputs: Any) -> Any:
    """`function`, compiled at the first inputs of a kind, from maps of fixed sizes.

    The code depends on the sizes it is compiled for: sums are in another order. From fixed sizes, it is the same in
    every process, and a run that resumes ends in the same weights.
    """
    threads, leaves = torch.get_num_threads(), private.tree_leaves(inputs)
    maps = next(t for t in leaves if isinstance(t, Tensor))
    is_small, device = maps.numel() <= _MANY, maps.device
    modes = torch.is_autocast_enabled(device.type), torch.are_deterministic_algorithms_enabled(), maps.is_inference()
    kinds = ((t.dtype, *_sizes_like(t, is_small)) if isinstance(t, Tensor) else t for t in leaves)
    kind = device, is_small, threads, *modes, *kinds
    compiled = _compiled(function, threads)
    try:
        known = _compiled_kinds.setdefault(function, set())
        if _EAGER not in known and not private.has_compiled_code(function):  # torch.compiler.reset() has dropped it
            known.clear()
        if kind not in known:
            with private.most_recompilations(_MOST_KINDS):
                compiled(*private.tree_map_only(Tensor, lambda t: t.new_ones(_sizes(t)), inputs))
                # Where the code for usual sizes also serves these, this compiles nothing.
                compiled(*private.tree_map_only(Tensor, lambda t: t.new_ones(_sizes_like(t, is_small)), inputs))
            known |= {kind} if private.has_compiled_code(function) else {kind, _EAGER}
        return compiled(*inputs)
    except private.failure_to_compile() as error:
        reason = str(error).strip().partition("\n")[0]
        raise RuntimeError(
            f"kernel='inductor' or BAM_KERNEL=inductor: the gate cannot be compiled here: {reason}; it needs a C++ "
            "compiler such as g++ (on a GPU, Triton). kernel='torch' works everywhere (for an existing module: "
            "module.kernel = 'torch'; in bam train: --kernel torch)"
        ) from error


def _sizes(tensor: Tensor) -> list[int]:
    return [1 if size == 1 else usual for size, usual in zip(tensor.shape, _USUAL, strict=False)]


def _sizes_like(tensor: Tensor, is_small: bool) -> list[int]:
    """The fixed sizes on the same side of `_MANY`."""
    usual = _SMALL if is_small else _USUAL
    sizes = zip(tensor.shape, usual, _LARGE, strict=False)
    return [1 if size == 1 else large if size > _MANY else usual for size, usual, large in sizes]
