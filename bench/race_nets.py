"""The nets of the inference race: ours with the same weights as an ONNX file, and foreign ones.

A foreign net is its file; one of ours goes to the peers as a file made by torch, walked over the
deployed graph, so that both sides compute the same folded net.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        path.write_bytes((models / entry.file).read_bytes())
        feed = {_input_name(path): planes}
        return Contest(path, planes, lambda: list(net.run(feed).values()), list, net.model)
    model = own_model(entry.name)
    path = folder / f"{entry.name.replace('-', '_')}{entry.size}.onnx"  # pnnx makes "-" an "_"
    to_onnx(model, entry.size, path)
    return Contest(path, planes, lambda: list(model.infer(x).values()), _channels_first, model)


def _input_name(path: Path) -> str:
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return str(session.get_inputs()[0].name)


def _channels_first(outputs: list[np.ndarray]) -> list[np.ndarray]:
    return [o.transpose(0, 3, 1, 2) if o.ndim == 4 else o for o in outputs]


def to_onnx(model: Model, size: int, path: Path) -> None:
    """The deployed net as torch exports it; maps stay NCHW, flattened heads are (N, A, k)."""
    import torch

    graph, store = model.deployed()
    nodes = graph.nodes()
    constants = {
        i: torch.tensor(store.get(value["name"]))
        for i, value in enumerate(graph.values())
        if value["kind"] == "entry"
    }
    results = [value for _, value in graph.outputs]

    class Walk(torch.nn.Module):
        def forward(self, image: Any) -> list[Any]:
            values: dict[int, Any] = {0: image, **constants}
            for node in nodes:
                given = [values[v] if v >= 0 else None for v in node["inputs"]]
                values[node["outputs"][0]] = _torch_node(node, given)
            return [values[v] for v in results]

    torch.onnx.export(
        Walk(),
        (torch.zeros(1, 3, size, size),),
        str(path),
        input_names=["images"],
        output_names=list(model.outputs),
        opset_version=17,
        dynamo=False,
    )


def _torch_node(node: dict[str, Any], given: list[Any]) -> Any:
    """What a node of a deployed detector is in torch, NCHW."""
    import torch
    import torch.nn.functional as f

    p, x = node["params"], given[0]
    if node["op"] == "dequantize":  # images come as floats here
        return x
    if node["op"] == "conv":
        top, left, bottom, right = p["pads"]
        assert (top, left) == (bottom, right)
        return f.conv2d(x, given[1], given[2], p["stride"], (top, left), p["dilation"], p["groups"])
    if node["op"] == "unary":
        return {"relu": f.relu, "hard_swish": f.hardswish, "silu": f.silu}[p["kind"]](x)
    if node["op"] == "binary":
        return {"add": torch.add, "mul": torch.mul}[p["kind"]](x, given[1])
    if node["op"] == "resize":
        return f.interpolate(x, scale_factor=p["scale"], mode="nearest")
    if node["op"] == "reshape":  # (N, h, w, a·k) → (N, h·w·a, k), as our NHWC order has it
        last = int(p["shape"][-1])
        return x.permute(0, 2, 3, 1).reshape(1, -1, last)
    if node["op"] == "concat" and p["axis"] == 1:  # of flattened heads
        return torch.cat(given, 1)
    raise ValueError(f"nets: {node['op']} has no form in torch here")
