"""Makes ops.npz: what torch says about the operators, forward and gradients, in double precision.

    python tests/golden/make_ops.py

Arrays lie as in this project (activations N, H, W, C); each case below tells how torch gets them.
Inputs and seeds are rounded to float32 before torch sees them as doubles, so the stored results
are right to the last bit of float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

Tensors = list[torch.Tensor]
Case = tuple[str, str, dict[str, Any], list[Any], Callable[[Tensors], Tensors]]

rng = np.random.default_rng(5)
KINKS = [-3.0, -1.0, -0.5, 0.0, 0.75, 1.0, 3.0]


def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return rng.uniform(0.3, 2, size=shape).astype(np.float32)


def spread(*shape: int) -> np.ndarray:
    """Small and large values of both signs, and the places where functions have kinks."""
    x = (rng.normal(size=shape) * 10 ** rng.uniform(-3, 1, size=shape)).astype(np.float32)
    x.reshape(-1)[: len(KINKS)] = KINKS
    return x


def nchw(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def nhwc(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


def conv(x: Tensors, stride: Any, pads: Any, dilation: Any, groups: int) -> Tensors:
    top, left, bottom, right = pads
    padded = F.pad(nchw(x[0]), (left, right, top, bottom))
    bias = x[2] if len(x) > 2 else None
    return [nhwc(F.conv2d(padded, x[1], bias, stride, 0, dilation, groups))]


def conv_case(name: str, n: Any, o: int, k: Any, bias: bool = True, **a: Any) -> Case:
    a = {"stride": [1, 1], "pads": [0] * 4, "dilation": [1, 1], "groups": 1} | a
    inputs = [normal(*n), ("trainable", normal(o, n[3] // a["groups"], *k) * 0.3)]
    if bias:
        inputs.append(("trainable", normal(o)))
    return (name, "conv", a, inputs, lambda x: conv(x, **a))


def batch_norm_case(name: str, shape: Any, training: bool, **a: Any) -> Case:
    c = shape[-1]

    def run(x: Tensors) -> Tensors:
        mean, var = x[3].detach().clone(), x[4].detach().clone()
        y = F.batch_norm(
            nchw(x[0]) if len(shape) == 4 else x[0],
            mean,
            var,
            x[1],
            x[2],
            training,
            a["momentum"],
            a["eps"],
        )
        return [nhwc(y) if len(shape) == 4 else y, mean, var]

    inputs = [
        normal(*shape) * 2 + 1,
        ("trainable", positive(c)),
        ("trainable", normal(c)),
        ("state", normal(c)),
        ("state", positive(c)),
    ]
    return (name, "batch_norm", a | ({} if training else {"frozen": True}), inputs, run)


def pool(x: Tensors, kind: str, kernel: Any, stride: Any, pad: int, ceil: bool, count: bool) -> Any:
    if kind == "max_pool":
        return [nhwc(F.max_pool2d(nchw(x[0]), kernel, stride, pad, ceil_mode=ceil))]
    return [nhwc(F.avg_pool2d(nchw(x[0]), kernel, stride, pad, ceil, count))]


def pool_case(name: str, kind: str, n: Any, kernel: Any, stride: Any, pad: int, **a: Any) -> Case:
    p = {"kernel": kernel, "stride": stride, "pads": [pad] * 4} | a
    ceil, count = a.get("ceil_mode", False), a.get("count_pad", False)
    return (name, kind, p, [normal(*n)], lambda x: pool(x, kind, kernel, stride, pad, ceil, count))


def resize_case(name: str, n: Any, size: Any, scale: Any, mode: str, corners: bool = False) -> Case:
    def run(x: Tensors) -> Tensors:
        options = {} if mode == "nearest" else {"align_corners": corners}
        factor = tuple(scale) if scale else None
        target = None if scale else tuple(size)
        return [nhwc(F.interpolate(nchw(x[0]), target, factor, mode, **options))]

    p: dict[str, Any] = {"mode": mode}
    if corners:
        p["align_corners"] = True
    inputs: list[Any] = [normal(*n)]
    if scale:
        p["scale"] = scale
    else:
        inputs.append(("like", normal(1, *size, 1)))
    return (name, "resize", p, inputs, run)


def conv_transpose_case(name: str, n: Any, o: int, k: Any, bias: bool = True, **a: Any) -> Case:
    a = {"stride": [1, 1], "pads": [0] * 4, "dilation": [1, 1], "output_pad": [0, 0]} | a
    groups = a.setdefault("groups", 1)

    def run(x: Tensors) -> Tensors:
        top, left, bottom, right = a["pads"]
        wide = F.conv_transpose2d(
            nchw(x[0]),
            x[1],
            x[2] if bias else None,
            a["stride"],
            0,
            [s - 1 for s in a["stride"]],  # rows to spare, cut to output_pad below
            groups,
            a["dilation"],
        )
        ends = [
            wide.shape[2 + i] - (a["stride"][i] - 1) + a["output_pad"][i] - end
            for i, end in enumerate((bottom, right))
        ]
        return [nhwc(wide[:, :, top : ends[0], left : ends[1]])]

    inputs = [normal(*n), ("trainable", normal(n[3], o // groups, *k) * 0.3)]
    if bias:
        inputs.append(("trainable", normal(o)))
    return (name, "conv_transpose", a, inputs, run)


def prelu_case(name: str, shape: Any, slope: Any) -> Case:
    def run(x: Tensors) -> Tensors:
        return [torch.where(x[0] > 0, x[0], x[0] * x[1])]

    return (name, "prelu", {}, [spread(*shape), ("trainable", normal(*slope))], run)


def where_case(name: str, condition: Any, a: Any, b: Any) -> Case:
    mask = rng.integers(0, 2, size=condition).astype(np.uint8)

    def run(x: Tensors) -> Tensors:
        return [torch.where(torch.tensor(mask != 0), x[0], x[1])]

    return (name, "where", {}, [("index", mask), normal(*a), normal(*b)], run)


def foreign_resize(name: str, n: Any, params: Any, **how: Any) -> Case:
    """resize with attributes of its own beside what torch's interpolate is told."""

    def run(x: Tensors) -> Tensors:
        return [nhwc(F.interpolate(nchw(x[0]), **how))]

    return (name, "resize", params, [normal(*n)], run)


