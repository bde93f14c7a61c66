"""Sizes for what a file leaves free, where a run needs numbers: profiles and `bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepseek_det.onnx.build import fixed, substituted
from deepseek_det.onnx.dims import Dim
from deepseek_det.onnx.ir import Port

SIDE = 320
"""Height and width of an image whose file leaves them free, where nobody says another size."""


@dataclass(frozen=True)
class _Image:
    """An input that looks like images: its port, and where its rows and columns are counted."""

    port: Port
    sides: tuple[int, int]


def filled(
    inputs: Sequence[Port],
    imgsz: int | None = None,
    batch: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """{input: sizes} without a free one, as `load_onnx` takes them.

    shapes: {input: sizes} that come first; a name of a dimension that inputs share counts in all of
    them. Then imgsz (None: SIDE) is the free height and width of the only input that looks like
    images: four dimensions, channels first, or last where only these are a number. batch (None: 1)
    is the free first dimension of any input.
    Raises ValueError that names the dimensions that are still free, and for a size that is not
    positive, or is asked for and not what the file says.

    >>> import numpy as np
    >>> n, h, w = (Dim.symbol(name) for name in "nhw")
    >>> image = Port("x", np.dtype(np.float32), (None, 3, None, None), (n, 3, h, w))
    >>> filled([image], imgsz=64, batch=2)
    {'x': (2, 3, 64, 64)}
    """
    if (imgsz is not None and imgsz < 1) or (batch is not None and batch < 1):
        raise ValueError(f"profile: imgsz is {imgsz} and batch {batch}, 1 or more is needed")
    ports = fixed([_with_symbols(p) for p in inputs], shapes or {})
    images = [_Image(p, sides) for p in ports if (sides := _sides(p)) is not None]
    if len(images) > 1:  # one that is fixed beside one that is not: the free one is meant
        images = [i for i in images if None in [i.port.shape[k] for k in i.sides]] or images
    only = images[0] if len(images) == 1 else None
    known: dict[str, int] = {}
    if only is not None:
        known = {str(only.port.sizes[k]): imgsz or SIDE for k in only.sides}
        ports = [substituted(p, known) for p in ports]
    known = {str(p.sizes[0]): batch or 1 for p in ports if p.sizes}
    ports = [substituted(p, known) for p in ports]
    _refuse_open(ports)
    made = {p.name: tuple(int(d or 0) for d in p.shape) for p in ports}
    _refuse_others(made, only, imgsz, batch)
    return made


def _sides(port: Port) -> tuple[int, int] | None:
    """Where rows and columns of an input's images are, None where it has none."""
    if len(port.shape) != 4:
        return None
    last = port.shape[1] is None and port.shape[3] is not None
    return (1, 2) if last else (2, 3)


def _with_symbols(port: Port) -> Port:
    """A port whose free sizes have symbols; a checkpoint keeps no names of them."""
    if port.sizes:
        return port
    free = (Dim.symbol(f"{port.name}.{k}") for k in range(len(port.shape)))
    sizes = tuple(s if d is None else d for d, s in zip(port.shape, free, strict=True))
    return Port(port.name, port.dtype, port.shape, sizes)


def _refuse_open(ports: Sequence[Port]) -> None:
    free = [p for p in ports if None in p.shape]
    if not free:
        return
    said = [
        f"{', '.join(str(s) for s in p.sizes if isinstance(s, Dim))} of input {p.name!r}"
        for p in free
    ]
    example = ",".join(f"{p.name}={'x'.join(map(str, p.sizes))}" for p in free)
    raise ValueError(
        f"profile: free dimensions need sizes: {'; '.join(said)}; shapes says them, on the command "
        f'line numbers in --shapes "{example}"'
    )


def _refuse_others(
    made: Mapping[str, tuple[int, ...]], only: _Image | None, imgsz: int | None, batch: int | None
) -> None:
    """ValueError where the sizes are not those that were asked for."""
    if imgsz is not None:
        if only is None:
            raise ValueError(
                f"profile: imgsz {imgsz} came, one input of four dimensions is needed for it, not "
                + ", ".join(f"{name!r} {_text(shape)}" for name, shape in made.items())
            )
        shape = made[only.port.name]
        if imgsz not in [shape[k] for k in only.sides]:
            raise ValueError(
                f"profile: imgsz {imgsz} came, input {only.port.name!r} is {_text(shape)}"
            )
    if batch is not None:
        name = only.port.name if only is not None else next(iter(made), "")
        if made and made[name][:1] != (batch,):
            raise ValueError(f"profile: batch {batch} came, input {name!r} is {_text(made[name])}")


def _text(shape: Sequence[int | None]) -> str:
    return "×".join("free" if d is None else str(d) for d in shape)


def parsed(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """{input: sizes} from "name=1x3x320x320"; ValueError for another form.

    >>> parsed(["images=1x3x320x320", "scale=1x2"])
    {'images': (1, 3, 320, 320), 'scale': (1, 2)}
    """
    made: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, mark, sizes = text.rpartition("=")
        words = sizes.replace("×", "x").split("x")
        if not mark or not name or not all(w.isascii() and w.isdigit() for w in words):
            raise ValueError(f"bench: shapes has {text!r}, NAME=1x3x320x320 is needed")
        if name in made:
            raise ValueError(f"bench: shapes names {name!r} twice")
        made[name] = tuple(map(int, words))
    return made
