"""The detectors: dsdet-n, dsdet-s and dsdet-m. Why these shapes: docs/models.md."""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_det import nn
from deepseek_det.models.heads import SharedHead
from deepseek_det.models.hybrid import HybridBackbone, HybridWidths
from deepseek_det.models.pan import PAN


@dataclass(frozen=True)
class Size:
    """One row of the family: the backbone's widths, the neck's channels."""

    widths: HybridWidths
    neck: int


SIZES = {
    "n": Size(HybridWidths(16, 24, 40, 80, 120), 64),
    "s": Size(HybridWidths(16, 24, 48, 96, 160), 96),
    "m": Size(HybridWidths(24, 32, 64, 160, 256), 128),
}

STRIDES = (8, 16, 32)


class DSDet(nn.Module):
    """Hybrid backbone, PAN, shared head: (N, H, W, 3) to {"cls", "box"}."""

    def __init__(self, size: Size, classes: int, anchors: int = 3) -> None:
        super().__init__()
        self.backbone = HybridBackbone(size.widths)
        self.neck = PAN(size.widths.channels, size.neck)
        self.head = SharedHead(size.neck, classes, anchors, levels=len(STRIDES))

    def forward(self, x: nn.Value) -> dict[str, nn.Value]:
        outputs: dict[str, nn.Value] = self.head(self.neck(self.backbone(x)))
        return outputs