def pad_case(mode: str, torchs: str, before: Any, after: Any) -> Case:
    def run(x: Tensors) -> Tensors:
        pads = (before[2], after[2], before[1], after[1])
        return [nhwc(F.pad(nchw(x[0]), pads, torchs))]

    params = {"before": before, "after": after, "mode": mode}
    return (f"pad_{mode}", "pad", params, [normal(2, 4, 5, 3)], run)


def reduce_case(kind: str, axes: Any, run: Callable[[torch.Tensor], torch.Tensor]) -> Case:
    params = {"kind": kind, "axes": axes}
    return (f"reduce_{kind}", "reduce", params, [normal(3, 4, 5)], lambda x: [run(x[0])])


def group_norm_case(name: str, shape: Any, groups: int) -> Case:
    c = shape[-1]

    def run(x: Tensors) -> Tensors:
        y = F.group_norm(x[0].movedim(-1, 1), groups or c, x[1], x[2], 1e-5)
        return [y.movedim(1, -1)]

    inputs = [normal(*shape) + 1, ("trainable", positive(c)), ("trainable", normal(c))]
    return (name, "group_norm", {"groups": groups, "eps": 1e-5}, inputs, run)


def gather_case(name: str, shape: Any, indices: Any, axis: int) -> Case:
    at = np.array(indices, np.int32)

    def run(x: Tensors) -> Tensors:
        taken = x[0].index_select(axis, torch.tensor(at.reshape(-1) % shape[axis]))
        return [taken.reshape(*shape[:axis], *at.shape, *shape[axis + 1 :])]

    return (name, "gather", {"axis": axis}, [normal(*shape), ("index", at)], run)


def elements_case(name: str, shape: Any, indices: Any, axis: int) -> Case:
    at = np.array(indices, np.int32)

    def run(x: Tensors) -> Tensors:
        return [x[0].gather(axis, torch.tensor(at.astype(np.int64) % shape[axis]))]

    # drawn apart, so that the other cases keep their numbers
    x = np.random.default_rng(9).standard_normal(shape).astype(np.float32)
    return (name, "gather_elements", {"axis": axis}, [x, ("index", at)], run)


UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda x: x * 1,
    "relu": F.relu,
    "clip": lambda x: F.hardtanh(x, -0.5, 0.75),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "mish": F.mish,
    "elu": lambda x: F.elu(x, 0.8),
    "softplus": lambda x: F.softplus(x, threshold=1e9),
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "erf": torch.erf,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
    "neg": torch.neg,
    "ramp": lambda x: (0.25 * x + 0.5).clip(0, 1),
    "selu": F.selu,
    "softsign": F.softsign,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "reciprocal": torch.reciprocal,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "sign": torch.sign,
    "sin": torch.sin,
    "cos": torch.cos,
}
PARAMETERS = {
    "clip": {"a": -0.5, "b": 0.75},
    "leaky_relu": {"a": 0.1},
    "elu": {"a": 0.8},
    "ramp": {"a": 0.25, "b": 0.5},
    "selu": {"a": 1.6732632423543772848170429916717, "b": 1.0507009873554804934193349852946},
}

BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
    "pow": torch.pow,
}


def unary_case(kind: str) -> Case:
    x = positive(3, 4, 13) if kind in ("log", "sqrt", "reciprocal") else spread(3, 4, 13)
    p = {"kind": kind} | PARAMETERS.get(kind, {})
    return (f"unary_{kind}", "unary", p, [x], lambda t: [UNARY[kind](t[0])])


def binary_case(kind: str, name: str, a: Any, b: Any) -> Case:
    x, y = (positive(*a), normal(*b)) if kind == "pow" else (normal(*a), positive(*b))
    if kind in ("max", "min"):
        y = normal(*b)
        y.reshape(-1)[:2] = x.reshape(-1)[:2]  # ties
    return (
        f"binary_{kind}_{name}",
        "binary",
        {"kind": kind},
        [x, y],
        lambda t: [BINARY[kind](t[0], t[1])],
    )


