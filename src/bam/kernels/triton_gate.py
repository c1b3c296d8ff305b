"""The gate as Triton kernels, each with one pass over tensors of the size of F. Only this file imports Triton.

F is a contiguous (N, I, J) tensor: (N, C, H W), or (N, H W, C) if it is channels_last. One branch has a logit for each
row, (N, I, 1), the other for each column, (N, 1, J). Arithmetic is in float32, or in float64 for float64 features.
Logits and scale are read in their own types, because rounding them to the type of the features would lose digits.

Both kernels take the same groups of arguments:

- `maps`: the inputs of the size of F: (F,), or (gradient of F', F);
- `others`: (row logits, column logits, scale), each None if it is missing;
- `outputs`: (F',), or (gradients of F, rows, columns, scale), each None if it is not needed;
- `sizes`: (I, J);
- `TILE`: the rows and columns of F that one program computes.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bam.kernels import formula
from bam.kernels.autograd import gradients_of_formula, wants_formula
from bam.kernels.layout import flat, is_channels_last, unflat

WARPS = 4  #: warps per program


def tile(i: int, j: int) -> tuple[int, int]:
    """The rows and columns that one program computes: powers of two, not yet tuned on any GPU."""
    columns = min(triton.next_power_of_2(max(j, 1)), 128)
    return min(triton.next_power_of_2(max(i, 1)), 4096 // columns), columns


@triton.jit
def _places(sizes, TILE: tl.constexpr):
    """This program's sample, row block, column block, rows, columns, offsets in F, and a mask of those inside F."""
    num_i, num_j = sizes
    program, blocks = tl.program_id(0), tl.cdiv(num_j, TILE[1])
    n = (program // (tl.cdiv(num_i, TILE[0]) * blocks)).to(tl.int64)  # F may have more than 2^31 elements
    block_i, block_j = program // blocks % tl.cdiv(num_i, TILE[0]), program % blocks
    i = block_i * TILE[0] + tl.arange(0, TILE[0])
    j = block_j * TILE[1] + tl.arange(0, TILE[1])
    return (
        n,
        block_i,
        block_j,
        i,
        j,
        (n * num_i + i[:, None]) * num_j + j[None, :],
        (i < num_i)[:, None] & (j < num_j)[None, :],
    )


@triton.jit
def _logits(pointer, n, index, size, ACC: tl.constexpr):
    """Load the logits at `index` of sample n; zeros for a missing branch, and beyond the end."""
    if pointer is None:
        return tl.zeros_like(index).to(ACC)
    else:
        return tl.load(pointer + n * size + index, mask=index < size, other=0).to(ACC)


@triton.jit
def _attention(u, v, inside, COMBINE: tl.constexpr):
    """M(F) from row logits u and column logits v; zero outside F, where a NaN (0 * inf) would spread into sums."""
    u, v = u[:, None], v[None, :]
    if COMBINE == "sum":
        x = u + v
    elif COMBINE == "product":
        x = u * v
    else:
        tl.static_assert(COMBINE == "max")
        x = tl.maximum(u, v, propagate_nan=tl.PropagateNan.ALL)
    small = tl.exp(-tl.abs(x))  # never overflows
    return tl.where(inside, tl.where(x < 0, small, 1) / (1 + small), 0)


@triton.jit
def _for_branch(d, own, other, COMBINE: tl.constexpr):
    """Gradient for one branch's logits, given the gradient `d` of the combined ones; "max" splits ties, as in torch."""
    if COMBINE == "sum":
        return d
    elif COMBINE == "product":
        return d * other
    else:
        return tl.where(own < other, 0, tl.where(own == other, d / 2, d))


@triton.jit
def _forward(maps, others, outputs, sizes, COMBINE: tl.constexpr, TILE: tl.constexpr):
    """Compute one block of F' = F + s * F * M(F)."""
    features, out = maps[0], outputs[0]
    rows, columns, scale = others
    num_i, num_j = sizes
    ACC: tl.constexpr = tl.float64 if features.dtype.element_ty == tl.float64 else tl.float32
    n, _, _, i, j, places, inside = _places(sizes, TILE)
    m = _attention(_logits(rows, n, i, num_i, ACC), _logits(columns, n, j, num_j, ACC), inside, COMBINE)
    if scale is not None:
        m *= tl.load(scale).to(ACC)
    f = tl.load(features + places, mask=inside, other=0).to(ACC)
    tl.store(out + places, f + f * m, mask=inside)


@triton.jit
def _backward(maps, others, outputs, sizes, COMBINE: tl.constexpr, TILE: tl.constexpr):
    """Compute one block of the gradient for F, and its share of the sums that are the other gradients."""
    gradient, features = maps
    rows, columns, scale = others
    for_features, for_rows, for_columns, for_scale = outputs
    num_i, num_j = sizes
    ACC: tl.constexpr = tl.float64 if features.dtype.element_ty == tl.float64 else tl.float32
    n, block_i, block_j, i, j, places, inside = _places(sizes, TILE)
    u, v = _logits(rows, n, i, num_i, ACC), _logits(columns, n, j, num_j, ACC)
    m = _attention(u, v, inside, COMBINE)
    weighted = m
    if scale is not None:
        weighted = m * tl.load(scale).to(ACC)
    g = tl.load(gradient + places, mask=inside, other=0).to(ACC)
    if for_features is not None:
        tl.store(for_features + places, g + g * weighted, mask=inside)
    for_attention = g * tl.load(features + places, mask=inside, other=0).to(ACC)
    if for_scale is not None:
        tl.store(for_scale + tl.program_id(0), tl.sum(for_attention * m))
    d = for_attention * weighted * (1 - m)
    if for_rows is not None:
        part = tl.sum(_for_branch(d, u[:, None], v[None, :], COMBINE), 1)
        tl.store(for_rows + (n * tl.cdiv(num_j, TILE[1]) + block_j) * num_i + i, part, mask=i < num_i)
    if for_columns is not None:
        part = tl.sum(_for_branch(d, v[None, :], u[:, None], COMBINE), 0)
        tl.store(for_columns + (n * tl.cdiv(num_i, TILE[0]) + block_i) * num_j + j, part, mask=j < num_j)


#: Whether TRITON_INTERPRET=1 was set when this file was imported: the kernels then run on a CPU.
INTERPRETED = not isinstance(_forward, triton.JITFunction)


def _sizes(features: Tensor) -> list[tuple[int, ...]]:
    """Shapes of features, rows, columns and scale."""
    n, i, j = features.shape
    return [(n, i, j), (n, i, 1), (n, 1, j), (1,)]


def _launch(kernel: Any, maps: list[Tensor], others: list[Tensor | None], outputs: list[Any], combine: str) -> None:
    n, i, j = maps[0].shape
    block_i, block_j = tile(i, j)
    programs = n * triton.cdiv(i, block_i) * triton.cdiv(j, block_j)
    if not programs:
        return
    shapes = _sizes(maps[0])[1:]
    others = [None if t is None else t.expand(shape).contiguous() for t, shape in zip(others, shapes, strict=True)]
    if others[0] is None or others[1] is None:
        combine = "sum"  # a missing branch reads as zeros
    with torch.cuda.device_of(maps[0]):
        kernel[(programs,)](
            tuple(maps), tuple(others), tuple(outputs), (i, j),
            COMBINE=combine, TILE=(block_i, block_j), enable_fp_fusion=True, num_warps=WARPS,
        )  # fmt: skip


@torch.library.custom_op("bam::gate", mutates_args=())
def flat_gate(
    features: Tensor, rows: Tensor | None, columns: Tensor | None, scale: Tensor | None, combine: str
) -> Tensor:
    """F' for features (N, I, J), logits (N, I, 1) and (N, 1, J), scale (1,); twice differentiable."""
    features = features.contiguous()
    out = torch.empty_like(features)
    _launch(_forward, [features], [rows, columns, scale], [out], combine)
    return out


@torch.library.custom_op("bam::gate_backward", mutates_args=())
def flat_gate_backward(
    gradient: Tensor, features: Tensor, others: Sequence[Tensor | None], combine: str, needed: Sequence[bool]
) -> list[Tensor]:
    """The needed gradients of features, rows, columns and scale; deterministic to the bit.

    `others` is (rows, columns, scale).
    """
    n, i, j = features.shape
    block_i, block_j = tile(i, j)
    blocks_i, blocks_j = triton.cdiv(i, block_i), triton.cdiv(j, block_j)
    sizes = [(n, i, j), (n, blocks_j, i), (n, blocks_i, j), (1, n * blocks_i * blocks_j)]
    dtypes = [features.dtype] + [torch.promote_types(features.dtype, torch.float32)] * 3
    outputs = [
        features.new_empty(size, dtype=dtype) if need else None
        for size, dtype, need in zip(sizes, dtypes, needed, strict=True)
    ]
    _launch(_backward, [gradient.contiguous(), features.contiguous()], [*others], outputs, combine)
    sums = [
        part.sum(1).to(t.dtype).view(size)
        for part, t, size in zip(outputs[1:], others, _sizes(features)[1:], strict=True)
        if part is not None and t is not None
    ]
    return sums if outputs[0] is None else [outputs[0], *sums]


@flat_gate.register_fake
def _(features: Tensor, rows: Tensor | None, columns: Tensor | None, scale: Tensor | None, combine: str) -> Tensor:
    return torch.empty_like(features, memory_format=torch.contiguous_format)


@flat_gate_backward.register_fake
def _(
    gradient: Tensor, features: Tensor, others: Sequence[Tensor | None], combine: str, needed: Sequence[bool]
) -> list[Tensor]:
    tensors = zip((features, *others), _sizes(features), needed, strict=True)
    return [t.new_empty(size) for t, size, need in tensors if need and t is not None]


def _formula(features: Tensor, *others: Tensor | None, combine: str) -> Tensor:
    rows, columns, scale = (None if t is None else t.to(features.dtype) for t in others)
    return formula.gate(features, rows, columns, scale, combine)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.combine = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[:4]
    if wants_formula(gradient):
        return *gradients_of_formula(partial(_formula, combine=ctx.combine), inputs, needed, [gradient]), None
    gradients = iter(flat_gate_backward(gradient, inputs[0], inputs[1:], ctx.combine, needed))
    return *[next(gradients) if need else None for need in needed], None


flat_gate.register_autograd(_differentiate, setup_context=_save)


def gate(
    features: Tensor, channel_logits: Tensor | None, spatial_logits: Tensor | None, scale: Tensor | None, combine: str
) -> Tensor:
    """`bam.kernels.gate` in Triton kernels."""
    memory_format = torch.channels_last if features.stride(1) < features.stride(3) else torch.contiguous_format
    features = features if features.is_contiguous() else features.contiguous(memory_format=memory_format)
    last = is_channels_last(features)
    mc, ms = (None if t is None else flat(t, last) for t in (channel_logits, spatial_logits))
    output = flat_gate(flat(features, last), ms if last else mc, mc if last else ms, scale, combine)
    return unflat(output, features.shape, last)
