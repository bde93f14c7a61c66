"""Modules: networks written in Python, traced once into the C graph.

A module never reads sizes and never computes: its ``forward`` adds operators to the graph under
construction, on symbolic values. Parameter names are the attribute paths that torch would give.

>>> from deepseek_det import nn
>>> class Block(nn.Module):
...     def __init__(self) -> None:
...         super().__init__()
...         self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
...         self.bn = nn.BatchNorm2d(8)
...     def forward(self, x: nn.Value) -> nn.Value:
...         return nn.relu(self.bn(self.conv(x)))
>>> [name for name, _ in Block().named_parameters()][:2]
['conv.weight', 'bn.weight']
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from deepseek_det import _core

FloatArray = npt.NDArray[np.float32]
Role = Literal["trainable", "state", "constant"]
Init = Callable[[np.random.Generator, tuple[int, ...]], FloatArray]


# ---- initial values -------------------------------------------------------------------------


def constant(value: float) -> Init:
    """Every element is `value`."""
    return lambda rng, shape: np.full(shape, value, np.float32)


def normal(std: float) -> Init:
    """N(0, std²)."""
    return lambda rng, shape: (rng.standard_normal(shape) * std).astype(np.float32)


def kaiming(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """N(0, 2 / fan_out) for (O, I, kh, kw) or (O, I) weights (He et al. 2015)."""
    fan_out = shape[0] * math.prod(shape[2:])
    return (rng.standard_normal(shape) * math.sqrt(2.0 / fan_out)).astype(np.float32)


def kaiming_depthwise(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """N(0, 2 / taps): the fan of one channel, for a depthwise (C, 1, kh, kw) weight."""
    return (rng.standard_normal(shape) * math.sqrt(2.0 / math.prod(shape[2:]))).astype(np.float32)


@dataclass(eq=False)
class Parameter:
    """A named array of the store: its shape, role, initial values and whether it decays."""

    shape: tuple[int, ...]
    init: Init
    role: Role = "trainable"
    decay: bool = False
    name: str = field(default="", compare=False)

    def initial(self, seed: int) -> FloatArray:
        """The initial values: a function of seed and name only."""
        key = (seed << 32) ^ zlib.crc32(self.name.encode())
        return self.init(np.random.Generator(np.random.Philox(key=key)), self.shape)


# ---- tracing --------------------------------------------------------------------------------


class Tracer:
    """A graph under construction over a store."""

    def __init__(self, store: _core.Store) -> None:
        self.store = store
        self.graph = _core.Graph()
        self.path: list[str] = []

    def input(self, name: str, dtype: str, dims: Sequence[int]) -> Value:
        """An input of the graph; -1 for a dimension that is free."""
        return Value(self, self.graph.input(name, dtype, list(dims)))

    def parameter(self, parameter: Parameter) -> Value:
        """The value of a store entry; the same one each time."""
        if parameter.name not in self.store:
            where = f" in {self.path[-1]}" if self.path else ""
            raise ValueError(
                f"nn: a parameter of shape {parameter.shape} is used{where}, but belongs to no "
                "module of the net: keep modules in attributes, lists of them in a ModuleList"
            )
        return Value(self, self.graph.entry(self.store, parameter.name))

    def node(
        self, op: str, inputs: Sequence[Value | None], params: dict[str, Any], outputs: int = 0
    ) -> list[Value]:
        """Adds an operator, named by the path of the module that is being traced."""
        for value in inputs:
            if value is not None and not isinstance(value, Value):
                raise TypeError(
                    f"nn: {op} of a {type(value).__name__}, symbolic values are needed "
                    "(a number goes in as an attribute or as a Parameter)"
                )
        if any(value is not None and value.tracer is not self for value in inputs):
            raise ValueError(f"nn: {op} of values of two nets")
        name = f"{self.path[-1]}.{op}" if self.path and self.path[-1] else op
        ids = [None if value is None else value.id for value in inputs]
        return [Value(self, i) for i in self.graph.node(op, name, ids, params, n_outputs=outputs)]


class Value:
    """A symbolic value: what modules pass to each other while they are traced."""

    __slots__ = ("id", "tracer")

    def __init__(self, tracer: Tracer, id: int) -> None:
        self.tracer = tracer
        self.id = id

    def op(self, op: str, *others: Value | Parameter | None, **params: Any) -> Value:
        """The first output of operator `op` on this value and `others`."""
        values = [self.tracer.parameter(v) if isinstance(v, Parameter) else v for v in others]
        return self.tracer.node(op, [self, *values], params)[0]

    def __add__(self, other: Value | Parameter) -> Value:
        return self.op("binary", other, kind="add")

    def __sub__(self, other: Value | Parameter) -> Value:
        return self.op("binary", other, kind="sub")

    def __mul__(self, other: Value | Parameter) -> Value:
        return self.op("binary", other, kind="mul")

    def __truediv__(self, other: Value | Parameter) -> Value:
        return self.op("binary", other, kind="div")

    def __bool__(self) -> bool:
        raise TypeError("nn: a symbolic value has no truth value; a graph can't depend on data")

    def __repr__(self) -> str:
        return f"Value({self.id})"


def concat(values: Sequence[Value], axis: int = -1) -> Value:
    """Joins along an axis; -1 is the channels of an (N, H, W, C) value."""
    return values[0].tracer.node("concat", list(values), {"axis": axis})[0]


def unary(x: Value, kind: str, **bounds: float) -> Value:
    """An elementwise function by name: relu, hard_swish, sigmoid, silu, …"""
    return x.op("unary", kind=kind, **bounds)


def relu(x: Value) -> Value:
    """max(x, 0)."""
    return unary(x, "relu")


def upsample(x: Value, factor: int = 2) -> Value:
    """Nearest neighbour, by a whole factor in both directions."""
    return x.op("resize", mode="nearest", scale=[float(factor), float(factor)])


def reshape(x: Value, shape: Sequence[int]) -> Value:
    """Another shape of the same elements: 0 keeps a dimension, -1 takes what is left."""
    return x.op("reshape", shape=list(shape))


class _Operators:
    """Every operator of the graph as a function of symbolic values, from the operators' table.

    ``nn.ops.<name>(value, …, attribute=…)`` gives a value, or a list where the operator has several
    outputs. ``help(nn.ops.<name>)`` tells what it does and its attributes.

    >>> print(ops.softmax.__doc__.splitlines()[0])
    exp(x) over its sum along `axis`.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        for row in _core.ops():
            if row["name"] == name:
                function = _operator(row)
                object.__setattr__(self, name, function)
                return function
        raise AttributeError(f"nn.ops: there is no operator {name!r}")

    def __dir__(self) -> list[str]:
        return [row["name"] for row in _core.ops()]


