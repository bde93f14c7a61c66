"""The benchmark's reference net, in our modules and in torch's, with the same parameter names.

0.5 M parameters: inverted residuals, plain 3×3 stages (RepVGG as deployed), a PAN of depthwise 5×5
at 64 channels, one shared head without norms of its own. 297 MMAC at 320.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from deepseek_det import nn


class CBA(nn.Sequential):
    def __init__(
        self,
        i: int,
        o: int,
        k: int,
        st: int = 1,
        g: int = 1,
        act: type[nn.Module] | None = nn.Hardswish,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(i, o, k, st, k // 2, groups=g, bias=False),
            nn.BatchNorm2d(o),
        ]
        super().__init__(*layers, *([act()] if act else []))


class IR(nn.Module):
    def __init__(self, i: int, e: int, o: int, k: int, st: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.res = st == 1 and i == o
        self.b = nn.Sequential(
            CBA(i, e, 1, act=act), CBA(e, e, k, st, e, act=act), CBA(e, o, 1, act=None)
        )

    def forward(self, x: nn.Value) -> nn.Value:
        y: nn.Value = self.b(x)
        return x + y if self.res else y


def dws() -> nn.Sequential:
    return nn.Sequential(CBA(64, 64, 5, 1, 64), CBA(64, 64, 1))


class Net(nn.Module):
    def __init__(self, nc: int = 80) -> None:
        super().__init__()
        r = nn.ReLU
        self.stem = CBA(3, 16, 3, 2)
        self.s1 = nn.Sequential(IR(16, 64, 24, 3, 2, r), IR(24, 72, 24, 3, 1, r))
        self.s2 = nn.Sequential(
            IR(24, 72, 40, 5, 2, r), IR(40, 120, 40, 5, 1, r), IR(40, 120, 40, 5, 1, r)
        )
        self.s3 = nn.Sequential(
            CBA(40, 80, 3, 2, act=r), CBA(80, 80, 3, act=r), CBA(80, 80, 3, act=r)
        )
        self.s4 = nn.Sequential(CBA(80, 128, 3, 2, act=r), CBA(128, 128, 3, act=r))
        self.lat = nn.ModuleList([CBA(c, 64, 1) for c in (40, 80, 128)])
        self.td = nn.ModuleList([dws(), dws()])
        self.bu = nn.ModuleList([dws(), dws()])
        self.dn = nn.ModuleList([CBA(64, 64, 5, 2, 64), CBA(64, 64, 5, 2, 64)])
        self.h = nn.Sequential(dws(), dws())
        self.o = nn.Conv2d(64, (nc + 4) * 3, 1)

    def forward(self, x: nn.Value) -> list[nn.Value]:
        c3 = self.s2(self.s1(self.stem(x)))
        c4 = self.s3(c3)
        c5 = self.s4(c4)
        p3, p4, p5 = [lat(c) for lat, c in zip(self.lat, (c3, c4, c5), strict=True)]
        p4 = self.td[0](p4 + nn.upsample(p5))
        p3 = self.td[1](p3 + nn.upsample(p4))
        p4 = self.bu[0](p4 + self.dn[0](p3))
        p5 = self.bu[1](p5 + self.dn[1](p4))
        return [self.o(self.h(p)) for p in (p3, p4, p5)]


def torch_module(folder: Path) -> ModuleType:
    """The torch original, `ref_model.py` in the folder of anchors."""
    spec = importlib.util.spec_from_file_location("ref_model", folder / "ref_model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