def cases() -> list[Case]:
    pad1 = [1, 1, 1, 1]
    made = [
        conv_case("conv_1x1", (2, 3, 5, 7), 9, (1, 1)),
        conv_case("conv_3x3", (2, 6, 7, 5), 11, (3, 3), pads=pad1),
        conv_case("conv_3x3_no_bias", (1, 5, 5, 8), 8, (3, 3), False, pads=pad1),
        conv_case("conv_3x3_s2", (2, 7, 8, 3), 16, (3, 3), False, pads=pad1, stride=[2, 2]),
        conv_case("conv_dilated", (1, 9, 8, 4), 6, (3, 3), pads=[2] * 4, dilation=[2, 2]),
        conv_case("conv_groups", (1, 6, 5, 6), 9, (3, 3), pads=pad1, groups=3),
        conv_case(
            "conv_odd",
            (2, 8, 7, 4),
            6,
            (3, 2),
            pads=[0, 2, 1, 0],
            stride=[2, 1],
            dilation=[1, 2],
            groups=2,
        ),
        conv_case("conv_depthwise_3", (2, 6, 7, 9), 9, (3, 3), pads=pad1, groups=9),
        conv_case("conv_depthwise_5", (1, 8, 7, 16), 16, (5, 5), False, pads=[2] * 4, groups=16),
        conv_case(
            "conv_depthwise_5_s2",
            (1, 9, 8, 12),
            12,
            (5, 5),
            False,
            pads=[2] * 4,
            stride=[2, 2],
            groups=12,
        ),
        batch_norm_case("batch_norm", (3, 4, 5, 7), True, eps=1e-5, momentum=0.1),
        batch_norm_case("batch_norm_rows", (9, 6), True, eps=1e-3, momentum=0.03),
        batch_norm_case("batch_norm_frozen", (2, 3, 5, 8), False, eps=1e-3, momentum=0.1),
        pool_case("max_pool", "max_pool", (2, 7, 6, 5), [3, 3], [2, 2], 1),
        pool_case("max_pool_5", "max_pool", (1, 6, 7, 8), [5, 5], [1, 1], 2),
        pool_case("max_pool_ceil", "max_pool", (1, 8, 9, 3), [3, 2], [2, 3], 1, ceil_mode=True),
        pool_case("avg_pool", "avg_pool", (2, 6, 8, 5), [2, 2], [2, 2], 0),
        pool_case("avg_pool_inside", "avg_pool", (1, 7, 6, 4), [3, 3], [2, 2], 1),
        pool_case("avg_pool_pads", "avg_pool", (1, 7, 6, 4), [3, 3], [2, 2], 1, count_pad=True),
        pool_case(
            "avg_pool_ceil",
            "avg_pool",
            (1, 8, 6, 4),
            [3, 3],
            [2, 2],
            1,
            count_pad=True,
            ceil_mode=True,
        ),
        (
            "avg_pool_global",
            "avg_pool",
            {},
            [normal(2, 4, 5, 6)],
            lambda x: [x[0].mean((1, 2), keepdim=True)],
        ),
        resize_case("resize_nearest", (2, 3, 4, 5), None, [2.0, 2.0], "nearest"),
        resize_case("resize_nearest_like", (1, 5, 3, 4), (7, 8), None, "nearest"),
        resize_case("resize_bilinear", (1, 3, 5, 4), None, [2.0, 1.5], "bilinear"),
        resize_case("resize_bilinear_like", (1, 6, 5, 3), (4, 9), None, "bilinear"),
        resize_case("resize_corners", (1, 4, 5, 3), (9, 3), None, "bilinear", True),
        ("softmax", "softmax", {"axis": -1}, [normal(3, 4, 7) * 4], lambda x: [x[0].softmax(-1)]),
        ("softmax_axis", "softmax", {"axis": 1}, [normal(2, 5, 3)], lambda x: [x[0].softmax(1)]),
        (
            "layer_norm",
            "layer_norm",
            {"eps": 1e-5},
            [normal(2, 3, 9), ("trainable", positive(9)), ("trainable", normal(9))],
            lambda x: [F.layer_norm(x[0], (9,), x[1], x[2], 1e-5)],
        ),
        (
            "linear",
            "matmul",
            {"transpose_b": True},
            [normal(2, 3, 5), ("trainable", normal(7, 5)), ("trainable", normal(7))],
            lambda x: [F.linear(x[0], x[1], x[2])],
        ),
        (
            "matmul_batched",
            "matmul",
            {"transpose_a": True},
            [normal(2, 3, 5, 4), normal(2, 3, 5, 6)],
            lambda x: [x[0].transpose(-1, -2) @ x[1]],
        ),
        ("matmul_shared", "matmul", {}, [normal(3, 5), normal(4, 5, 2)], lambda x: [x[0] @ x[1]]),
        (
            "reduce_mean",
            "reduce",
            {"kind": "mean", "axes": [1, 2], "keepdims": True},
            [normal(2, 3, 4, 5)],
            lambda x: [x[0].mean((1, 2), keepdim=True)],
        ),
        ("reduce_sum", "reduce", {"kind": "sum"}, [normal(3, 4, 5)], lambda x: [x[0].sum()]),
        (
            "reduce_max",
            "reduce",
            {"kind": "max", "axes": [-1]},
            [normal(3, 4, 5).round()],
            lambda x: [x[0].amax(-1)],
        ),
        (
            "reduce_min",
            "reduce",
            {"kind": "min", "axes": [0, 2]},
            [normal(3, 4, 5)],
            lambda x: [x[0].amin((0, 2))],
        ),
        (
            "concat",
            "concat",
            {"axis": -1},
            [normal(2, 3, 4, 5), normal(2, 3, 4, 8)],
            lambda x: [torch.cat(x, -1)],
        ),
        (
            "split",
            "split",
            {"axis": -1, "sizes": [3, 6]},
            [normal(2, 3, 4, 9)],
            lambda x: list(x[0].split([3, 6], -1)),
        ),
        (
            "slice",
            "slice",
            {"starts": [1, -2], "ends": [9, 0], "axes": [1, 2], "steps": [2, -1]},
            [normal(2, 6, 5, 3)],
            lambda x: [x[0][:, 1:9:2].flip(2)[:, :, 1:4]],
        ),
        (
            "pad",
            "pad",
            {"before": [0, 1, 0, 2], "after": [0, 2, 1, 0], "value": 0.5},
            [normal(2, 3, 4, 5)],
            lambda x: [F.pad(x[0], (2, 0, 0, 1, 1, 2), value=0.5)],
        ),
        (
            "transpose",
            "transpose",
            {"perm": [0, 3, 1, 2]},
            [normal(2, 3, 4, 5)],
            lambda x: [nchw(x[0])],
        ),
        (
            "reshape",
            "reshape",
            {"shape": [0, -1, 6]},
            [normal(2, 3, 4, 12)],
            lambda x: [x[0].reshape(2, -1, 6)],
        ),
        (
            "expand",
            "expand",
            {"shape": [2, 3, 4, 5]},
            [normal(2, 1, 1, 5)],
            lambda x: [x[0].expand(2, 3, 4, 5)],
        ),
        (
            "depth_to_space",
            "depth_to_space",
            {"block": 2},
            [normal(2, 3, 4, 12)],
            lambda x: [
                nhwc(
                    F.pixel_shuffle(
                        nchw(x[0].reshape(2, 3, 4, 4, 3).transpose(3, 4).reshape(2, 3, 4, 12)), 2
                    )
                )
            ],
        ),
        (
            "channel_shuffle",
            "channel_shuffle",
            {"groups": 3},
            [normal(2, 3, 4, 12)],
            lambda x: [nhwc(F.channel_shuffle(nchw(x[0]), 3))],
        ),
    ]
    made += [unary_case(kind) for kind in UNARY]
    made += [binary_case(kind, "same", (2, 3, 5), (2, 3, 5)) for kind in BINARY]
    made += [binary_case(k, "channels", (2, 3, 4, 7), (7,)) for k in ("add", "sub", "mul", "div")]
    made += [binary_case(k, "squeeze", (2, 1, 1, 7), (2, 3, 4, 7)) for k in ("add", "mul", "max")]
    return made + foreign_cases()


