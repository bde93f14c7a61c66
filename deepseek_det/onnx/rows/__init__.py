"""The table of operators: importing this package fills `build.TABLE`, one function a row."""

from __future__ import annotations

from deepseek_det.onnx.rows import compute, elementwise, pool, reduce, shape

__all__ = ["compute", "elementwise", "pool", "reduce", "shape"]
