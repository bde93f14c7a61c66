"""The blocks that the detectors are made of."""

from __future__ import annotations

from deepseek_det import nn

# torchvision's and torch's defaults differ from what detectors train best with: every batch norm
# of the dsdet nets has these.
EPS, MOMENTUM = 1e-3, 0.03


def activation(kind: str | None) -> nn.Module:
    """The module of an activation by its graph name; None is the identity."""
    kinds = {
        None: nn.Identity,
        "relu": nn.ReLU,
        "hard_swish": nn.Hardswish,
        "silu": nn.SiLU,
    }
    return kinds[kind]()


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, activation; "same" padding for odd kernels.

    With `levels` > 1 the convolution is shared and each level has a batch norm of its own:
    ``block(x, level)``.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        act: str | None = "relu",
        levels: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.levels = levels
        if levels == 1:
            self.bn: nn.Module = nn.BatchNorm2d(c_out, EPS, MOMENTUM)
        else:
            self.bn = nn.ModuleList([nn.BatchNorm2d(c_out, EPS, MOMENTUM) for _ in range(levels)])
        self.act = activation(act)

    def forward(self, x: nn.Value, level: int = 0) -> nn.Value:
        bn = self.bn[level] if isinstance(self.bn, nn.ModuleList) else self.bn
        value: nn.Value = self.act(bn(self.conv(x)))
        return value


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise, project 1×1 (Sandler et al. 2018); added to x where shapes allow.

    The seed's shallow block, MobileNetV3's without squeeze-excitation (Howard et al. 2019): its
    whole-map mean would cut every fused chain for little accuracy at these widths.
    """

    def __init__(
        self, c_in: int, hidden: int, c_out: int, kernel: int, stride: int, act: str
    ) -> None:
        super().__init__()
        self.expand = ConvNorm(c_in, hidden, 1, act=act)
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden, act=act)
        self.project = ConvNorm(hidden, c_out, 1, act=None)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: nn.Value) -> nn.Value:
        y: nn.Value = self.project(self.depthwise(self.expand(x)))
        return y + x if self.residual else y


class RepVGGBlock(nn.Module):
    """3×3 + 1×1 + identity, each with batch norm, added, then ReLU (Ding et al. 2021).

    Deployment merges the branches into one 3×3 with bias.
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.dense = ConvNorm(c_in, c_out, 3, stride, act=None)
        self.point = ConvNorm(c_in, c_out, 1, stride, act=None)
        same = stride == 1 and c_in == c_out
        self.identity = nn.BatchNorm2d(c_in, EPS, MOMENTUM) if same else None

    def forward(self, x: nn.Value) -> nn.Value:
        y: nn.Value = self.dense(x) + self.point(x)
        if self.identity is not None:
            y = y + self.identity(x)
        return nn.relu(y)


class DepthwiseSeparable(nn.Module):
    """Depthwise k×k, then 1×1, both with batch norm and activation."""

    def __init__(
        self, channels: int, kernel: int = 5, act: str = "hard_swish", levels: int = 1
    ) -> None:
        super().__init__()
        self.depthwise = ConvNorm(
            channels, channels, kernel, groups=channels, act=act, levels=levels
        )
        self.point = ConvNorm(channels, channels, 1, act=act, levels=levels)

    def forward(self, x: nn.Value, level: int = 0) -> nn.Value:
        value: nn.Value = self.point(self.depthwise(x, level), level)
        return value
