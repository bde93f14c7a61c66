#!/usr/bin/env python3
"""Loads and runs changed ONNX files until the time is up; stops at the first that does worse than
one of our errors, and leaves it in a file.

    python tests/fuzz/onnx_replay.py --seconds 600 --seed 1 [NET.onnx …]

Without nets the changes are of the tests' small one. A crash of the process leaves its file, too:
each is written before it is tried.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from onnx import ModelProto
from onnx_files import mutated, stem, structural, try_bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("nets", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("onnx_replay.onnx"))
    args = parser.parse_args()
    sources = [path.read_bytes() for path in args.nets] or [stem()]
    rng = random.Random(args.seed)
    start, tried, loaded, slowest = time.perf_counter(), 0, 0, 0.0
    while time.perf_counter() - start < args.seconds:
        changed = ModelProto.FromString(rng.choice(sources))
        for _ in range(rng.choice([1, 1, 2, 4, 8])):
            structural(changed, rng)
        data = changed.SerializeToString()
        if rng.random() < 0.3:
            data = mutated(data, rng)
        args.output.write_bytes(data)
        begin = time.perf_counter()
        try:
            loaded += try_bytes(data)
        except Exception:
            traceback.print_exc()
            print(f"file {tried} of seed {args.seed} is in {args.output}", file=sys.stderr)
            return 1
        slowest = max(slowest, time.perf_counter() - begin)
        tried += 1
    args.output.unlink(missing_ok=True)
    print(f"{tried} files, {loaded} of them loaded, the slowest took {slowest:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
