"""Where the time of a net goes: a line a step, against what the machine was measured to do.

A step is what the planner runs at once: a convolution with its activation, a whole inverted
residual, a batch norm. Its line says how long it takes, how much arithmetic and traffic it stands
for, and what share of the machine's peak that is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from deepseek_det import _core

Bound = Literal["arithmetic", "traffic", "neither", ""]

# A bound that takes less than this share of a step's time does not explain it.
EXPLAINS = 0.5
# Runs that nobody counts: weights are packed, memory is touched, threads are awake.
WARM_UP = 2
# A time of fewer clock steps than this gives no rate.
CLOCK_STEPS = 20


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine does at the most, by `measure`: all threads together.

    isa: the instruction set of the kernels. flops: multiply-adds in registers, in FLOP/s (2 for
    each). bytes_per_second: a copy from memory to memory, read and written bytes counted.
    clock_s: the shortest time that the clock tells from nothing.
    """

    isa: str
    threads: int
    flops: float
    bytes_per_second: float
    clock_s: float

    def __str__(self) -> str:
        return (
            f"{self.isa}, {_count(self.threads, 'thread')}: {self.flops / 1e9:.0f} GFLOP/s, "
            f"{self.bytes_per_second / 1e9:.1f} GB/s (measured)"
        )


def measure() -> Machine:
    """The machine with the present number of threads; measured once a process and number.

    >>> measure().threads == _core.get_num_threads()
    True
    """
    return _measure(_core.get_num_threads())


@lru_cache
def _measure(threads: int) -> Machine:
    m = _core.measure_machine()
    return Machine(m["isa"], m["threads"], m["flops"], m["bytes_per_second"], m["clock_seconds"])


@dataclass(frozen=True, slots=True)
class Step:
    """A step's line. ms: median. flop: 2 a multiply-add, nothing else counts.

    bytes: what it can't do without, every stored operand and weight read once and every result
    written once. shape: of what it stores last. layers: names of its nodes.
    """

    pattern: str
    layers: tuple[str, ...]
    shape: tuple[int, ...] | None
    ms: float
    flop: int
    bytes: int
    backward: bool = False

    @property
    def name(self) -> str:
        """The layers in one word where their names allow."""
        return label(self.layers)

    def tells(self, machine: Machine) -> bool:
        """Whether the time is long enough for the clock to give a rate."""
        return self.ms >= 1e3 * CLOCK_STEPS * machine.clock_s

    def shares(self, machine: Machine) -> tuple[float, float]:
        """Of the machine's peak and of its memory bandwidth; above 1 where caches gave the bytes.

        (0, 0) for a time that is too short to tell.
        """
        if not self.tells(machine):
            return 0.0, 0.0
        seconds = 1e-3 * self.ms
        return (
            self.flop / seconds / machine.flops,
            self.bytes / seconds / machine.bytes_per_second,
        )

    def bound(self, machine: Machine) -> Bound:
        """What explains the time: the larger of both shares where it is half or more.

        "neither" leaves waiting, latency, small loops and plain C; "" is too short to tell.
        """
        if not self.tells(machine):
            return ""
        arithmetic, traffic = self.shares(machine)
        if max(arithmetic, traffic) < EXPLAINS:
            return "neither"
        return "arithmetic" if arithmetic >= traffic else "traffic"


