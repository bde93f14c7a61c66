"""The ablations: what is compared with what, and how each arm is trained.

A question has a base and a variant; an arm is a variant with a seed. Arms of the base serve
several questions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SEEDS = (0, 1, 2)
EPOCHS, IMGSZ, BATCH = 30, 320, 16


@dataclass(frozen=True)
class Setup:
    """model: of the registry or of nets.py; images: of the train split, drawn with the arm's seed;
    epochs: more where few images make few steps; options: of `Detector.train`."""

    model: str = "dsdet-s"
    images: int | None = None
    epochs: int = EPOCHS
    options: dict[str, Any] = field(default_factory=dict)


SETUPS = {
    "default": Setup(),
    "l2": Setup(options={"box_loss": "l2"}),
    "focal": Setup(options={"cls_loss": "focal"}),
    "amp": Setup(options={"amp": True}),
    "200": Setup(images=200),
    "200-plain": Setup(images=200, options={"augment": False}),
    "50": Setup(images=50, epochs=100),
    "50-plain": Setup(images=50, epochs=100, options={"augment": False}),
    "plain-3x3": Setup(model="plain-3x3"),
    "resnet": Setup(model="resnet"),
    "one-level": Setup(model="one-level"),
}


@dataclass(frozen=True)
class Question:
    """What `variant` loses against `base`, in the figure of a class or of all (None)."""

    asked: str
    base: str
    variant: str
    classes: tuple[str, ...] | None = None


QUESTIONS = (
    Question("GIoU or L2 on the deltas", "default", "l2"),
    Question("BCE with soft targets or the focal loss", "default", "focal"),
    Question("float32 or bfloat16 maps (`amp=True`)", "default", "amp"),
    Question("augmentation or none, 50 images", "50", "50-plain"),
    Question("augmentation or none, 200 images", "200", "200-plain"),
    Question("RepVGG or a plain 3×3", "default", "plain-3x3"),
    Question("hybrid or ResNet-style backbone, equal cost", "default", "resnet"),
    Question("anchors by level or on one level", "default", "one-level"),
    Question("the same, platelets only", "default", "one-level", ("Platelets",)),
)
