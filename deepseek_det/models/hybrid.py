"""The hybrid backbone: inverted residuals in the shallow stages, RepVGG in the deep ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek_det import nn
from deepseek_det.models.blocks import ConvNorm, InvertedResidual, RepVGGBlock


@dataclass(frozen=True)
class HybridWidths:
    """Channels of the stages: stem, stage 1 (stride 4), 2 (8), 3 (16), 4 (32); blocks of 2 to 4."""

    stem: int
    stage1: int
    stage2: int
    stage3: int
    stage4: int
    blocks2: int = 3
    blocks3: int = 3
    blocks4: int = 2

    @property
    def channels(self) -> tuple[int, int, int]:
        """Of the three maps that the neck takes."""
        return self.stage2, self.stage3, self.stage4


class HybridBackbone(nn.Module):
    """(N, H, W, 3) to three maps of strides 8, 16 and 32."""

    def __init__(self, w: HybridWidths) -> None:
        super().__init__()
        self.stem = ConvNorm(3, w.stem, 3, 2, act="relu")
        self.stage1 = nn.Sequential(
            InvertedResidual(w.stem, 4 * w.stem, w.stage1, 3, 2, "relu"),
            InvertedResidual(w.stage1, 3 * w.stage1, w.stage1, 3, 1, "relu"),
        )
        first = InvertedResidual(w.stage1, 4 * w.stage1, w.stage2, 5, 2, "hard_swish")
        more = [
            InvertedResidual(w.stage2, 3 * w.stage2, w.stage2, 5, 1, "hard_swish")
            for _ in range(w.blocks2 - 1)
        ]
        self.stage2 = nn.Sequential(first, *more)
        self.stage3 = _repvgg_stage(w.stage2, w.stage3, w.blocks3)
        self.stage4 = _repvgg_stage(w.stage3, w.stage4, w.blocks4)

    def forward(self, x: nn.Value) -> Sequence[nn.Value]:
        c3 = self.stage2(self.stage1(self.stem(x)))
        c4 = self.stage3(c3)
        return [c3, c4, self.stage4(c4)]


def _repvgg_stage(c_in: int, c_out: int, blocks: int) -> nn.Sequential:
    more = [RepVGGBlock(c_out, c_out) for _ in range(blocks - 1)]
    return nn.Sequential(RepVGGBlock(c_in, c_out, 2), *more)