def _operator(row: Any) -> Callable[..., Any]:
    name, low, high = row["name"], row["min_in"], row["max_in"]
    defaults = {field["name"]: field["initial"] for field in row["fields"]}

    def function(*values: Value | Parameter | None, **attributes: Any) -> Any:
        unknown = sorted(set(attributes) - set(defaults))
        if unknown:
            raise TypeError(f"nn.ops.{name}: no attribute {unknown[0]!r}, it has {list(defaults)}")
        if not low <= len(values) <= high:
            raise TypeError(f"nn.ops.{name}: {len(values)} inputs came, {low} to {high} are needed")
        tracer = _tracer_of(values)
        if tracer is None:
            raise TypeError(f"nn.ops.{name}: none of the inputs is a symbolic value")
        inputs = [tracer.parameter(v) if isinstance(v, Parameter) else v for v in values]
        outputs = 0
        if row["n_outputs"] < 0:  # as many as asked for, by number or by sizes
            outputs = attributes.get("parts", 0) or len(attributes.get("sizes", ()))
        made = tracer.node(name, inputs, attributes, outputs)
        return made if row["n_outputs"] != 1 else made[0]

    function.__name__ = function.__qualname__ = name
    attributes = ", ".join(f"{key}={value!r}" for key, value in defaults.items())
    function.__doc__ = f"{row['doc']}\n\nAttributes: {attributes or 'none'}."
    return function


