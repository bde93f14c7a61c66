"""RepVGG (Ding et al. 2021), with its own structure and parameter names."""

from __future__ import annotations

from typing import Literal

from deepseek_det import nn
from deepseek_det.model import Model

# Blocks of stages 1 to 4, and the widths' factors (of 64, 128, 256, 512).
_SIZES: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "a0": ((2, 4, 14, 1), (0.75, 0.75, 0.75, 2.5)),
    "a1": ((2, 4, 14, 1), (1.0, 1.0, 1.0, 2.5)),
    "b0": ((4, 6, 16, 1), (1.0, 1.0, 1.0, 2.5)),
}


class ConvBn(nn.Module):
    """A convolution without bias and its batch norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: nn.Value) -> nn.Value:
        value: nn.Value = self.bn(self.conv(x))
        return value


class Block(nn.Module):
    """3×3, 1×1 and identity with a batch norm each, added, then ReLU; deployed as one 3×3."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        same = stride == 1 and c_in == c_out
        self.rbr_identity = nn.BatchNorm2d(c_in) if same else None
        self.rbr_dense = ConvBn(c_in, c_out, 3, stride)
        self.rbr_1x1 = ConvBn(c_in, c_out, 1, stride)

    def forward(self, x: nn.Value) -> nn.Value:
        y: nn.Value = self.rbr_dense(x) + self.rbr_1x1(x)
        return nn.relu(y if self.rbr_identity is None else y + self.rbr_identity(x))


class RepVGG(nn.Module):
    """The net: {"c3", "c4", "c5"}, maps of strides 8, 16, 32; {"logits"} with `classes`."""

    def __init__(self, size: str, classes: int | None = None) -> None:
        super().__init__()
        blocks, factors = _SIZES[size]
        channels = min(64, int(64 * factors[0]))
        self.stage0 = Block(3, channels, 2)
        stages = []
        for i, (count, factor) in enumerate(zip(blocks, factors, strict=True)):
            width = int(64 * 2**i * factor)
            rows = [Block(channels, width, 2), *(Block(width, width, 1) for _ in range(count - 1))]
            stages.append(nn.Sequential(*rows))
            channels = width
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.linear: nn.Module | None = None
        if classes is not None:
            self.gap = nn.GlobalAvgPool()
            self.linear = nn.Linear(channels, classes)

    def forward(self, x: nn.Value) -> dict[str, nn.Value]:
        c3 = self.stage2(self.stage1(self.stage0(x)))
        c4 = self.stage3(c3)
        c5 = self.stage4(c4)
        if self.linear is None:
            return {"c3": c3, "c4": c4, "c5": c5}
        return {"logits": self.linear(nn.reshape(self.gap(c5), [0, -1]))}


def repvgg(
    size: Literal["a0", "a1", "b0"] = "a0", classes: int | None = None, seed: int = 0
) -> Model:
    """RepVGG alone in its training form, as a `Model` whose parameters have RepVGG's names.

    Outputs "c3", "c4", "c5": the maps of strides 8, 16 and 32; with `classes` the whole classifier
    with the output "logits" (N, classes). `infer` runs the merged 3×3 form, `fuse()` keeps only
    that. Floats go in as they come. Raises ValueError for another size.

    >>> import numpy as np
    >>> {name: a.shape[3] for name, a in repvgg().infer(np.zeros((1, 32, 32, 3), np.uint8)).items()}
    {'c3': 96, 'c4': 192, 'c5': 1280}
    """
    if size not in _SIZES:
        raise ValueError(f"repvgg: size is {size!r}, one of {', '.join(_SIZES)} is needed")
    return Model(RepVGG(size, classes), seed=seed)
