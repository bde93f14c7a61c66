"""The detection head: one tower for all levels, class logits and box deltas an anchor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deepseek_det import nn
from deepseek_det.models.blocks import DepthwiseSeparable

# sigmoid(bias) is the share of positives that a fresh head predicts (Lin et al. 2017, section 4.1).
PRIOR = 0.01


class SharedHead(nn.Module):
    """Maps fine to coarse → {"cls": (N, A, classes), "box": (N, A, 4)}.

    Weights are shared over the levels, batch norms are not; a learned scalar a level multiplies
    the box deltas. A is ordered by level, row, column, anchor.
    """

    def __init__(
        self, channels: int, classes: int, anchors: int = 3, levels: int = 3, blocks: int = 2
    ) -> None:
        super().__init__()
        self.classes = classes
        self.tower = nn.ModuleList(
            [DepthwiseSeparable(channels, levels=levels) for _ in range(blocks)]
        )
        self.cls = nn.Conv2d(channels, anchors * classes, 1, init=nn.normal(0.01))
        assert self.cls.bias is not None
        self.cls.bias.init = nn.constant(-math.log((1 - PRIOR) / PRIOR))
        self.box = nn.Conv2d(channels, anchors * 4, 1, init=nn.normal(0.01))
        self.scale = nn.ModuleList([_Scale() for _ in range(levels)])

    def forward(self, maps: Sequence[nn.Value]) -> dict[str, nn.Value]:
        cls, box = [], []
        for level, x in enumerate(maps):
            for block in self.tower:
                x = block(x, level)
            cls.append(nn.reshape(self.cls(x), [0, -1, self.classes]))
            box.append(nn.reshape(self.scale[level](self.box(x)), [0, -1, 4]))
        return {"cls": nn.concat(cls, axis=1), "box": nn.concat(box, axis=1)}


class _Scale(nn.Module):
    """A learned factor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter((1,), nn.constant(1.0))

    def forward(self, x: nn.Value) -> nn.Value:
        return x * self.weight