ops = _Operators()


# ---- modules --------------------------------------------------------------------------------


class Module:
    """A part of a network. Attributes that are modules or parameters become its children."""

    def __init__(self) -> None:
        object.__setattr__(self, "_modules", {})
        object.__setattr__(self, "_parameters", {})
        object.__setattr__(self, "_path", "")

    _modules: dict[str, Module]
    _parameters: dict[str, Parameter]
    _path: str

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Module, Parameter)) and "_modules" not in self.__dict__:
            raise TypeError(f"nn: {type(self).__name__}: call super().__init__() first")
        for home in (self.__dict__.get("_modules", {}), self.__dict__.get("_parameters", {})):
            home.pop(name, None)
        if isinstance(value, Module):
            self._modules[name] = value
        elif isinstance(value, Parameter):
            self._parameters[name] = value
        object.__setattr__(self, name, value)

    def add_module(self, name: str, module: Module) -> None:
        """Registers a child under any name ("0", "conv")."""
        if not isinstance(module, Module):
            raise TypeError(f"nn: {name!r} is a {type(module).__name__}, a Module is needed")
        self._modules[name] = module

    def children(self) -> Iterator[tuple[str, Module]]:
        """Direct children by name, in the order in which they were set."""
        yield from self._modules.items()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """All parameters below, depth first; a shared one comes under its first name only."""
        seen: set[int] = set()
        for name, parameter in self._walk(prefix):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def _walk(self, prefix: str) -> Iterator[tuple[str, Parameter]]:
        for name, parameter in self._parameters.items():
            yield prefix + name, parameter
        for name, module in self._modules.items():
            yield from module._walk(f"{prefix}{name}.")

    def forward(self, *inputs: Any) -> Any:
        """What the module adds to the graph; overridden."""
        raise NotImplementedError(f"nn: {type(self).__name__} has no forward")

    def __call__(self, *inputs: Any) -> Any:
        tracer = _tracer_of(inputs)
        if tracer is None:
            raise TypeError(
                f"nn: {type(self).__name__} was called on "
                f"{type(inputs[0]).__name__ if inputs else 'nothing'}, modules take symbolic "
                "values; build a Model to run them on arrays"
            )
        tracer.path.append(self._path)
        try:
            return self.forward(*inputs)
        except Exception as error:
            if not hasattr(error, "__notes__"):  # the innermost module names itself
                error.add_note(f"in module {self._path or 'the net itself'}: {type(self).__name__}")
            raise
        finally:
            tracer.path.pop()

    def name_children(self) -> None:
        """Names every module and parameter below by its path from here, as torch does.

        What is reached by two paths has the first one's name.
        """
        seen: set[int] = set()
        self._name_below("", seen)

    def _name_below(self, path: str, seen: set[int]) -> None:
        if id(self) in seen:
            return
        seen.add(id(self))
        object.__setattr__(self, "_path", path)
        prefix = f"{path}." if path else ""
        for name, parameter in self._parameters.items():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                parameter.name = prefix + name
        for name, module in self._modules.items():
            module._name_below(prefix + name, seen)


def _tracer_of(inputs: Any) -> Tracer | None:
    for value in inputs:
        if isinstance(value, Value):
            return value.tracer
        if isinstance(value, (list, tuple)):
            found = _tracer_of(value)
            if found:
                return found
    return None


class Sequential(Module):
    """Modules one after another, named "0", "1", …"""

    def __init__(self, *modules: Module) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def forward(self, x: Any) -> Any:
        for _, module in self.children():
            x = module(x)
        return x


class ModuleList(Module):
    """A list of modules, named "0", "1", …; it is indexed, not called."""

    def __init__(self, modules: Sequence[Module] = ()) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def __getitem__(self, i: int) -> Module:
        return list(self._modules.values())[i]

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __len__(self) -> int:
        return len(self._modules)


