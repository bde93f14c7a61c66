"""Inference race: float32 latency of seven nets against onnxruntime, OpenVINO and ncnn.

Same weights, same threads, one interleaved run. The best peer counts; OpenVINO with its default
precision (bfloat16 where the CPU has it) runs along as a column of its own.
Usage: python bench/race_infer.py [--nets reference:320 ...] [--threads 1 2] [--rounds 12]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import deepseek_det as dd

import peers  # isort: skip
from race_nets import NETS, Contest, Entry, prepare  # isort: skip
from racing import geometric_mean, interleave, machine, median, record, table  # isort: skip

PEERS: dict[str, Callable[[Path, np.ndarray, int], peers.Run]] = {
    "onnxruntime": peers.onnxruntime_run,
    "openvino": peers.openvino_run,
    "ncnn": peers.ncnn_run,
}
EXTRA = "openvino, own precision"
EACH = 4  # timed calls of a turn


def error_of(mine: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Largest difference relative to the output's largest value, over all outputs."""
    if len(mine) != len(theirs):
        raise ValueError(f"race: {len(mine)} outputs against {len(theirs)}")
    return max(
        float(np.abs(a - b.reshape(a.shape)).max() / max(float(np.abs(a).max()), 1e-30))
        for a, b in zip(mine, theirs, strict=True)
    )


def race(entry: Entry, contest: Contest, threads: int, args: argparse.Namespace) -> dict[str, Any]:
    """One net on so many threads: ms by contestant, the largest error of each, and who failed."""
    dd.set_num_threads(threads)
    contestants: dict[str, Callable[[], Any]] = {"ours": contest.ours}
    errors: dict[str, float] = {}
    mine = [o.copy() for o in contest.as_theirs(contest.ours())]
    for name in args.peers:
        try:
            run = PEERS[name](contest.path, contest.planes, threads)
            errors[name] = error_of(mine, run())
        except Exception as reason:  # whatever a peer can't do leaves the others racing
            failed = f"{entry.name} {entry.size}: {name} does not run: {reason}"
            if failed not in args.failures:
                args.failures.append(failed)
                print(failed, flush=True)
            continue
        contestants[name] = run
    if "openvino" in contestants and args.extra:
        contestants[EXTRA] = peers.openvino_run(contest.path, contest.planes, threads, None)
    times = interleave(contestants, args.rounds, warmup=5, each=EACH)
    ms = {name: 1e3 * median(t) for name, t in times.items()}
    best = min(ms[name] for name in errors)
    ratio = best / ms["ours"]
    low = {name: 1e3 * min(t) for name, t in times.items()}
    return {"ms": ms, "low": low, "errors": errors, "ratio": ratio}


def roofline(entry: Entry, contest: Contest, threads: int, ms: float) -> str:
    """What the machine's measured peaks allow for the steps that we run."""
    found = contest.model.profile(imgsz=entry.size, runs=2)
    peak, memory = found.machine.flops / 1e9, found.machine.bytes_per_second / 1e9
    gflop, megabytes = found.flop / 1e9, found.bytes / 1e6
    return (
        f"- {entry.name} {entry.size}, {threads} thread{'s' * (threads > 1)}: "
        f"{gflop:.3f} GFLOP at {peak:.0f} GFLOP/s {1e3 * gflop / peak:.2f} ms, "
        f"{megabytes:.1f} MB at {memory:.1f} GB/s {megabytes / memory:.2f} ms, "
        f"step by step {found.bound_ms:.2f} ms: {found.bound_ms / ms:.0%} of our time"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    every = [f"{e.name}:{e.size}" for e in NETS]
    parser.add_argument("--nets", nargs="+", default=every, choices=every, metavar="NAME:SIZE")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--extra", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rounds", type=int, default=12, help=f"of {EACH} timed calls each")
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    parser.add_argument("--record", metavar="SECTION", help="section of RESULTS.md to replace")
    args = parser.parse_args()
    args.failures = []
    columns = ["ours", *args.peers, *([EXTRA] if args.extra else [])]
    rows: list[list[str]] = []
    bounds: list[str] = []
    ratios: dict[int, list[float]] = {threads: [] for threads in args.threads}
    with tempfile.TemporaryDirectory() as folder:
        for entry in (e for e in NETS if f"{e.name}:{e.size}" in args.nets):
            try:
                contest = prepare(entry, Path(folder), args.models)
            except (OSError, dd.Error) as reason:
                print(f"{entry.name} {entry.size}: left out: {reason}", flush=True)
                continue
            for threads in args.threads:
                result = race(entry, contest, threads, args)
                ms = result["ms"]
                rows.append(
                    [f"{entry.name} {entry.size}", str(threads)]
                    + [f"{ms[name]:.2f}" if name in ms else "–" for name in columns]
                    + [f"{result['ratio']:.2f}", f"{max(result['errors'].values()):.1e}"]
                )
                ratios[threads].append(result["ratio"])
                bounds.append(roofline(entry, contest, threads, ms["ours"]))
                print(" | ".join(rows[-1]), flush=True)
    lines = [
        f"{threads} thread{'s' * (threads > 1)}: best peer / ours, geometric mean "
        f"{geometric_mean(r):.2f}, least {min(r):.2f} over {len(r)} nets."
        for threads, r in ratios.items()
        if r
    ]
    head = (
        f"{machine()}; {peers.versions()}; milliseconds, median of {EACH * args.rounds}, float32."
    )
    text = table(["net", "threads", *columns, "best peer / ours", "error"], rows)
    note = (
        "Bounds: multiply-adds of the direct convolutions at the measured peak, bytes that the "
        "steps can't do without at the bandwidth of a copy beyond the private caches; a step "
        "needs the larger of both."
    )
    body = "\n\n".join([head, text, "\n".join(lines + args.failures), note, "\n".join(bounds)])
    print(body)
    if args.record:
        record(args.record, body)


if __name__ == "__main__":
    main()