@dataclass(frozen=True, slots=True)
class Profile:
    """A net's steps and its time as a whole; its text is a table for people.

    ms: median of whole runs without a watch on their steps; steps that share a barrier then run
    side by side, so the steps' sum may be more. images: of a run.
    """

    steps: tuple[Step, ...]
    machine: Machine
    ms: float
    images: int
    training: bool = False

    @property
    def images_per_second(self) -> float:
        """Of whole runs."""
        return 1e3 * self.images / self.ms

    @property
    def flop(self) -> int:
        """Of all steps."""
        return sum(s.flop for s in self.steps)

    @property
    def bytes(self) -> int:
        """Of all steps."""
        return sum(s.bytes for s in self.steps)

    @property
    def bound_ms(self) -> float:
        """What the machine would need at its peaks: each step's larger bound, added.

        No step list can beat it without doing less: fewer multiply-adds (Winograd), fewer bytes
        (longer chains, caches).
        """
        m = self.machine
        return 1e3 * sum(max(s.flop / m.flops, s.bytes / m.bytes_per_second) for s in self.steps)

    def by_pattern(self) -> list[tuple[str, list[Step]]]:
        """The steps by pattern, forward and backward apart, those that take longest first."""
        groups: dict[str, list[Step]] = {}
        for step in self.steps:
            groups.setdefault(step.pattern + (" (backward)" * step.backward), []).append(step)
        return sorted(groups.items(), key=lambda item: -sum(s.ms for s in item[1]))

    def table(self) -> str:
        """A line a step."""
        rows = [
            (str(i), s.pattern, s.name, _shape(s.shape), *self._figures(s))
            for i, s in enumerate(self.steps)
        ]
        return _align(("", "step", "layers", "output", *_FIGURES), rows, 4)

    def summary(self) -> str:
        """A line a pattern."""
        rows = []
        for pattern, steps in self.by_pattern():
            together = Step(
                pattern,
                (),
                None,
                sum(s.ms for s in steps),
                sum(s.flop for s in steps),
                sum(s.bytes for s in steps),
            )
            rows.append((pattern, str(len(steps)), *self._figures(together)))
        return _align(("step", "steps", *_FIGURES), rows, 1)

    def totals(self) -> str:
        """The run as a whole, what bounds it, and the machine."""
        peak, memory = Step("", (), None, self.ms, self.flop, self.bytes).shares(self.machine)
        rates = self.flop / self.ms / 1e6, self.bytes / self.ms / 1e6
        what = "forward, backward and update" if self.training else "forward"
        lines = [
            f"{what}, {_count(self.images, 'image')}: {self.ms:.3f} ms, "
            f"{self.images_per_second:.1f} images/s; steps one by one "
            f"{sum(s.ms for s in self.steps):.3f} ms",
            f"{self.flop / 1e9:.3f} GFLOP at {rates[0]:.1f} GFLOP/s, {peak:.0%} of the peak; "
            f"{self.bytes / 1e6:.1f} MB at {rates[1]:.1f} GB/s, {memory:.0%} of memory",
            f"bound by arithmetic and traffic: {self.bound_ms:.3f} ms, "
            f"{self.bound_ms / self.ms:.0%} of the time",
            str(self.machine),
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"{self.table()}\n\n{self.summary()}\n\n{self.totals()}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: times in ms, rates per second in units of 1e9."""
        return {
            "ms": self.ms,
            "images": self.images,
            "images_per_second": self.images_per_second,
            "training": self.training,
            "gflop": self.flop / 1e9,
            "mbytes": self.bytes / 1e6,
            "bound_ms": self.bound_ms,
            "isa": self.machine.isa,
            "threads": self.machine.threads,
            "peak_gflops": self.machine.flops / 1e9,
            "memory_gbytes_per_s": self.machine.bytes_per_second / 1e9,
            "clock_ms": 1e3 * self.machine.clock_s,
            "steps": [
                {
                    "pattern": s.pattern,
                    "layers": list(s.layers),
                    "shape": None if s.shape is None else list(s.shape),
                    "ms": s.ms,
                    "gflop": s.flop / 1e9,
                    "mbytes": s.bytes / 1e6,
                    "share_of_peak": s.shares(self.machine)[0],
                    "share_of_memory": s.shares(self.machine)[1],
                    "bound": s.bound(self.machine),
                    "backward": s.backward,
                }
                for s in self.steps
            ],
        }

    def _figures(self, s: Step) -> tuple[str, ...]:
        all_ms = sum(step.ms for step in self.steps) or 1.0
        megabytes = f"{s.bytes / 1e6:.2f}"
        if not s.tells(self.machine):
            limit = 1e3 * CLOCK_STEPS * self.machine.clock_s
            return f"< {limit:.4f}", "", "", "", megabytes, "", "", "too short"
        peak, memory = s.shares(self.machine)
        rate = f"{s.flop / s.ms / 1e6:.1f}" if s.flop else ""
        return (
            f"{s.ms:.3f}",
            f"{s.ms / all_ms:.1%}",
            rate,
            f"{peak:.0%}" if s.flop else "",
            megabytes,
            f"{s.bytes / s.ms / 1e6:.1f}",
            f"{memory:.0%}",
            s.bound(self.machine),
        )


_FIGURES = ("ms", "share", "GFLOP/s", "of peak", "MB", "GB/s", "of memory", "bound")


def label(layers: Sequence[str]) -> str:
    """A short name of layers: what their dotted names begin with, or the first and the last.

    Of backward nodes, whose names start with what they make, those of the first one's layer.

    >>> label(["stage1.0.expand.conv", "stage1.0.project.conv"])
    'stage1.0'
    >>> label(["Conv_3", "Relu_4"])
    'Conv_3 … Relu_4'
    >>> label(["dx:head.conv", "dw:head.conv", "reduce:neck.norm"])
    'dx, dw: head.conv'
    """
    if not layers:
        return ""
    if len(set(layers)) == 1:
        return layers[0]
    if ":" in layers[0]:
        layer = layers[0].partition(":")[2]
        made = [name.partition(":")[0] for name in layers if name.partition(":")[2] == layer]
        return f"{', '.join(made)}: {layer}"
    parts = [name.split(".") for name in layers]
    common = []
    for words in zip(*parts, strict=False):
        if len(set(words)) > 1:
            break
        common.append(words[0])
    return ".".join(common) or f"{layers[0]} … {layers[-1]}"


def profile_plan(
    plan: _core.Plan,
    graph: _core.Graph,
    run: Callable[[], object],
    images: int,
    runs: int = 20,
    training: bool = False,
) -> Profile:
    """Profiles any plan: `run()` runs it once; graph: the one that it was made of.

    The median of `runs` runs counts, after two that warm up; the plan's own watch is off again
    afterwards. Raises ValueError unless runs ≥ 1.
    """
    if runs < 1:
        raise ValueError(f"profile: runs is {runs}, at least 1 is needed")
    machine = measure()
    names = [str(node["name"]) for node in graph.nodes()]
    whole: list[float] = []
    times: list[list[float]] = []
    for _ in range(WARM_UP):
        run()
    try:
        for _ in range(runs):  # with and without the watch by turns: both see the same machine
            plan.profile(False)
            start = time.perf_counter()
            run()
            whole.append(1e3 * (time.perf_counter() - start))
            plan.profile(True)
            run()
            times.append([s["milliseconds"] for s in plan.steps()])
        found = plan.steps()
    finally:
        plan.profile(False)
    steps = tuple(
        Step(
            pattern=s["pattern"],
            # forward in the net's order; backward begins with the layer that gives it its name
            layers=tuple(names[i] for i in (s["nodes"] if s["backward"] else sorted(s["nodes"]))),
            shape=s["shape"],
            ms=statistics.median(ms),
            flop=2 * s["macs"],
            bytes=s["bytes"],
            backward=s["backward"],
        )
        for s, ms in zip(found, zip(*times, strict=True), strict=True)
    )
    return Profile(steps, machine, statistics.median(whole), images, training)


def inputs_of(
    graph: _core.Graph, side: int, imgsz: int | None = None, batch: int = 1
) -> list[npt.NDArray[Any]]:
    """Drawn inputs for a graph; free sizes are batch (the first) and imgsz, or `side` for None.

    Raises ValueError where a size is not positive, or a wanted one is not what the graph fixes.
    """
    if (imgsz is not None and imgsz < 1) or batch < 1:
        raise ValueError(f"profile: imgsz is {imgsz} and batch {batch}, 1 or more is needed")
    rng = np.random.default_rng(0)
    arrays: list[npt.NDArray[Any]] = []
    for name, dtype, shape, _ in graph.inputs:
        sizes = [side if imgsz is None else imgsz] * len(shape)
        sizes[:1] = [batch] * len(sizes[:1])
        made = tuple(fixed if fixed > 0 else size for fixed, size in zip(shape, sizes, strict=True))
        if len(made) == 4 and (
            (batch != 1 and made[0] != batch) or (imgsz is not None and imgsz not in made[1:])
        ):
            raise ValueError(
                f"profile: imgsz {imgsz} and batch {batch} came, input {name!r} is "
                f"{'×'.join('free' if d < 0 else str(d) for d in shape)}"
            )
        if dtype == "f32":
            arrays.append(rng.random(made, np.float32))
        else:
            arrays.append(rng.integers(0, 256 if dtype == "u8" else 2, made).astype(_KINDS[dtype]))
    return arrays


def profile_inference(
    graph: _core.Graph,
    store: _core.Store,
    inputs: Sequence[npt.NDArray[Any]],
    images: int,
    runs: int = 20,
) -> Profile:
    """Profiles a deployed graph on inputs, in a plan of its own."""
    plan = _core.Plan(graph, store, [_type_of(x) for x in inputs])
    return profile_plan(plan, graph, lambda: plan.forward(inputs), images, runs)


def profile_training(
    graph: _core.Graph,
    store: _core.Store,
    inputs: Sequence[npt.NDArray[Any]],
    images: int,
    runs: int = 20,
    bf16: bool = False,
) -> Profile:
    """Profiles forward, backward and AdamW's update of a training graph; the store stays as it is.

    bf16: maps are stored as bfloat16, as in training with amp=True.
    The losses are the caller's affair and not in it: the gradients of all outputs are constant.
    """
    own = store.copy()
    plan = _core.Plan(graph, own, [_type_of(x) for x in inputs], bf16=bf16)
    gradient, m, v = (np.zeros(own.size, np.float32) for _ in range(3))
    seeds = [np.full(o.shape, 1e-4, np.float32) for o in plan.forward(inputs)]
    update: list[float] = []
    number = 0

    def run() -> None:
        nonlocal number
        plan.forward(inputs, step=number)
        plan.backward(seeds, gradient)
        number += 1
        start = time.perf_counter()
        _core.optim_apply(own, gradient, m, v, None, lr=1e-5, step=number)
        update.append(time.perf_counter() - start)

    profile = profile_plan(plan, graph, run, images, runs, training=True)
    # weights and moments are read and written, the gradient is read and cleared
    traffic = 8 * own.size * 4
    ms = 1e3 * statistics.median(update[-runs:])
    step = Step("optimizer", ("AdamW",), (own.size,), ms, 0, traffic, True)
    return Profile(
        (*profile.steps, step), profile.machine, profile.ms, profile.images, training=True
    )


_KINDS: dict[str, type[np.generic]] = {
    "f32": np.float32,
    "u8": np.uint8,
    "s8": np.int8,
    "s32": np.int32,
}


def _type_of(x: npt.NDArray[Any]) -> tuple[str, tuple[int, ...]]:
    return next(name for name, kind in _KINDS.items() if x.dtype == kind), x.shape


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else "×".join(map(str, shape))


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"


def _align(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Columns as wide as their widest cell; the first `left` and the last one to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = [
            f"{cell:<{w}}" if i < left or i == len(row) - 1 else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
