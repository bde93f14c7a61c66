"""Where the values of a graph stand in an ONNX file, and in which order of axes.

Our maps are (N, H, W, C), ONNX' are (N, C, H, W). A *form* of a value is an ONNX tensor with the
value's axes in some order: order[k] is the value's axis that is axis k of the tensor. Operators
take the form they need and give the one they make; elementwise ones keep what is there. A Transpose
is written only where a form is asked for that does not exist yet, and each at most once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deepseek_det import _core
from deepseek_det.errors import Error
from deepseek_det.onnx.writer import Writer

Order = tuple[int, ...]
# (dtype, shape with -1 where free)
InputType = tuple[str, tuple[int, ...]]

# Two sizes for every free axis: what differs between them is free in a value, too. The second set
# differs along each axis, so that a batch is not taken for a height.
_PROBES = ((1, 256, 256, 256, 256, 256), (2, 320, 384, 448, 512, 576))


def native(rank: int) -> Order:
    """The order of a value's own axes."""
    return tuple(range(rank))


def channels_first(rank: int) -> Order:
    """The order in which the last axis comes behind the first one.

    >>> channels_first(4)
    (0, 3, 1, 2)
    """
    return (0, rank - 1, *range(1, rank - 1)) if rank > 1 else native(rank)


def inverse(order: Order) -> Order:
    """The order that undoes `order`."""
    return tuple(order.index(k) for k in range(len(order)))


def compose(outer: Order, inner: Order) -> Order:
    """The order of a tensor in `outer` of a tensor in `inner`: inner[outer[k]] for each axis."""
    return tuple(inner[k] for k in outer)


class Places:
    """The forms of all values of a graph.

    inputs: the types of the graph's inputs, -1 where a size is free. shape(v) has -1 for each free
    axis of a value.
    """

    def __init__(
        self, graph: _core.Graph, store: _core.Store, inputs: Sequence[InputType], writer: Writer
    ) -> None:
        self.writer = writer
        self._values = graph.values()
        self._store = store
        self._forms: list[dict[Order, str]] = [{} for _ in self._values]
        probes = [
            graph.infer(store, [(t, _fill(shape, sizes)) for t, shape in inputs])["values"]
            for sizes in _PROBES
        ]
        self._types: list[tuple[str, tuple[int, ...]] | None] = []
        for one, other in zip(*probes, strict=True):
            if one is None or other is None:
                self._types.append(None)
                continue
            pairs = zip(one[1], other[1], strict=True)
            self._types.append((one[0], tuple(a if a == b else -1 for a, b in pairs)))

    def _type(self, value: int) -> tuple[str, tuple[int, ...]]:
        found = self._types[value]
        if found is None:
            raise Error(f"export: value {self._values[value]['name']!r} has no type")
        return found

    def dtype(self, value: int) -> str:
        """f32, u8, s8 or s32."""
        return self._type(value)[0]

    def shape(self, value: int) -> tuple[int, ...]:
        """A value's sizes, -1 where they are free."""
        return self._type(value)[1]

    def rank(self, value: int) -> int:
        """How many axes a value has."""
        return len(self.shape(value))

    def array(self, value: int) -> npt.NDArray[np.float32] | None:
        """A parameter's numbers; None for a value that is computed."""
        if self._values[value]["kind"] != "entry":
            return None
        return self._store.get(self._values[value]["name"])

    def give(self, value: int, order: Order, tensor: str) -> None:
        """Says that `tensor` holds a value in this order of axes."""
        self._forms[value].setdefault(order, tensor)

    def share(self, value: int, of: int, order: Order | None = None) -> None:
        """Says that a value is another one, with its axes in `order` unless that is None."""
        back = inverse(order or native(self.rank(of)))
        self.any(of)
        for form, tensor in self._forms[of].items():
            self.give(value, compose(form, back), tensor)

    def forms(self, value: int) -> dict[Order, str]:
        """The tensors that hold a value so far, by order; a parameter gets one in its own order."""
        self.any(value)
        return self._forms[value]

    def any(self, value: int) -> Order:
        """The order of the value's first tensor, which most of the net uses."""
        if not self._forms[value]:
            return self._parameter(value, native(self.rank(value)))
        return next(iter(self._forms[value]))

    def _parameter(self, value: int, order: Order) -> Order:
        array, name = self.array(value), self._values[value]["name"]
        if array is None:
            raise Error(f"export: value {name!r} is used before it is made")
        self.give(value, order, self.writer.tensor(array.transpose(order), name))
        return order

    def get(self, value: int, order: Order | None = None) -> str:
        """The tensor that holds a value in an order of axes (None: its own), made if need be."""
        order = native(self.rank(value)) if order is None else order
        forms = self._forms[value]
        if order in forms:
            return forms[order]
        if self.array(value) is not None:
            self._parameter(value, order)
            return forms[order]
        have, tensor = self.any(value), forms[self.any(value)]
        perm = compose(order, inverse(have))
        name = f"{self._values[value]['name']}.transposed"
        self.give(value, order, self.writer.node("Transpose", [tensor], name, perm=list(perm)))
        return forms[order]

    def widened(self, value: int, order: Order) -> str:
        """A value of lower or equal rank, as it broadcasts to tensors in `order`."""
        rank, missing = self.rank(value), len(order) - self.rank(value)
        if missing == 0:
            return self.get(value, order)
        array = self.array(value)
        if array is not None:
            wide = array.reshape((1,) * missing + array.shape).transpose(order)
            leading = next((k for k, size in enumerate(wide.shape) if size != 1), wide.ndim)
            wide = wide.reshape(wide.shape[leading:])  # broadcasting puts them back
            return self.writer.tensor(wide, self._values[value]["name"])
        name, tensor = self._values[value]["name"], self.get(value)
        if order != native(len(order)):
            if rank:
                axes = self.writer.sizes(range(missing))
                tensor = self.writer.node("Unsqueeze", [tensor, axes], f"{name}.wide")
            tensor = self.writer.node("Transpose", [tensor], f"{name}.wide", perm=list(order))
        return tensor

    def like_memory(self, value: int) -> tuple[Order, str] | None:
        """A form whose elements lie in memory in the value's own order, if there is one.

        Only axes of size 1 are elsewhere in it, so that a Reshape need not transpose first.
        """
        shape = self.shape(value)
        for order, tensor in self.forms(value).items():
            moving = [k for k in order if shape[k] != 1]
            if moving == sorted(moving):
                return order, tensor
        return None


def _fill(shape: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(size if size >= 0 else sizes[k] for k, size in enumerate(shape))
