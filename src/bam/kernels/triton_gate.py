"""The gate as Triton kernels, each of one pass over tensors of the size of F; the only file that imports Triton.

F is a contiguous (N, I, J): (N, C, H W), or (N, H W, C) where it is channels_last. One branch has a logit for each row,
(N, I, 1), the other for each column, (N, 1, J). Arithmetic is in float32, in float64 for float64 features. Logits and
scale are read in types of their own: rounding them to the type of the features would only lose digits.
"""

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bam.kernels.eager import gradients_of_formula, wants_formula
from bam.kernels.gate import formula


def tile(i: int, j: int) -> tuple[int, int]:
    """Rows and columns that one program computes, powers of two; not tuned on any GPU yet."""
    columns = min(triton.next_power_of_2(max(j, 1)), 128)
    return min(triton.next_power_of_2(max(i, 1)), 4096 // columns), columns


@triton.jit
def _places(num_i, num_j, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr):
    """Of this program: sample, block of rows, block of columns, rows, columns, offsets in F, and which are in F."""
    program, blocks = tl.program_id(0), tl.cdiv(num_j, BLOCK_J)
    n = (program // (tl.cdiv(num_i, BLOCK_I) * blocks)).to(tl.int64)  # F may have more than 2^31 elements
    block_i, block_j = program // blocks % tl.cdiv(num_i, BLOCK_I), program % blocks
    i = block_i * BLOCK_I + tl.arange(0, BLOCK_I)
    j = block_j * BLOCK_J + tl.arange(0, BLOCK_J)
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
    """The logits at `index` of sample n; zeros for a branch that is left out, and beyond the end."""
    if pointer is None:
        return tl.zeros_like(index).to(ACC)
    else:
        return tl.load(pointer + n * size + index, mask=index < size, other=0).to(ACC)


@triton.jit
def _attention(u, v, inside, COMBINE: tl.constexpr):
    """M of logits u of rows and v of columns; zero outside of F, where NaN (0 * inf) would spread in sums."""
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
    """The gradient of the own logits, of `d` for what they were combined to; "max" as torch.maximum: ties share."""
    if COMBINE == "sum":
        return d
    elif COMBINE == "product":
        return d * other
    else:
        return tl.where(own < other, 0, tl.where(own == other, d / 2, d))


@triton.jit
def _forward(
    features, rows, columns, scale, out, num_i, num_j,
    COMBINE: tl.constexpr, ACC: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    n, _, _, i, j, places, inside = _places(num_i, num_j, BLOCK_I, BLOCK_J)
    m = _attention(_logits(rows, n, i, num_i, ACC), _logits(columns, n, j, num_j, ACC), inside, COMBINE)
    if scale is not None:
        m *= tl.load(scale).to(ACC)
    f = tl.load(features + places, mask=inside, other=0).to(ACC)
    tl.store(out + places, f + f * m, mask=inside)


@triton.jit
def _backward(
    gradient, features, rows, columns, scale, for_features, for_rows, for_columns, for_scale, num_i, num_j,
    COMBINE: tl.constexpr, ACC: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """Gradients of features, and this block's part of the sums that are the others; None for what is not needed."""
    n, block_i, block_j, i, j, places, inside = _places(num_i, num_j, BLOCK_I, BLOCK_J)
    u, v = _logits(rows, n, i, num_i, ACC), _logits(columns, n, j, num_j, ACC)
    m = _attention(u, v, inside, COMBINE)
    weighed = m
    if scale is not None:
        weighed = m * tl.load(scale).to(ACC)
    g = tl.load(gradient + places, mask=inside, other=0).to(ACC)
    if for_features is not None:
        tl.store(for_features + places, g + g * weighed, mask=inside)
    for_attention = g * tl.load(features + places, mask=inside, other=0).to(ACC)
    if for_scale is not None:
        tl.store(for_scale + tl.program_id(0), tl.sum(for_attention * m))
    d = for_attention * weighed * (1 - m)
    if for_rows is not None:
        part = tl.sum(_for_branch(d, u[:, None], v[None, :], COMBINE), 1)
        tl.store(for_rows + (n * tl.cdiv(num_j, BLOCK_J) + block_j) * num_i + i, part, mask=i < num_i)
    if for_columns is not None:
        part = tl.sum(_for_branch(d, v[None, :], u[:, None], COMBINE), 0)
        tl.store(for_columns + (n * tl.cdiv(num_i, BLOCK_I) + block_i) * num_j + j, part, mask=j < num_j)


#: Whether TRITON_INTERPRET=1 was set when this file was imported: the kernels then compute on a CPU.
INTERPRETED = not isinstance(_forward, triton.JITFunction)


def _sizes(features: Tensor) -> list[tuple[int, ...]]:
    """Of features, rows, columns and scale."""
    n, i, j = features.shape
    return [(n, i, j), (n, i, 1), (n, 1, j), (1,)]


def _launch(kernel: Any, maps: list[Tensor], others: list[Tensor | None], outputs: list[Any], combine: str) -> None:
    n, i, j = maps[0].shape
    block_i, block_j = tile(i, j)
    programs = n * triton.cdiv(i, block_i) * triton.cdiv(j, block_j)
    if not programs:
        return
    read = [None if t is None else t.expand(s).contiguous() for t, s in zip(others, _sizes(maps[0])[1:], strict=True)]
    if read[0] is None or read[1] is None:
        combine = "sum"  # a branch that is left out reads as zeros
    with torch.cuda.device_of(maps[0]):
        kernel[(programs,)](
            *maps, *read, *outputs, i, j,
            COMBINE=combine, ACC=tl.float64 if maps[0].dtype == torch.float64 else tl.float32,
            BLOCK_I=block_i, BLOCK_J=block_j, enable_fp_fusion=True,
        )  # fmt: skip


@torch.library.custom_op("bam::gate", mutates_args=())
def gate(features: Tensor, rows: Tensor | None, columns: Tensor | None, scale: Tensor | None, combine: str) -> Tensor:
    """F' of features (N, I, J), logits (N, I, 1) and (N, 1, J), scale (1,); it can be differentiated twice."""
    features = features.contiguous()
    out = torch.empty_like(features)
    _launch(_forward, [features], [rows, columns, scale], [out], combine)
    return out


@torch.library.custom_op("bam::gate_backward", mutates_args=())
def gate_backward(
    gradient: Tensor,
    features: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    scale: Tensor | None,
    combine: str,
    needed: list[bool],
) -> list[Tensor]:
    """Those gradients of features, rows, columns and scale that are needed; the same bits every time."""
    n, i, j = features.shape
    block_i, block_j = tile(i, j)
    blocks_i, blocks_j = triton.cdiv(i, block_i), triton.cdiv(j, block_j)
    sizes = [(n, i, j), (n, blocks_j, i), (n, blocks_i, j), (1, n * blocks_i * blocks_j)]
    dtypes = [features.dtype] + [torch.promote_types(features.dtype, torch.float32)] * 3
    outputs = [
        features.new_empty(size, dtype=dtype) if need else None
        for size, dtype, need in zip(sizes, dtypes, needed, strict=True)
    ]
    others = [rows, columns, scale]
    _launch(_backward, [gradient.contiguous(), features.contiguous()], others, outputs, combine)
    sums = [
        part.sum(1).to(t.dtype).view(size)
        for part, t, size in zip(outputs[1:], others, _sizes(features)[1:], strict=True)
        if part is not None and t is not None
    ]
    return sums if outputs[0] is None else [outputs[0], *sums]


@gate.register_fake
def _(features: Tensor, rows: Tensor | None, columns: Tensor | None, scale: Tensor | None, combine: str) -> Tensor:
    return torch.empty_like(features, memory_format=torch.contiguous_format)


@gate_backward.register_fake
def _(gradient: Tensor, features: Tensor, *rest: Any) -> list[Tensor]:
    *others, _, needed = rest
    tensors = zip((features, *others), _sizes(features), needed, strict=True)
    return [t.new_empty(size) for t, size, need in tensors if need and t is not None]


def _formula(
    features: Tensor, rows: Tensor | None, columns: Tensor | None, scale: Tensor | None, combine: str
) -> Tensor:
    rows, columns, scale = (None if t is None else t.to(features.dtype) for t in (rows, columns, scale))
    return formula(features, rows, columns, scale, combine)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.combine = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[:4]
    if wants_formula(gradient):
        return *gradients_of_formula(partial(_formula, combine=ctx.combine), inputs, needed, [gradient]), None
    found = iter(gate_backward(gradient, *inputs, ctx.combine, list(needed)))
    return *[next(found) if need else None for need in needed], None


gate.register_autograd(_differentiate, setup_context=_save)
