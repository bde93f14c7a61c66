"""The neck: a path aggregation network (Liu et al. 2018) of depthwise 5×5 and 1×1."""

from __future__ import annotations

from collections.abc import Sequence

from deepseek_det import nn
from deepseek_det.models.blocks import ConvNorm, DepthwiseSeparable


class PAN(nn.Module):
    """Maps of strides 8, 16, 32 to as many of `channels` channels: top-down, then bottom-up.

    Joins are additions, upsampling is to the nearest: both cost no convolution, and no memory pass
    of their own.
    """

    def __init__(self, c_in: Sequence[int], channels: int, act: str = "hard_swish") -> None:
        super().__init__()
        n = len(c_in)
        self.lateral = nn.ModuleList([ConvNorm(c, channels, 1, act=act) for c in c_in])
        self.top_down = nn.ModuleList([DepthwiseSeparable(channels, act=act) for _ in range(n - 1)])
        self.down = nn.ModuleList(
            [ConvNorm(channels, channels, 5, 2, groups=channels, act=act) for _ in range(n - 1)]
        )
        self.bottom_up = nn.ModuleList(
            [DepthwiseSeparable(channels, act=act) for _ in range(n - 1)]
        )

    def forward(self, maps: Sequence[nn.Value]) -> Sequence[nn.Value]:
        p = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        for i in range(len(p) - 2, -1, -1):
            p[i] = self.top_down[i](p[i] + nn.upsample(p[i + 1]))
        for i in range(1, len(p)):
            p[i] = self.bottom_up[i - 1](p[i] + self.down[i - 1](p[i - 1]))
        return p
