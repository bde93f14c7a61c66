"""Training race: images per second on the reference net against torch, one interleaved run.

The same weights, loss (mean square of all outputs), AdamW and batch; torch's best of NCHW and
channels_last counts.
Usage: python bench/race_train.py [--threads 1 2] [--rounds 12] [--anchors DIR]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import deepseek_det as dd
from deepseek_det.model import Model

from racing import interleave, machine, median, record, table  # isort: skip
from ref_net import Net, torch_module  # isort: skip


def torch_step(
    folder: Path, x: np.ndarray, state: dict[str, np.ndarray], last: bool
) -> Callable[[], None]:
    net = torch_module(folder).Net()
    net.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=False)
    net.train()
    batch = torch.tensor(x).permute(0, 3, 1, 2).contiguous()
    if last:
        net = net.to(memory_format=torch.channels_last)
        batch = batch.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def step() -> None:
        loss = sum((o * o).mean() for o in net(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(model: Model, x: np.ndarray) -> Callable[[], None]:
    def step() -> None:
        out = model.forward(x)
        model.backward({name: o * np.float32(2 / o.size) for name, o in out.items()})
        model.step(lr=1e-4)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--anchors", type=Path, default=Path("../shared/anchors"))
    parser.add_argument("--shapes", nargs="+", default=["320x8"])
    parser.add_argument("--record", metavar="SECTION", help="section of RESULTS.md to replace")
    args = parser.parse_args()
    rows = []
    for shape in args.shapes:
        size, batch = map(int, shape.split("x"))
        x = np.random.default_rng(0).random((batch, size, size, 3), np.float32)
        for threads in args.threads:
            dd.set_num_threads(threads)
            torch.set_num_threads(threads)
            model = Model(Net())
            contestants = {
                "ours": our_step(model, x),
                "torch NCHW": torch_step(args.anchors, x, model.state_dict(), False),
                "torch channels_last": torch_step(args.anchors, x, model.state_dict(), True),
            }
            times = interleave(contestants, args.rounds, warmup=2)
            speed = {name: batch / median(t) for name, t in times.items()}
            best = max(v for name, v in speed.items() if name != "ours")
            rows.append(
                [f"{size}, batch {batch}", str(threads)]
                + [f"{speed[name]:.1f}" for name in contestants]
                + [f"{speed['ours'] / best:.2f}"]
            )
            print(rows[-1], flush=True)
    text = table(["net", "threads", *contestants, "ours / best peer"], rows)
    head = f"{machine()}; torch {torch.__version__}; images per second, median of {args.rounds}."
    body = f"{head}\n\n{text}"
    print(body)
    if args.record:
        record(args.record, body)


if __name__ == "__main__":
    main()
