"""The variants of dsdet-s that the ablations compare with, registered by name.

Each changes one thing: the deep blocks, the backbone, or where anchors stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import deepseek_det as dd
from deepseek_det import models, nn
from deepseek_det.models.blocks import ConvNorm
from deepseek_det.models.dsdet import SIZES, DSDet
from deepseek_det.models.heads import SharedHead

SIZE = SIZES["s"]


def plain(classes: int) -> nn.Module:
    """A plain 3×3 where a RepVGG block stood: deployed the same net, trained without branches."""
    net = DSDet(SIZE, classes)
    w = SIZE.widths
    for stage, c_in, c_out, blocks in (
        ("stage3", w.stage2, w.stage3, w.blocks3),
        ("stage4", w.stage3, w.stage4, w.blocks4),
    ):
        more = [ConvNorm(c_out, c_out, 3) for _ in range(blocks - 1)]
        setattr(net.backbone, stage, nn.Sequential(ConvNorm(c_in, c_out, 3, 2), *more))
    return net


class BasicBlock(nn.Module):
    """Two 3×3 with a shortcut, a 1×1 where shapes differ (He et al. 2015)."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvNorm(c_in, c_out, 3, stride)
        self.second = ConvNorm(c_out, c_out, 3, act=None)
        same = stride == 1 and c_in == c_out
        self.shortcut = None if same else ConvNorm(c_in, c_out, 1, stride, act=None)

    def forward(self, x: nn.Value) -> nn.Value:
        y: nn.Value = self.second(self.first(x))
        return nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


@dataclass(frozen=True)
class ResNetWidths:
    """Channels of the stem and the stages of stride 4 to 32, a basic block each."""

    stem: int = 16
    stages: tuple[int, int, int, int] = (30, 56, 112, 160)


class ResNetBackbone(nn.Module):
    """(N, H, W, 3) to three maps of strides 8, 16 and 32."""

    def __init__(self, w: ResNetWidths) -> None:
        super().__init__()
        self.stem = ConvNorm(3, w.stem, 3, 2)
        ins = (w.stem, *w.stages[:-1])
        self.stages = nn.ModuleList(
            [BasicBlock(a, b, 2) for a, b in zip(ins, w.stages, strict=True)]
        )

    def forward(self, x: nn.Value) -> Sequence[nn.Value]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]


def resnet(classes: int) -> nn.Module:
    """A ResNet-style backbone of the hybrid's cost under the same neck and head."""
    net = DSDet(SIZE, classes)
    widths = ResNetWidths()
    net.backbone = ResNetBackbone(widths)
    net.neck = type(net.neck)(widths.stages[1:], SIZE.neck)
    return net


class OneLevel(DSDet):
    """Anchors of all sizes on the map of stride 16 alone: one density for small and large."""

    def __init__(self, classes: int) -> None:
        super().__init__(SIZE, classes)
        self.head = SharedHead(SIZE.neck, classes, anchors=9, levels=1)

    def forward(self, x: nn.Value) -> dict[str, nn.Value]:
        outputs: dict[str, nn.Value] = self.head([self.neck(self.backbone(x))[1]])
        return outputs


# 24, 48 and 96 pixels: the sizes of dsdet-s, in the order that `detector_anchors` gives them.
ONE_LEVEL_ANCHORS = {"strides": (16,), "scales": (0.5, 1.0, 2.0)}

VARIANTS = {"plain-3x3": plain, "resnet": resnet, "one-level": OneLevel}
for _name, _build in VARIANTS.items():
    models.register(_name, _build)


def detector(model: str, names: Sequence[str], seed: int) -> dd.Detector:
    """A new detector of the registry or of the variants."""
    det = dd.Detector(model, classes=list(names), seed=seed)
    if model == "one-level":
        det.anchor_options = dict(ONE_LEVEL_ANCHORS)
    return det
