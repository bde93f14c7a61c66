"""ONNX out: a detector, or any graph, as a file of standard operators.

One pass over the deployed graph with the table in `export_ops`; maps become (N, C, H, W)
(`export_axes`), and a detector's decoding follows the net (`export_head`). Every file passes
onnx.checker before it is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek_det import _core
from deepseek_det.checkpoint import write_bytes
from deepseek_det.data.transforms import check_imgsz
from deepseek_det.errors import Error
from deepseek_det.onnx import export_head as head
from deepseek_det.onnx import export_moves
from deepseek_det.onnx.export_axes import InputType, Places, channels_first, native
from deepseek_det.onnx.export_ops import ROWS, Call, Refused
from deepseek_det.onnx.read import package
from deepseek_det.onnx.writer import ELEMENT, FLOAT, FLOAT16, OPSETS, Port, Writer

if TYPE_CHECKING:
    from deepseek_det.detector import Detector
    from deepseek_det.model import Model
    from deepseek_det.onnx.net import Net

assert export_moves  # its import fills the rest of the table

INPUT, OUTPUT = "images", "output0"
"""The names of a detector file's input and output."""

# ---- any graph ----------------------------------------------------------------------------------


def check_opset(opset: int) -> int:
    """The opset; ValueError for one that can't be written."""
    if isinstance(opset, bool) or not isinstance(opset, int) or opset not in OPSETS:
        raise ValueError(
            f"export: opset is {opset!r}, {OPSETS.start} to {OPSETS.stop - 1} was needed"
        )
    return opset


def check_path(path: str | os.PathLike[str]) -> Path:
    """The path; ValueError where its name is not that of an ONNX file."""
    target = Path(path)
    if target.suffix.lower() != ".onnx":
        raise ValueError(
            f"export: the file is {target}, a name that ends in .onnx was needed "
            "(save writes checkpoints)"
        )
    return target


def add_nodes(graph: _core.Graph, places: Places) -> None:
    """Writes a graph's nodes; the inputs' forms are there already.

    Raises Error with every operator and attribute that has no ONNX form, all of them at once.
    """
    initial = {row["name"]: {f["name"]: f["initial"] for f in row["fields"]} for row in _core.ops()}
    refused: list[str] = []
    for node in graph.nodes():
        call = Call(node, places)
        try:
            _check(call, initial[call.op])
            ROWS[call.op][0](call)
        except Refused as reason:
            refused.append(str(reason))
            for slot in range(len(call.outputs)):  # what follows is looked at all the same
                call.out("", slot=slot)
    if refused:
        raise Error(f"export: {len(refused)} nodes have no ONNX form: " + "; ".join(refused))


def _check(call: Call, initial: Mapping[str, Any]) -> None:
    if call.op not in ROWS:
        raise call.fail("an operator for training")
    for name, value in call.p.items():
        if name not in ROWS[call.op][1] and value != initial[name]:
            raise call.fail(f"{name} is {value!r}")