class Conv2d(Module):
    """2-D convolution of (N, H, W, C) values; weight (out, in/groups, k, k), as torch's."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        init: Init | None = None,
    ) -> None:
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d: {in_channels} to {out_channels} channels do not divide into {groups} "
                "groups"
            )
        depthwise = groups == in_channels and groups > 1
        shape = (out_channels, in_channels // groups, kernel_size, kernel_size)
        self.weight = Parameter(
            shape, init or (kaiming_depthwise if depthwise else kaiming), decay=True
        )
        self.bias = Parameter((out_channels,), constant(0.0)) if bias else None
        self.params = {
            "stride": [stride, stride],
            "pads": [padding] * 4,
            "dilation": [dilation, dilation],
            "groups": groups,
        }

    def forward(self, x: Value) -> Value:
        others = [self.weight] if self.bias is None else [self.weight, self.bias]
        return x.op("conv", *others, **self.params)


class BatchNorm2d(Module):
    """Batch norm over N, H, W; running statistics are state, torch's names and update rule."""

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.weight = Parameter((channels,), constant(1.0))
        self.bias = Parameter((channels,), constant(0.0))
        self.running_mean = Parameter((channels,), constant(0.0), role="state")
        self.running_var = Parameter((channels,), constant(1.0), role="state")
        self.params = {"eps": eps, "momentum": momentum}

    def forward(self, x: Value) -> Value:
        return x.op(
            "batch_norm",
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            **self.params,
        )


class Linear(Module):
    """y = x · weightᵀ + bias on the last dimension; weight (out, in)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = Parameter((out_features, in_features), normal(0.01), decay=True)
        self.bias = Parameter((out_features,), constant(0.0)) if bias else None

    def forward(self, x: Value) -> Value:
        others = [self.weight] if self.bias is None else [self.weight, self.bias]
        return x.op("matmul", *others, transpose_b=True)


class Activation(Module):
    """An elementwise function by name; the classes below are torch's names for it."""

    kind = "relu"

    def forward(self, x: Value) -> Value:
        return unary(x, self.kind)


class ReLU(Activation):
    """max(x, 0)."""

    kind = "relu"


class Hardswish(Activation):
    """x · clip(x/6 + 1/2, 0, 1) (Howard et al. 2019)."""

    kind = "hard_swish"


class Hardsigmoid(Activation):
    """clip(x/6 + 1/2, 0, 1)."""

    kind = "hard_sigmoid"


class SiLU(Activation):
    """x · sigmoid(x)."""

    kind = "silu"


class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    kind = "sigmoid"


class Identity(Module):
    """The value itself."""

    def forward(self, x: Value) -> Value:
        return x


class GlobalAvgPool(Module):
    """The mean over the whole map: (N, H, W, C) to (N, 1, 1, C)."""

    def forward(self, x: Value) -> Value:
        return x.op("avg_pool")


class MaxPool2d(Module):
    """The maximum over k×k windows; the stride is the kernel's size unless given."""

    kind = "max_pool"

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        step = kernel_size if stride is None else stride
        self.params: dict[str, Any] = {
            "kernel": [kernel_size, kernel_size],
            "stride": [step, step],
            "pads": [padding] * 4,
        }

    def forward(self, x: Value) -> Value:
        return x.op(self.kind, **self.params)


class AvgPool2d(MaxPool2d):
    """The mean over k×k windows, pads counted as torch does."""

    kind = "avg_pool"

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__(kernel_size, stride, padding)
        self.params["count_pad"] = True


class Flatten(Module):
    """(N, …) to (N, the rest)."""

    def forward(self, x: Value) -> Value:
        return reshape(x, [0, -1])


class Dropout(Module):
    """In training each element is 0 with probability p, the others grow by 1 / (1 - p)."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Value) -> Value:
        return x.op("dropout", p=self.p)


class Upsample(Module):
    """Nearest neighbour by a whole factor."""

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Value) -> Value:
        return upsample(x, self.factor)
