"""The project's own exception."""

from __future__ import annotations

from deepseek_det._core import Error

__all__ = ["Error"]
