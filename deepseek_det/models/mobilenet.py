"""MobileNetV3 (Howard et al. 2019), with torchvision's structure and parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from deepseek_det import nn
from deepseek_det.model import Model

# torchvision's batch norm settings of this net.
EPS, MOMENTUM = 1e-3, 0.01


class Block(NamedTuple):
    """A row of the paper's tables 1 and 2: kernel, hidden and output channels, SE, act, stride."""

    kernel: int
    hidden: int
    out: int
    se: bool
    act: str
    stride: int


_RE, _HS = "relu", "hard_swish"
_TABLES: dict[str, tuple[Sequence[Block], int]] = {
    "large": (
        (
            Block(3, 16, 16, False, _RE, 1),
            Block(3, 64, 24, False, _RE, 2),
            Block(3, 72, 24, False, _RE, 1),
            Block(5, 72, 40, True, _RE, 2),
            Block(5, 120, 40, True, _RE, 1),
            Block(5, 120, 40, True, _RE, 1),
            Block(3, 240, 80, False, _HS, 2),
            Block(3, 200, 80, False, _HS, 1),
            Block(3, 184, 80, False, _HS, 1),
            Block(3, 184, 80, False, _HS, 1),
            Block(3, 480, 112, True, _HS, 1),
            Block(3, 672, 112, True, _HS, 1),
            Block(5, 672, 160, True, _HS, 2),
            Block(5, 960, 160, True, _HS, 1),
            Block(5, 960, 160, True, _HS, 1),
        ),
        1280,
    ),
    "small": (
        (
            Block(3, 16, 16, True, _RE, 2),
            Block(3, 72, 24, False, _RE, 2),
            Block(3, 88, 24, False, _RE, 1),
            Block(5, 96, 40, True, _HS, 2),
            Block(5, 240, 40, True, _HS, 1),
            Block(5, 240, 40, True, _HS, 1),
            Block(5, 120, 48, True, _HS, 1),
            Block(5, 144, 48, True, _HS, 1),
            Block(5, 288, 96, True, _HS, 2),
            Block(5, 576, 96, True, _HS, 1),
            Block(5, 576, 96, True, _HS, 1),
        ),
        1024,
    ),
}


def _conv(
    c_in: int, c_out: int, kernel: int, act: str | None, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm, activation as "0", "1", "2": torchvision's Conv2dNormActivation."""
    layers: list[nn.Module] = [
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out, EPS, MOMENTUM),
    ]
    if act is not None:
        layers.append(nn.ReLU() if act == _RE else nn.Hardswish())
    return nn.Sequential(*layers)


def _divisible(value: float) -> int:
    """To the nearest multiple of 8 that is at least 8 and loses no more than a tenth."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


class SqueezeExcitation(nn.Module):
    """x times a gate a channel, computed from the map's mean (Hu et al. 2018)."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.avgpool = nn.GlobalAvgPool()
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.fc2 = nn.Conv2d(squeeze, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: nn.Value) -> nn.Value:
        gate = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        value: nn.Value = x * self.scale_activation(gate)
        return value


class InvertedResidual(nn.Module):
    """Expand where it widens, depthwise, squeeze-excitation where the table says so, project."""

    def __init__(self, c_in: int, row: Block) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if row.hidden != c_in:
            layers.append(_conv(c_in, row.hidden, 1, row.act))
        layers.append(
            _conv(row.hidden, row.hidden, row.kernel, row.act, row.stride, groups=row.hidden)
        )
        if row.se:
            layers.append(SqueezeExcitation(row.hidden, _divisible(row.hidden // 4)))
        layers.append(_conv(row.hidden, row.out, 1, None))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and c_in == row.out

    def forward(self, x: nn.Value) -> nn.Value:
        y: nn.Value = self.block(x)
        return y + x if self.residual else y


class MobileNetV3(nn.Module):
    """The net: {"c3", "c4", "c5"}, maps of strides 8, 16, 32; {"logits"} with `classes`."""

    def __init__(self, size: str, classes: int | None = None) -> None:
        super().__init__()
        rows, last = _TABLES[size]
        layers: list[nn.Module] = [_conv(3, 16, 3, _HS, 2)]
        channels, stride = 16, 2
        # where the map that leaves each stride stands: the block before the next stride-2 one
        self.taps: dict[str, int] = {}
        for row in rows:
            if row.stride == 2:
                if stride in (8, 16):
                    self.taps[{8: "c3", 16: "c4"}[stride]] = len(layers) - 1
                stride *= 2
            layers.append(InvertedResidual(channels, row))
            channels = row.out
        layers.append(_conv(channels, 6 * channels, 1, _HS))
        self.taps["c5"] = len(layers) - 1
        self.features = nn.Sequential(*layers)
        self.classifier: nn.Module | None = None
        if classes is not None:
            self.avgpool = nn.GlobalAvgPool()
            self.classifier = nn.Sequential(
                nn.Linear(6 * channels, last),
                nn.Hardswish(),
                nn.Dropout(0.2),
                nn.Linear(last, classes),
            )

    def forward(self, x: nn.Value) -> dict[str, nn.Value]:
        maps: list[nn.Value] = []
        for _, layer in self.features.children():
            maps.append(layer(maps[-1] if maps else x))
        if self.classifier is None:
            return {name: maps[i] for name, i in self.taps.items()}
        pooled = nn.reshape(self.avgpool(maps[-1]), [0, -1])
        return {"logits": self.classifier(pooled)}


def mobilenetv3(
    size: Literal["large", "small"] = "large", classes: int | None = None, seed: int = 0
) -> Model:
    """MobileNetV3 alone, as a `Model` whose parameters have torchvision's names.

    Outputs "c3", "c4", "c5": the maps of strides 8, 16 and 32; with `classes` the whole classifier
    with the output "logits" (N, classes). Floats go in as they come: weights that were trained on
    normalized pictures want (x / 255 - mean) / std. Raises ValueError for another size.

    >>> import numpy as np
    >>> net = mobilenetv3("small")
    >>> {name: a.shape for name, a in net.infer(np.zeros((1, 64, 64, 3), np.uint8)).items()}
    {'c3': (1, 8, 8, 24), 'c4': (1, 4, 4, 48), 'c5': (1, 2, 2, 576)}
    """
    if size not in _TABLES:
        raise ValueError(f"mobilenetv3: size is {size!r}, 'large' or 'small' is needed")
    return Model(MobileNetV3(size, classes), seed=seed)
