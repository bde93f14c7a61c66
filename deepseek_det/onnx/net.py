"""A foreign network: an ONNX file as an ordinary graph that runs, trains and saves."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepseek_det import checkpoint
from deepseek_det.errors import Error
from deepseek_det.model import FloatArray, LoadReport, Model
from deepseek_det.onnx import idioms, read, rows, sizes
from deepseek_det.onnx.build import DTYPES, Builder, stored_type
from deepseek_det.onnx.dims import Dim
from deepseek_det.onnx.ir import Port

if TYPE_CHECKING:
    from deepseek_det.profile import Profile

assert rows  # its import fills the table of operators

Array = npt.NDArray[Any]
Shapes = Mapping[str, Sequence[int]]
_NUMPY = {"f32": np.float32, "u8": np.uint8, "s8": np.int8, "s32": np.int32}


class Net:
    """An imported network over NumPy arrays, with names, shapes and types as its file declares.

    inputs, outputs: lists of ports with .name, .shape (None for a free dimension) and .dtype.
    model: the graph with its parameters, for what models can: train further, deploy, be a teacher.
    metadata: the file's {key: text}.

    >>> import onnx
    >>> from onnx import TensorProto as T, helper as h
    >>> x, y = (h.make_tensor_value_info(n, T.FLOAT, ["n", 4]) for n in "xy")
    >>> graph = h.make_graph([h.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    >>> file = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    >>> net = load(file.SerializeToString())
    >>> net.inputs[0].shape, net.run({"x": np.array([[-1.0, 0, 1, 2]], np.float32)})["y"].tolist()
    ((None, 4), [[0.0, 0.0, 1.0, 2.0]])
    """

    def __init__(
        self,
        model: Model,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.metadata = dict(metadata or {})

    # ---- running ----------------------------------------------------------------------------

    def run(self, inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike) -> dict[str, Array]:
        """{output: array} for {input: array}, or for the array of an only input.

        Arrays have the declared types and ranks. Raises ValueError or TypeError that names the
        input that does not fit.
        """
        arrays = self._arrays(inputs)
        found = self.model.infer(arrays)
        return {
            port.name: _declared(array, port)
            for port, array in zip(self.outputs, found.values(), strict=True)
        }

    def _arrays(self, inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike) -> dict[str, Array]:
        if not isinstance(inputs, Mapping):
            if len(self.inputs) != 1:
                raise ValueError(
                    f"net: one array came, {[p.name for p in self.inputs]} are needed by name"
                )
            inputs = {self.inputs[0].name: inputs}
        names = [port.name for port in self.inputs]
        if set(inputs) != set(names):
            raise ValueError(f"net: inputs {sorted(inputs)} came, {names} are needed")
        return {
            own: _stored(np.asarray(inputs[port.name]), port)
            for port, (own, *_) in zip(self.inputs, self.model.graph.inputs, strict=True)
        }

    def profile(
        self,
        inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike | None = None,
        runs: int = 20,
        *,
        imgsz: int | None = None,
        batch: int | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        training: bool = False,
    ) -> Profile:
        """Where a run's time goes, a line a step; print it, or take its `steps`.

        inputs: None for seeded noise of the declared sizes; of free ones, `shapes` ({input: sizes})
        come first, then imgsz (320) for height and width of the only input with images, and batch
        (1) for first dimensions. training: forward, backward and update instead, as
        `Model.profile`. The median of `runs` runs counts. Raises ValueError that names what is
        still free, and where a size is not what the file says.
        """
        if inputs is None:
            rng = np.random.default_rng(0)
            wanted = sizes.filled(self.inputs, imgsz, batch, shapes)
            inputs = {
                port.name: rng.random(wanted[port.name], np.float32).astype(port.dtype)
                for port in self.inputs
            }
        elif (imgsz, batch, shapes) != (None, None, None):
            raise ValueError("profile: inputs have their own sizes: imgsz, batch or shapes came")
        arrays = list(self._arrays(inputs).values())
        maps = [a for a in arrays if a.ndim == 4] or [a for a in arrays if a.ndim]
        return self.model.profile_on(arrays, len(maps[0]) if maps else 1, runs, training)

    # ---- training ---------------------------------------------------------------------------

    def forward(self, inputs: Mapping[str, npt.ArrayLike] | npt.ArrayLike) -> dict[str, FloatArray]:
        """As `run`, in training form: batch statistics move, `backward` may follow."""
        found = self.model.forward(self._arrays(inputs))
        return dict(zip((p.name for p in self.outputs), found.values(), strict=True))

    def backward(self, gradients: Mapping[str, npt.ArrayLike]) -> None:
        """Adds the parameters' gradients for {output: dloss/doutput}, as `Model.backward`."""
        own = dict(zip((p.name for p in self.outputs), self.model.outputs, strict=True))
        unknown = sorted(set(gradients) - set(own))
        if unknown:
            raise ValueError(f"backward: gradient of {unknown} came, outputs are {list(own)}")
        self.model.backward({own[name]: array for name, array in gradients.items()})

    def step(self, lr: float = 1e-3, **options: Any) -> float:
        """One update of all trainable parameters, as `Model.step`."""
        return self.model.step(lr, **options)

    def state_dict(self) -> dict[str, FloatArray]:
        """{name: copy of the array}, under the file's names."""
        return self.model.state_dict()

    def load_state_dict(
        self, state: str | os.PathLike[str] | Mapping[str, npt.ArrayLike], strict: bool = True
    ) -> LoadReport:
        """As `Model.load_state_dict`."""
        return self.model.load_state_dict(state, strict)

    @property
    def params(self) -> int:
        """The number of deployed parameters."""
        return self.model.params

    # ---- files ------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a checkpoint, which `Net.load` reads without the onnx package."""
        from deepseek_det import __version__

        meta = {
            "graph": self.model.graph.to_json(self.model.store),
            "entries": checkpoint.entries(self.model.store),
            "model": "onnx",
            "inputs": [_as_plain(port) for port in self.inputs],
            "outputs": [_as_plain(port) for port in self.outputs],
            "metadata": dict(self.metadata),
            "version": __version__,
            "quant": None,
        }
        checkpoint.write(path, meta, self.state_dict())

    def export(self, path: str | os.PathLike[str], opset: int = 17) -> Path:
        """Writes the net as it is now, deployed, as an ONNX file with its ports; returns the path.

        opset: 13 to 21. Raises ValueError on arguments, Error where an operator has no ONNX form.
        """
        from deepseek_det.onnx.export import export_net

        return export_net(self, path, opset)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Net:
        """The net of a file that `save` wrote; Error where it is another one."""
        found = checkpoint.read(path)
        graph, store = checkpoint.to_graph(found, path)
        model = Model.from_graph(graph, store)
        try:
            inputs, outputs = (
                [_from_plain(p) for p in found.meta[what]] for what in ("inputs", "outputs")
            )
            metadata = {str(k): str(v) for k, v in dict(found.meta.get("metadata", {})).items()}
        except (KeyError, TypeError, ValueError):
            raise Error(f"checkpoint: {path} holds no imported net") from None
        declared = [(stored_type(DTYPES[p.dtype]), len(p.shape)) for p in inputs]
        real = [(dtype, len(shape)) for _, dtype, shape, _ in graph.inputs]
        if declared != real or len(outputs) != len(graph.outputs):
            raise Error(f"checkpoint: {path} does not hold together: its inputs are {real}")
        return cls(model, inputs, outputs, metadata)

    def __repr__(self) -> str:
        sides = (
            ", ".join(f"{p.name} {p.dtype} {_shape_text(p.shape)}" for p in ports)
            for ports in (self.inputs, self.outputs)
        )
        nodes = len(self.model.graph.nodes())
        values = sum(e["count"] for e in self.model.store.entries())
        return "Net({} → {}; {} operators, {:,} values)".format(*sides, nodes, values)


def load(
    source: str | os.PathLike[str] | bytes,
    external_data: bool = False,
    shapes: Shapes | Callable[[Sequence[Port]], Shapes] | None = None,
) -> Net:
    """See `deepseek_det.load_onnx`; `shapes` may be a function of the file's inputs, too."""
    file = read.read(source, external_data)
    if callable(shapes):
        shapes = shapes(file.inputs)
    idioms.rewrite(file)
    builder = Builder(file, shapes)
    outputs = []
    for port, value in zip(file.outputs, builder.build().values(), strict=True):
        builder.graph.output(builder.output_name(port.name), value.id)
        outputs.append(_found(port, value.dims))
    builder.graph.prune_dead()
    builder.check()
    model = Model.from_graph(builder.graph, builder.store)
    return Net(model, builder.inputs, outputs, file.metadata)


def _found(port: Port, dims: Sequence[Any]) -> Port:
    """An output with the sizes that the graph gives it, where the file's own say less."""
    shape = tuple(None if isinstance(d, Dim) else int(d) for d in dims)
    return Port(port.name, port.dtype, shape, tuple(dims))


def _stored(array: Array, port: Port) -> Array:
    """An input as the engine takes it; its type and shape are checked."""
    wanted = _NUMPY[stored_type(DTYPES[port.dtype])]
    fits = array.ndim == len(port.shape) and all(
        want is None or have == want for have, want in zip(array.shape, port.shape, strict=False)
    )
    if not fits:
        raise ValueError(
            f"net: input {port.name!r} is {array.shape}, {_shape_text(port.shape)} is needed"
        )
    if array.dtype == port.dtype or (port.dtype.kind == "f" and array.dtype.kind == "f"):
        if array.dtype == np.int64 and array.size:
            bounds = np.iinfo(np.int32)
            if array.min() < bounds.min or array.max() > bounds.max:
                raise ValueError(f"net: input {port.name!r} has values beyond 32 bits")
        return np.asarray(array, wanted, order="C")
    raise TypeError(f"net: input {port.name!r} is {array.dtype}, {port.dtype} is needed")


def _declared(array: Array, port: Port) -> Array:
    """An output in the type that the file declares."""
    if array.dtype.kind == "f" and port.dtype.kind in "iu":
        return np.rint(array).astype(port.dtype)  # a constant of the file: whole numbers
    return array.astype(port.dtype, copy=False)


def _as_plain(port: Port) -> list[Any]:
    return [port.name, port.dtype.str, [-1 if d is None else d for d in port.shape]]


def _from_plain(plain: Any) -> Port:
    name, code, dims = plain
    dtype = np.dtype(str(code))
    if dtype not in DTYPES:
        raise ValueError(f"type {code}")
    shape = tuple(None if int(d) < 0 else int(d) for d in dims)
    return Port(str(name), dtype, shape, ())


def _shape_text(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("?" if d is None else str(d) for d in shape) + ")"
