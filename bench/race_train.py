"""Training race: images per second on the reference net against torch, one interleaved run.

The same weights, loss (mean square of all outputs), AdamW and batch; torch's best of NCHW and
channels_last, eager and compiled, counts. --amp: bfloat16 on both sides. --avx2 holds all to AVX2,
whatever the CPU has.
Usage: python bench/race_train.py [--shapes 320x8 640x2] [--threads 1 2] [--amp] [--avx2]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

AVX2 = {"DD_ISA": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
EACH = 2  # timed steps of a turn

Step = Callable[[], object]


def torch_step(
    folder: Path, x: np.ndarray, state: dict[str, np.ndarray], kind: str, amp: bool
) -> Step:
    """A training step of torch; kind: words "NCHW" or "channels_last", and "compiled"."""
    import torch
    from ref_net import torch_module

    net = torch_module(folder).Net()
    net.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=False)
    net.train()
    batch = torch.tensor(x).permute(0, 3, 1, 2).contiguous()
    if "channels_last" in kind:
        net = net.to(memory_format=torch.channels_last)
        batch = batch.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def loss_of(images: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            outputs = net(images)
        return sum((o.float() ** 2).mean() for o in outputs)

    forward = torch.compile(loss_of) if "compiled" in kind else loss_of

    def step() -> None:
        forward(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(model: Any, x: np.ndarray) -> Step:
    def step() -> None:
        out = model.forward(x)
        model.backward({name: o * np.float32(2 / o.size) for name, o in out.items()})
        model.step(lr=1e-4)

    return step


def contestants(x: np.ndarray, args: argparse.Namespace, notes: list[str]) -> dict[str, Step]:
    """Ours and the kinds of torch that run; what does not is noted."""
    from ref_net import Net

    from deepseek_det.model import Model

    model = Model(Net())
    model.amp = args.amp
    found = {"ours": our_step(model, x)}
    state = model.state_dict()
    layouts = ("NCHW", "channels_last")
    kinds = [*layouts, *([f"{k} compiled" for k in layouts] if args.compile else [])]
    for kind in kinds:
        step = torch_step(args.anchors, x, state, kind, args.amp)
        try:
            step()
        except Exception as reason:  # torch.compile needs a C++ compiler and more
            note = f"torch {kind} does not run: {str(reason).strip().splitlines()[0]}"
            if note not in notes:
                notes.append(note)
            continue
        found[f"torch {kind}"] = step
    return found


def race(args: argparse.Namespace) -> str:
    """All shapes and thread counts: the section's text."""
    import torch
    from racing import interleave, machine, median, table

    import deepseek_det as dd

    rows, notes = [], []
    names: list[str] = []
    for shape in args.shapes:
        size, batch = map(int, shape.split("x"))
        x = np.random.default_rng(0).random((batch, size, size, 3), np.float32)
        for threads in args.threads:
            dd.set_num_threads(threads)
            torch.set_num_threads(threads)
            found = contestants(x, args, notes)
            names += [name for name in found if name not in names]
            times = interleave(found, args.rounds, warmup=2, each=EACH, untimed=1)
            speed = {name: batch / median(t) for name, t in times.items()}
            best = max(v for name, v in speed.items() if name != "ours")
            figures = {name: f"{v:.1f}" for name, v in speed.items()}
            figures["ratio"] = f"{speed['ours'] / best:.2f}"
            rows.append((f"{size}, batch {batch}", str(threads), figures))
            print(*rows[-1], flush=True)
    cells = [[net, n, *(f.get(k, "–") for k in (*names, "ratio"))] for net, n, f in rows]
    precision = "bfloat16 (ours: amp=True; torch: autocast)" if args.amp else "float32"
    level = ", all held to AVX2" if args.avx2 else ""
    head = (
        f"{machine()}; torch {torch.__version__}; images per second, {precision}{level}, "
        f"median of {EACH * args.rounds}."
    )
    text = table(["net", "threads", *names, "ours / best peer"], cells)
    return "\n\n".join([head, text, *notes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=8, help=f"of {EACH} timed steps each")
    parser.add_argument("--anchors", type=Path, default=Path("../shared/anchors"))
    parser.add_argument("--shapes", nargs="+", default=["320x8", "640x2"], metavar="SIZExBATCH")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--amp", action="store_true", help="bfloat16 on both sides")
    parser.add_argument("--avx2", action="store_true", help="hold all to AVX2")
    parser.add_argument("--record", metavar="SECTION", help="section of RESULTS.md to replace")
    args = parser.parse_args()
    if args.avx2 and any(os.environ.get(name) != value for name, value in AVX2.items()):
        # the libraries read these when they are loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **AVX2})
    body = race(args)
    print(body)
    if args.record:
        from racing import record

        record(args.record, body)


if __name__ == "__main__":
    main()
