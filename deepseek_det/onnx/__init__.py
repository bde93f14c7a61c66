"""ONNX: foreign networks come in as ordinary graphs, our own go out.

The `onnx` package (``pip install "deepseek-det[onnx]"``) is imported at the first use only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepseek_det.onnx.net import Net

__all__ = ["load_onnx"]


def load_onnx(
    source: str | os.PathLike[str] | bytes,
    *,
    external_data: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Net:
    """An ONNX file as a network that runs, trains further and saves; see `Net`.

    source: a path, or the file's bytes. external_data: allows tensors in other regular files of
    the model's folder. shapes: {input: sizes} for inputs whose free dimensions are to be fixed.
    Inputs and outputs are as the file declares them, an image (N, C, H, W) for instance.
    Raises OSError where there is no such file; Error for a file that is damaged or holds what is
    not supported, which names all nodes that are in the way; ValueError for wrong `shapes`.

    >>> net = load_onnx("yolox_nano.onnx")  # doctest: +SKIP
    >>> net.run({"images": pixels})["output"].shape  # doctest: +SKIP
    (1, 3549, 85)
    """
    from deepseek_det.onnx import net

    return net.load(source, external_data=external_data, shapes=shapes)
