"""A detector of a few thousand parameters and a data set of a few pictures, for quick tests."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deepseek_det import models, nn
from deepseek_det.data import synthetic
from deepseek_det.models.blocks import ConvNorm
from deepseek_det.models.heads import SharedHead

NAME = "tiny-test-net"


class Tiny(nn.Module):
    """Plain strided convolutions under the real head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNorm(3, 8, 3, 2), ConvNorm(8, 8, 3, 2), ConvNorm(8, 16, 3, 2))
        self.down = nn.ModuleList([ConvNorm(16, 16, 3, 2), ConvNorm(16, 16, 3, 2)])
        self.head = SharedHead(16, classes, 3, 3, blocks=1)

    def forward(self, x: nn.Value) -> dict[str, nn.Value]:
        maps = [self.stem(x)]
        for down in self.down:
            maps.append(down(maps[-1]))
        outputs: dict[str, nn.Value] = self.head(maps)
        return outputs


def register() -> str:
    """The net's name, known to `Detector` from now on in this process."""
    models.register(NAME, Tiny)
    return NAME


@functools.cache
def drawn(n: int = 12) -> Path:
    """A drawn data set, made once a process: n - 2 or so training images, a val and a test one."""
    return synthetic(Path(tempfile.mkdtemp(prefix="dd-drawn-")) / "set", n=n, seed=3)


def rows(text: str) -> Sequence[Sequence[str]]:
    """The cells of a CSV text."""
    return [line.split(",") for line in text.strip().split("\n")]
