"""A model: a graph over a store of parameters, its derived graphs and its plans."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from deepseek_det import _core, nn

if TYPE_CHECKING:
    from deepseek_det.profile import Profile

FloatArray = npt.NDArray[np.float32]
PLANS = 16
# NumPy's types that the core takes, and their names there.
DTYPES: dict[np.dtype[Any], str] = {
    np.dtype(np.float32): "f32",
    np.dtype(np.uint8): "u8",
    np.dtype(np.int8): "s8",
    np.dtype(np.int32): "s32",
}


@dataclass
class LoadReport:
    """What `load_state_dict` did; its text is a table for people.

    matched: names that were loaded. missing: parameters of the model that the state lacks.
    unexpected: names of the state that the model lacks. mismatched: (name, model's shape, state's).
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether everything fitted."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        parts = (self.mismatched, "of another shape"), (self.missing, "missing")
        counts = [f"{len(self.matched)} parameters loaded"]
        counts += [f"{len(n)} {what}" for n, what in (*parts, (self.unexpected, "unexpected")) if n]
        lines = [", ".join(counts)]
        for name, mine, theirs in self.mismatched:
            lines.append(f"  shape differs  {name}: the model has {mine}, the state {theirs}")
        lines += [f"  missing        {name}" for name in self.missing]
        lines += [f"  unexpected     {name}" for name in self.unexpected]
        return "\n".join(lines)