def foreign_cases() -> list[Case]:
    """What nets from elsewhere need beside."""
    made = [
        conv_transpose_case("conv_transpose_2x2", (2, 3, 4, 6), 5, (2, 2), stride=[2, 2]),
        conv_transpose_case(
            "conv_transpose_4x4", (1, 4, 5, 3), 9, (4, 4), False, stride=[2, 2], pads=[1] * 4
        ),
        conv_transpose_case(
            "conv_transpose_odd",
            (2, 4, 3, 4),
            6,
            (3, 2),
            stride=[3, 2],
            pads=[0, 2, 1, 0],
            dilation=[1, 2],
            output_pad=[2, 1],
            groups=2,
        ),
        conv_transpose_case(
            "conv_transpose_depthwise",
            (1, 3, 4, 8),
            8,
            (3, 3),
            stride=[2, 2],
            pads=[1] * 4,
            output_pad=[1, 1],
            groups=8,
        ),
        prelu_case("prelu", (2, 3, 4, 7), (7,)),
        prelu_case("prelu_one", (3, 9), (1,)),
        where_case("where", (2, 3, 5), (2, 3, 5), (2, 3, 5)),
        where_case("where_wide", (3, 1), (5,), (2, 3, 1)),
        pad_case("edge", "replicate", [0, 2, 1, 0], [0, 1, 3, 0]),
        pad_case("reflect", "reflect", [0, 3, 1, 0], [0, 1, 4, 0]),
        pad_case("wrap", "circular", [0, 2, 5, 0], [0, 4, 1, 0]),
        foreign_resize(
            "resize_nearest_exact",
            (1, 4, 6, 3),
            {"size": [7, 4], "coordinates": "half_pixel", "rounding": "half_up"},
            size=(7, 4),
            mode="nearest-exact",
        ),
        foreign_resize(
            "resize_cubic",
            (1, 4, 5, 3),
            {"mode": "cubic", "scale": [2.0, 1.5]},
            scale_factor=(2.0, 1.5),
            mode="bicubic",
        ),
        foreign_resize(
            "resize_cubic_corners",
            (1, 5, 4, 3),
            {"mode": "cubic", "size": [3, 9], "align_corners": True},
            size=(3, 9),
            mode="bicubic",
            align_corners=True,
        ),
        (
            "max_pool_dilated",
            "max_pool",
            {"kernel": [3, 2], "stride": [1, 2], "pads": [1] * 4, "dilation": [2, 3]},
            [normal(1, 7, 8, 5)],
            lambda x: [nhwc(F.max_pool2d(nchw(x[0]), (3, 2), (1, 2), 1, (2, 3)))],
        ),
        reduce_case("prod", [1], lambda x: x.prod(1)),
        reduce_case("l1", [0, 2], lambda x: x.abs().sum((0, 2))),
        reduce_case("l2", [2], lambda x: x.norm(dim=2)),
        reduce_case("sum_square", [0], lambda x: (x * x).sum(0)),
        reduce_case("log_sum_exp", [1, 2], lambda x: x.logsumexp((1, 2))),
        (
            "log_softmax",
            "log_softmax",
            {"axis": 1},
            [normal(2, 5, 3) * 4],
            lambda x: [x[0].log_softmax(1)],
        ),
        group_norm_case("group_norm", (2, 3, 4, 6), 2),
        group_norm_case("instance_norm", (2, 4, 3, 5), 0),
        (
            "matmul_broadcast",
            "matmul",
            {},
            [normal(2, 1, 3, 5), normal(4, 5, 2)],
            lambda x: [x[0] @ x[1]],
        ),
        gather_case("gather", (4, 7, 3), [[0, -1, 3], [3, 6, 2]], 1),
        gather_case("gather_channels", (2, 3, 5), [4, 4, 0], 2),
        gather_case("gather_one", (4, 3), 2, 0),
        (
            "top_k",
            "top_k",
            {"k": 3, "axis": 1},
            [normal(2, 7, 3)],
            lambda x: [x[0].topk(3, 1).values],
        ),
        (
            "top_k_smallest",
            "top_k",
            {"k": 4, "smallest": True},
            [normal(3, 6)],
            lambda x: [x[0].topk(4, -1, largest=False).values],
        ),
        elements_case("gather_elements", (4, 5, 3), [[[0, 4, 2], [1, 1, -1]]] * 4, 1),
    ]
    return made


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    table: list[dict[str, Any]] = []
    for name, op, params, inputs, run in cases():
        given = [i if isinstance(i, tuple) else ("input", i) for i in inputs]
        roles = [role for role, _ in given]
        kept = {
            k: a if roles[k] == "index" else a.astype(np.float32) for k, (_, a) in enumerate(given)
        }
        arrays |= {f"{name}/in{k}": a for k, a in kept.items()}
        tensors = [
            torch.tensor(arrays[f"{name}/in{k}"], dtype=torch.float64).requires_grad_(
                role in ("input", "trainable")
            )
            for k, role in enumerate(roles)
        ]
        outputs = run(
            [t for t, role in zip(tensors, roles, strict=True) if role not in ("like", "index")]
        )
        after = outputs[1:] if op == "batch_norm" else []
        outputs = outputs[: len(outputs) - len(after)]
        total = torch.zeros((), dtype=torch.float64)
        for k, y in enumerate(outputs):
            seed = normal(*y.shape)
            arrays[f"{name}/out{k}"] = y.detach().numpy().astype(np.float32)
            arrays[f"{name}/seed{k}"] = seed
            total = total + (y * torch.tensor(seed, dtype=torch.float64)).sum()
        total.backward()
        for k, t in enumerate(tensors):
            if t.grad is not None:
                arrays[f"{name}/d{k}"] = t.grad.numpy().astype(np.float32)
        for k, t in enumerate(after):  # running statistics
            arrays[f"{name}/after{k + 3}"] = t.numpy().astype(np.float32)
        table.append({"name": name, "op": op, "params": params, "roles": roles})
    arrays["cases"] = np.array(json.dumps(table))
    path = Path(__file__).with_name("ops.npz")
    np.savez_compressed(path, **arrays)
    print(
        f"{path.name}: {len(table)} cases, torch {torch.__version__}, {path.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
