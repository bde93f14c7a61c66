"""The nets of the inference race: ours with the same weights as an ONNX file, and foreign ones.

A foreign net is its file; one of ours goes to the peers as our own export, so that both sides
compute the same folded net. (torch's export of the same net runs as fast in the peers, within 3 %.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import deepseek_det as dd
from deepseek_det.model import Model

from ref_net import Net  # isort: skip


@dataclass(frozen=True)
class Entry:
    """A net at a size: `file` of a foreign one below the folder of models, else one of ours."""

    name: str
    size: int
    file: str = ""


NETS = (
    Entry("reference", 320),
    Entry("reference", 640),
    Entry("dsdet-n", 320),
    Entry("dsdet-s", 640),
    Entry("yolox_nano", 416, "yolox_nano.onnx"),
    Entry("nanodet_m", 416, "nanodet_m.onnx"),
    Entry("fastestdet", 352, "fastestdet.onnx"),
)


@dataclass
class Contest:
    """What the race needs of a net: the peers' file, the input, our run, what we know of it."""

    path: Path
    planes: np.ndarray
    ours: Callable[[], list[np.ndarray]]
    as_theirs: Callable[[list[np.ndarray]], list[np.ndarray]]
    model: Model


def own_model(name: str) -> Model:
    """One of our nets for 80 classes, its norms with statistics that fold to something."""
    model = (
        Model(Net())
        if name == "reference"
        else dd.Detector(name, classes=[str(i) for i in range(80)], seed=0)
    )
    rng = np.random.default_rng(1)
    for entry in model.store.names:
        shape = model.store.get(entry).shape
        if entry.endswith("running_var"):
            model.store.set(entry, rng.uniform(0.5, 2, shape).astype(np.float32))
        elif entry.endswith("running_mean"):
            model.store.set(entry, rng.normal(0, 0.1, shape).astype(np.float32))
    return model


def prepare(entry: Entry, folder: Path, models: Path) -> Contest:
    """The contest of a net. Raises OSError where a foreign net's file is missing."""
    x = np.random.default_rng(2).random((1, entry.size, entry.size, 3), np.float32)
    planes = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if entry.file:
        net = dd.load_onnx(models / entry.file)
        path = folder / entry.file
        feed = {_constant_weights(models / entry.file, path): planes}
        return Contest(path, planes, lambda: list(net.run(feed).values()), list, net.model)
    model = own_model(entry.name)
    path = folder / f"{entry.name.replace('-', '_')}{entry.size}.onnx"  # pnnx makes "-" an "_"
    to_onnx(model, entry.size, path)
    return Contest(path, planes, lambda: list(model.infer(x).values()), _channels_first, model)


def _constant_weights(source: Path, path: Path) -> str:
    """A copy whose weights are no inputs, as old exporters made them; returns the input's name.

    onnxruntime must take weights that are inputs for variable, and then can't lay them out ahead.
    """
    import onnx

    file = onnx.load(str(source))
    constant = {i.name for i in file.graph.initializer}
    inputs = [i for i in file.graph.input if i.name not in constant]
    del file.graph.input[:]
    file.graph.input.extend(inputs)
    file.ir_version = max(file.ir_version, 4)  # since then an initializer need not be an input
    onnx.save(file, str(path))
    return str(inputs[0].name)


def _channels_first(outputs: list[np.ndarray]) -> list[np.ndarray]:
    return [o.transpose(0, 3, 1, 2) if o.ndim == 4 else o for o in outputs]


def to_onnx(model: Model, size: int, path: Path) -> None:
    """The deployed net, sizes fixed: some engines are slower where they are free.

    Maps leave as (N, C, H, W), flattened heads as (N, A, k).
    """
    import onnx

    Model.export(model, path)  # a detector's own export would decode its boxes, too
    file = onnx.load(str(path))
    sizes = file.graph.input[0].type.tensor_type.shape.dim
    for dimension, value in zip(sizes, (1, 3, size, size), strict=True):
        dimension.dim_value = value
    onnx.save(file, str(path))