class Model:
    """A traced network that runs, trains, saves and loads; the base of `Detector`.

    Input x: (N, H, W, C) uint8, or float32 in 0–1; H and W are free. A graph with other inputs
    (an imported one) takes {input: array}. Outputs are named NumPy arrays. `executor` is "plan" or,
    for the plain C oracle, "interpret". `amp`: training keeps its maps as bfloat16 between layers;
    weights, their gradients and all outputs are float32 either way, and so is inference.

    >>> from deepseek_det import nn
    >>> model = Model(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()))
    >>> model.infer(np.zeros((1, 8, 8, 3), np.uint8))["out"].shape
    (1, 8, 8, 4)
    """

    executor: Literal["plan", "interpret"] = "plan"
    amp: bool = False

    def __init__(
        self, module: nn.Module, channels: int = 3, seed: int = 0, amp: bool = False
    ) -> None:
        store = _core.Store()
        module.name_children()
        for _, parameter in module.named_parameters():
            store.add(parameter.name, parameter.shape, parameter.role, parameter.decay)
            store.set(parameter.name, parameter.initial(seed))
        tracer = nn.Tracer(store)
        x = tracer.input("images", "u8", [-1, -1, -1, channels])
        pixels = x.op("dequantize", scale=[1 / 255], zero=[0.0])
        outputs = module(pixels)
        if isinstance(outputs, nn.Value):
            outputs = {"out": outputs}
        elif isinstance(outputs, (list, tuple)):
            outputs = {f"out{i}": value for i, value in enumerate(outputs)}
        if not isinstance(outputs, Mapping) or not outputs:
            raise TypeError(
                f"Model: {type(module).__name__}.forward returned {type(outputs).__name__}, "
                "a value, a list or a dict of values is needed"
            )
        for name, value in outputs.items():
            if not isinstance(value, nn.Value):
                raise TypeError(
                    f"Model: output {name!r} of {type(module).__name__} is a "
                    f"{type(value).__name__}, a symbolic value is needed"
                )
            tracer.graph.output(name, value.id)
        self._set(tracer.graph, store)
        self.seed = seed
        self.amp = amp

    @classmethod
    def from_graph(cls, graph: _core.Graph, store: _core.Store) -> Model:
        """A model around a graph that was read, pruned, quantized or imported."""
        model = cls.__new__(cls)
        model._set(graph, store)
        model.seed = 0
        return model

    def _set(self, graph: _core.Graph, store: _core.Store) -> None:
        self.graph = graph
        self.store = store
        self.outputs: list[str] = list(graph.output_names)
        self.lock = threading.RLock()
        self.arena = _core.Arena()
        self._plans: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._training: tuple[Any, _core.Graph] | None = None
        self._deployed: tuple[int, _core.Graph, _core.Store] | None = None
        self._gradient: FloatArray | None = None
        self._moments: list[FloatArray] = []
        self._steps = 0
        self._running: Any = None

    # ---- derived graphs ---------------------------------------------------------------------

    def deployed(self) -> tuple[_core.Graph, _core.Store]:
        """The graph that predicts: norms folded, branches merged; derived once a store version."""
        if self._deployed is None or self._deployed[0] != self.store.version:
            graph, store = self.graph.deploy(self.store)
            self._deployed = (self.store.version, graph, store)
            self._forget("infer")
        return self._deployed[1], self._deployed[2]

    def training_graph(self) -> _core.Graph:
        """The graph with its backward nodes, for the entries that are not frozen now."""
        frozen = tuple(e["frozen"] for e in self.store.entries())
        if self._training is None or self._training[0] != frozen:
            self._training = (frozen, self.graph.differentiate(self.store))
            self._forget("train")
        return self._training[1]

    def _forget(self, mode: str) -> None:
        for key in [key for key in self._plans if key[0] == mode]:
            del self._plans[key]

    def _plan(
        self, mode: str, graph: _core.Graph, store: _core.Store, arrays: Sequence[npt.NDArray[Any]]
    ) -> Any:
        bf16 = self.amp and mode == "train"
        key = (mode, self.executor, bf16, *((x.shape, x.dtype.str) for x in arrays))
        if key not in self._plans:
            types = [(DTYPES[x.dtype], x.shape) for x in arrays]
            if self.executor == "plan":
                self._plans[key] = _core.Plan(
                    graph, store, types, arena=self.arena, seed=self.seed, bf16=bf16
                )
            else:
                self._plans[key] = _core.Interpreter(graph, store, types, seed=self.seed)
            while len(self._plans) > PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    # ---- running ----------------------------------------------------------------------------

    def infer(self, x: npt.ArrayLike | Mapping[str, npt.ArrayLike]) -> dict[str, FloatArray]:
        """The deployed network on x (N, H, W, C), uint8 or float32 0–1 → {output: array}."""
        batch = self._arrays(x)
        with self.lock:
            graph, store = self.deployed()
            return dict(
                zip(
                    self.outputs,
                    self._plan("infer", graph, store, batch).forward(batch),
                    strict=True,
                )
            )

    def forward(self, x: npt.ArrayLike | Mapping[str, npt.ArrayLike]) -> dict[str, FloatArray]:
        """The training form: batch statistics, running ones move; keeps what `backward` needs."""
        batch = self._arrays(x)
        with self.lock:
            plan = self._plan("train", self.training_graph(), self.store, batch)
            out = plan.forward(batch, step=self._steps)
            self._running = plan
            return dict(zip(self.outputs, out, strict=True))

    def backward(self, gradients: Mapping[str, npt.ArrayLike]) -> None:
        """Adds the parameters' gradients for {output: dloss/doutput}; absent outputs count zero."""
        unknown = set(gradients) - set(self.outputs)
        if unknown:
            raise ValueError(
                f"backward: gradient of {sorted(unknown)} came, outputs are {self.outputs}"
            )
        with self.lock:
            if self._running is None:
                raise _core.Error("backward: call forward first")
            seeds = [
                None
                if gradients.get(name) is None
                else np.ascontiguousarray(gradients[name], np.float32)
                for name in self.outputs
            ]
            self._running.backward(seeds, self.gradient)

    @property
    def gradient(self) -> FloatArray:
        """The flat gradient: one float a float of the store."""
        if self._gradient is None:
            self._gradient = np.zeros(self.store.size, np.float32)
        return self._gradient

    def step(
        self,
        lr: float = 1e-3,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        weight_decay: float = 0.05,
        momentum: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        clip_norm: float = 0.0,
        grad_scale: float = 1.0,
        ema: FloatArray | None = None,
        ema_rate: float = 0.0,
        moments: tuple[FloatArray, FloatArray] | None = None,
        number: int | None = None,
    ) -> float:
        """One update of all trainable parameters from the gradient, which is then cleared.

        Returns the gradient's norm before clipping. weight_decay is decoupled (Loshchilov & Hutter
        2019) and touches weights only; momentum is AdamW's beta1. moments, number: the optimizer's
        two flat arrays and the step's number from 1 on, where the caller keeps them.
        """
        with self.lock:
            if moments is None:
                while len(self._moments) < 2:
                    self._moments.append(np.zeros(self.store.size, np.float32))
                moments = (self._moments[0], self._moments[1])
            self._steps = self._steps + 1 if number is None else number
            return _core.optim_apply(
                self.store,
                self.gradient,
                moments[0],
                moments[1],
                ema,
                kind=optimizer,
                lr=lr,
                decay=weight_decay,
                momentum=momentum,
                beta2=beta2,
                eps=eps,
                clip_norm=clip_norm,
                grad_scale=grad_scale,
                ema_rate=ema_rate,
                step=self._steps,
            )

    def first_nonfinite(self) -> str | None:
        """The first layer of the last `forward` whose output is not finite; None where all are."""
        with self.lock:
            if self._running is None:
                return None
            if isinstance(self._running, _core.Plan):
                return self._running.first_nonfinite()
            for node in self.training_graph().nodes():
                values = [] if node["backward"] else [v for v in node["outputs"] if v >= 0]
                for array in map(self._running.value, values):
                    if array is not None and not np.isfinite(array).all():
                        return str(node["name"])
            return None

    def become(self, other: Model) -> None:
        """Takes over all that `other` is."""
        with self.lock:
            for name, value in vars(other).items():
                if name != "lock":
                    setattr(self, name, value)

    def _arrays(self, x: npt.ArrayLike | Mapping[str, npt.ArrayLike]) -> list[npt.NDArray[Any]]:
        """What came as the graph's inputs, in their order."""
        inputs = self.graph.inputs
        if not isinstance(x, Mapping):
            if len(inputs) == 1 and inputs[0][1] == "u8":
                return [self._images(x)]
            x = {inputs[0][0]: x}
        names = [name for name, *_ in inputs]
        if set(x) != set(names):
            raise ValueError(f"model: inputs {sorted(x)} came, {names} are needed")
        arrays = []
        for name, dtype, _, _ in inputs:
            array = np.asarray(x[name])
            if dtype == "f32" and array.dtype.kind == "f":
                array = array.astype(np.float32, copy=False)
            if DTYPES.get(array.dtype) not in (dtype, "f32" if dtype == "u8" else dtype):
                raise TypeError(f"model: input {name!r} is {array.dtype}, {dtype} is needed")
            arrays.append(np.asarray(array, order="C"))
        return arrays

    def _images(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        batch = np.asarray(x)
        if batch.dtype not in (np.uint8, np.float32):
            if not np.issubdtype(batch.dtype, np.floating):
                raise TypeError(f"model: images are {batch.dtype}, uint8 or float32 is needed")
            batch = batch.astype(np.float32)
        if batch.ndim != 4:
            raise ValueError(f"model: images are {batch.shape}, (N, H, W, C) is needed")
        return np.ascontiguousarray(batch)

    # ---- parameters -------------------------------------------------------------------------

    def state_dict(self) -> dict[str, FloatArray]:
        """{name: copy of the array}, training form."""
        return {name: self.store.get(name) for name in self.store.names}

    def load_state_dict(
        self,
        state: str | os.PathLike[str] | Mapping[str, npt.ArrayLike],
        strict: bool = True,
    ) -> LoadReport:
        """Loads parameters by name from a file or a mapping, and reports what did not fit.

        strict: raise ValueError with the report unless everything fitted, and load nothing then.
        torch's `num_batches_tracked` is not a parameter here and is passed over.
        """
        if isinstance(state, (str, os.PathLike)):
            from deepseek_det import checkpoint

            state = checkpoint.read_state_dict(state)
        report = LoadReport()
        arrays = {
            name: np.asarray(value, np.float32)
            for name, value in state.items()
            if not name.endswith("num_batches_tracked")
        }
        for name in self.store.names:
            shape = tuple(self.store.entry(name)["shape"])
            if name not in arrays:
                report.missing.append(name)
            elif arrays[name].shape != shape:
                report.mismatched.append((name, shape, arrays[name].shape))
            else:
                report.matched.append(name)
        report.unexpected = [name for name in arrays if name not in set(self.store.names)]
        if strict and not report.complete:
            raise ValueError(f"load_state_dict: the state does not fit\n{report}")
        with self.lock:
            for name in report.matched:
                self.store.set(name, arrays[name])
        return report

    @property
    def params(self) -> int:
        """Parameters of the deployed form, clones of shared weights counted."""
        _, store = self.deployed()
        return sum(e["count"] for e in store.entries() if e["role"] != "state")

    def fuse(self) -> float:
        """Makes the deployed form the model itself: norms folded, branches merged.

        Returns the largest relative difference of the outputs on a seeded random image; further
        calls change nothing and return 0.
        """
        with self.lock:
            free = zip((1, 64, 64, 3), self.graph.inputs[0][2], strict=True)
            shape = [size if size > 0 else some for some, size in free]
            x = np.random.default_rng(0).random(shape, np.float32)
            before = self._plan("undeployed", self.graph, self.store, [x]).forward([x])
            graph, store = self.deployed()
            after = self._plan("infer", graph, store, [x]).forward([x])
            self._set(graph, store)
            return max(
                float(np.abs(a - b).max() / max(float(np.abs(a).max()), 1e-30))
                for a, b in zip(before, after, strict=True)
            )

    def export(self, path: str | os.PathLike[str], opset: int = 17) -> Path:
        """Writes the deployed net as an ONNX file; returns its path.

        Images go in as (N, C, H, W) float32 from 0 to 1, all sizes but C free; maps come out as
        (N, C, H, W), under the outputs' names. opset: 13 to 21. Raises ValueError on arguments,
        Error without the onnx package or where an operator has no ONNX form.
        """
        from deepseek_det.onnx.export import export_model

        return export_model(self, path, opset)

    # ---- description ------------------------------------------------------------------------

    def layers(self, imgsz: int = 320) -> list[dict[str, Any]]:
        """One row a node of the deployed graph: name, op, output shape, parameters, MACs."""
        graph, store = self.deployed()
        return [{**row} for row in graph.layers(store, [self._square(imgsz)])]

    def macs(self, imgsz: int = 320) -> int:
        """Multiply-adds of one image of imgsz × imgsz."""
        graph, store = self.deployed()
        return graph.macs(store, [self._square(imgsz)])

    def profile(
        self,
        imgsz: int | None = None,
        batch: int = 1,
        runs: int = 20,
        training: bool = False,
    ) -> Profile:
        """Where the time goes, a line a step; print it, or take its `steps`.

        imgsz: side of the images, None for the model's own size. training: forward, backward and
        update of the training form (with `amp`, in mixed precision) instead of the deployed net;
        parameters stay as they are. The median of `runs` runs counts. Raises ValueError unless
        sizes and runs are positive and those that the graph fixes.

        >>> from deepseek_det import nn
        >>> found = Model(nn.Conv2d(3, 8, 1)).profile(imgsz=32, runs=1)
        >>> found.steps[0].flop == 2 * 32 * 32 * 3 * 8
        True
        """
        from deepseek_det import profile

        side = int(getattr(self, "imgsz", 320))
        given = profile.inputs_of(self.graph, side, imgsz, batch)
        return self.profile_on(given, batch, runs, training)

    def profile_on(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        images: int,
        runs: int = 20,
        training: bool = False,
    ) -> Profile:
        """As `profile`, on arrays for the graph's inputs that stand for that many images."""
        from deepseek_det import profile

        with self.lock:
            if training:
                graph = self.training_graph()
                return profile.profile_training(graph, self.store, inputs, images, runs, self.amp)
            return profile.profile_inference(*self.deployed(), inputs, images, runs)

    def _square(self, imgsz: int) -> tuple[str, tuple[int, int, int, int]]:
        return "u8", (1, imgsz, imgsz, self.graph.inputs[0][2][-1])


def frozen_names(names: Sequence[str], patterns: Sequence[str]) -> Iterator[str]:
    """The names that start with one of the patterns at a dot."""
    for name in names:
        if any(name == p or name.startswith(p.rstrip(".") + ".") for p in patterns):
            yield name