def from_graph(
    graph: _core.Graph,
    store: _core.Store,
    inputs: Sequence[tuple[str, InputType]],
    *,
    opset: int = 17,
    first: bool = False,
    outputs: Sequence[str] | None = None,
    declared: Sequence[int] | None = None,
    doc: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Any deployed graph as a checked onnx.ModelProto.

    inputs: (name, (dtype, shape)) for each of the graph's, in its order, -1 where a size is free.
    outputs: their names in the file, by default the graph's. first: inputs and outputs of rank 4
    are (N, C, H, W) in the file, (N, H, W, C) in the graph. declared: TensorProto's types of inputs
    and outputs in the file, where they are others than the graph's: values are cast at the border.
    Raises Error for what has no ONNX form.
    """
    writer = Writer(check_opset(opset))
    places = Places(graph, store, [kind for _, kind in inputs], writer)
    names = [name for name, _ in graph.outputs] if outputs is None else list(outputs)
    types = iter(declared or ())
    for name, _ in inputs:
        writer.reserve([name])
    writer.reserve(names)
    for (_, _, _, value), (name, (dtype, shape)) in zip(graph.inputs, inputs, strict=True):
        order = channels_first(4) if first and len(shape) == 4 else native(len(shape))
        free = _words(name, [shape[k] for k in order])
        own = ELEMENT[dtype]
        writer.inputs.append(Port(name, next(types, own), free))
        places.give(value, order, _cast(writer, name, writer.inputs[-1].element, own))
    add_nodes(graph, places)
    for name, (_, value) in zip(names, graph.outputs, strict=True):
        shape = places.shape(value)
        order = channels_first(4) if first and len(shape) == 4 else native(len(shape))
        free = _words(name, [shape[k] for k in order])
        own = ELEMENT[places.dtype(value)]
        port = Port(name, next(types, own), free)
        writer.output(_cast(writer, places.get(value, order), own, port.element), port)
    return checked(writer.model("net", doc, metadata or {}))


def _cast(writer: Writer, tensor: str, have: int, want: int) -> str:
    """A tensor as another type of elements; floats that stand for whole numbers are rounded."""
    if have == want:
        return tensor
    if have == FLOAT and want != FLOAT16:
        tensor = writer.node("Round", [tensor], f"{tensor}.whole")
    return writer.node("Cast", [tensor], f"{tensor}.cast", to=want)


def export_model(model: Model, path: str | os.PathLike[str], opset: int = 17) -> Path:
    """Writes a model that takes images; behind `Model.export`."""
    target = check_path(path)
    with model.lock:
        graph, store = model.deployed()
        inputs = [
            (name, ("f32" if dtype == "u8" and len(shape) == 4 else dtype, shape))
            for name, dtype, shape, _ in graph.inputs
        ]
        made = from_graph(graph, store, inputs, opset=opset, first=True)
    write_bytes(target, made.SerializeToString())
    return target


def export_net(net: Net, path: str | os.PathLike[str], opset: int = 17) -> Path:
    """Writes an imported net; behind `Net.export`."""
    target = check_path(path)
    write_bytes(target, from_net(net, opset).SerializeToString())
    return target


def from_net(net: Net, opset: int = 17) -> Any:
    """An imported net, as it is now, as a checked onnx.ModelProto with its ports as they were."""
    types = [*(p.dtype for p in net.inputs), *(p.dtype for p in net.outputs)]
    with net.model.lock:
        graph, store = net.model.deployed()
        inputs = [
            (port.name, (dtype, tuple(-1 if d is None else d for d in port.shape)))
            for port, (_, dtype, _, _) in zip(net.inputs, graph.inputs, strict=True)
        ]
        return from_graph(
            graph,
            store,
            inputs,
            opset=opset,
            outputs=[port.name for port in net.outputs],
            declared=[int(package().helper.np_dtype_to_tensor_dtype(t)) for t in types],
            metadata=net.metadata,
        )


def _words(name: str, shape: Sequence[int]) -> list[int | str]:
    """Sizes, with a word for each free one."""
    words = [f"{name}_{k}" if k else "batch" for k in range(len(shape))]
    return [size if size >= 0 else word for size, word in zip(shape, words, strict=True)]


def checked(model: Any) -> Any:
    """The model, once onnx.checker has passed it with its shapes."""
    onnx = package()
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        text = str(error).strip().split("\n")[0]
        raise Error(f"export: onnx.checker refuses what was made: {text}") from error
    return model


# ---- a detector ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What a detector's file is to be; see `Detector.export`."""

    opset: int = 17
    nms: bool = False
    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    imgsz: int | None = None
    dynamic: bool = False

    def checked(self, detector: Detector) -> Options:
        """The options with the image size filled in; ValueError for the first one out of range."""
        from deepseek_det.predict import check_thresholds

        check_opset(self.opset)
        check_thresholds(self.conf, self.iou, self.max_det, "export")
        size = check_imgsz(detector.imgsz if self.imgsz is None else self.imgsz, "export")
        return Options(self.opset, self.nms, self.conf, self.iou, self.max_det, size, self.dynamic)


def export(detector: Detector, path: str | os.PathLike[str], options: Options) -> Path:
    """Writes a detector as an ONNX file; behind `Detector.export`, where the arguments are told."""
    target = check_path(path)
    write_bytes(target, from_detector(detector, options).SerializeToString())
    return target


def from_detector(detector: Detector, options: Options) -> Any:
    """A detector as a checked onnx.ModelProto."""
    options = options.checked(detector)
    if not detector.names:
        raise Error(
            "export: the detector knows no classes yet; train it, or name them: "
            "Detector(..., classes=[...])"
        )
    with detector.lock:
        graph, store = detector.deployed()
        writer = _net(detector, graph, store, options)
    doc = _describe(detector, options)
    return checked(
        writer.model(detector.model_name or "detector", doc, _metadata(detector, options))
    )


def _net(detector: Detector, graph: _core.Graph, store: _core.Store, options: Options) -> Writer:
    """The net with what follows it, between its input and its output."""
    writer = Writer(options.opset)
    size = None if options.dynamic else options.imgsz
    side = -1 if size is None else size
    places = Places(graph, store, [("f32", (-1, side, side, 3))], writer)
    image = writer.unique(INPUT)
    free: list[int | str] = ["height", "width"] if size is None else [size, size]
    writer.inputs.append(
        Port(image, FLOAT, ["batch", 3, *free], "RGB, 0 to 1, letterboxed: grey 114/255 around")
    )
    places.give(graph.inputs[0][3], channels_first(4), image)
    add_nodes(graph, places)
    raw = {name: places.get(value) for name, value in graph.outputs}
    if size is None:
        anchors = head.free_anchors(writer, image, _grids(detector))
    else:
        anchors = head.fixed_anchors(writer, detector.anchors_for(size).boxes)
    limits = head.limits(writer, image, size) if options.nms else ""
    decoded = head.decode(writer, raw["cls"], raw["box"], anchors, limits)
    classes = len(detector.names)
    if options.nms:
        thresholds = head.Suppression(options.conf, options.iou, options.max_det)
        out = head.suppressed(writer, decoded, classes, thresholds)
        shape: list[int | str] = ["batch", options.max_det, 6]
        doc = "x0 y0 x1 y1 in the input's pixels, score, class; best first, then rows of zeros"
    else:
        out = head.raw_output(writer, decoded)
        count = "anchors" if size is None else len(detector.anchors_for(size).boxes)
        shape = ["batch", 4 + classes, count]
        doc = "centre x, centre y, width, height in the input's pixels, then a score a class"
    writer.reserve([OUTPUT])
    writer.output(out, Port(OUTPUT, FLOAT, shape, doc))
    return writer


def _grids(detector: Detector) -> list[head.Grid]:
    """The levels' anchors by cell: those of the first one, wherever it stands."""
    from deepseek_det.anchors import STRIDES

    strides = [int(s) for s in detector.anchor_options.get("strides", STRIDES)]
    boxes, levels = detector.anchors_for(max(strides))
    grids = []
    for stride, begin, end in zip(strides, levels[:-1], levels[1:], strict=True):
        cell = boxes[begin : begin + (end - begin) // (max(strides) // stride) ** 2]
        grids.append(head.Grid(stride, (cell[:, 2:] - cell[:, :2]).astype(np.float32)))
    return grids


def _stride(detector: Detector) -> int:
    from deepseek_det.anchors import STRIDES

    return int(max(detector.anchor_options.get("strides", STRIDES)))


def _metadata(detector: Detector, o: Options) -> dict[str, str]:
    """What programs that read the file need to know; lists are JSON and Python alike."""
    from deepseek_det import __version__

    facts = {
        "names": json.dumps(list(detector.names), ensure_ascii=False),
        "stride": str(_stride(detector)),
        "imgsz": str(o.imgsz),
        "task": "detect",
        "model": detector.model_name,
        "version": __version__,
        "categories": json.dumps(list(detector.categories)),
        "boxes": "xyxy" if o.nms else "cxcywh",
        "nms": "true" if o.nms else "false",
        "dynamic": "true" if o.dynamic else "false",
    }
    if o.nms:
        facts |= {"conf": str(o.conf), "iou": str(o.iou), "max_det": str(o.max_det)}
    return facts


def _describe(detector: Detector, o: Options) -> str:
    """What the file is, for those who open it in a viewer."""
    size = f"a multiple of {_stride(detector)}" if o.dynamic else f"{o.imgsz} x {o.imgsz}"
    after = (
        f"NMS inside: scores above {o.conf}, IoU {o.iou} by class, {o.max_det} rows an image."
        if o.nms
        else "Before NMS."
    )
    return (
        f"{detector.model_name or 'A detector'} of {len(detector.names)} classes, "
        f"{detector.params} parameters. Input {INPUT}: RGB from 0 to 1, {size}, letterboxed with "
        f"grey 114. {after}"
    )
