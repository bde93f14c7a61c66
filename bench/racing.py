"""What the races share: interleaved timing, ratios, the machine's line, and the table's file.

A race runs its contestants in turn, round after round, so that all see the same machine; figures
are medians, and only ratios of one run count.
"""

from __future__ import annotations

import datetime
import gc
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

PAUSE_S = 0.04
"""Longer than any contestant's waiting threads spin (OpenMP's 20 ms is the longest)."""
RESULTS = Path(__file__).resolve().parent / "RESULTS.md"


def interleave(
    contestants: dict[str, Callable[[], object]],
    rounds: int,
    warmup: int = 3,
    each: int = 4,
    untimed: int = 2,
) -> dict[str, list[float]]:
    """Seconds of each call, rounds × each of them, contestants taking turns.

    A turn is a pause, in which the last one's threads stop spinning, some calls that are not timed
    (they wake the present one's threads and bring its data back to the caches), and `each` timed
    ones back to back: what a program sees that uses the net in a loop. Who begins changes from
    round to round, so that nobody always has the same neighbours.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        for _ in range(warmup):
            call()
    order = list(contestants)
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name in order:
                call = contestants[name]
                time.sleep(PAUSE_S)
                for _ in range(untimed):
                    call()
                for _ in range(each):
                    start = time.perf_counter()
                    call()
                    times[name].append(time.perf_counter() - start)
            order.append(order.pop(0))
    finally:
        gc.enable()
    return times


def median(values: list[float]) -> float:
    return statistics.median(values)


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs))


def machine() -> str:
    """CPU name, features that matter, cores; the commit and the date."""
    text = Path("/proc/cpuinfo").read_text()
    name = next(
        (line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line), "?"
    )
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    looked_for = (
        "avx2",
        "avx_vnni",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "amx_int8",
        "amx_bf16",
    )
    shown = [f for f in looked_for if f in flags]
    cores = text.count("processor\t")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=RESULTS.parent,
        check=False,
    ).stdout.strip()
    return f"{name}, {cores} cores, {' '.join(shown)}; commit {commit}; {datetime.date.today()}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def record(section: str, body: str) -> None:
    """Replaces the section "## <section>" of RESULTS.md, or appends it."""
    text = RESULTS.read_text() if RESULTS.exists() else "# Results\n"
    head = f"## {section}\n"
    before, found, after = text.partition(head)
    rest = ""
    if found:
        next_section = after.find("\n## ")
        rest = after[next_section + 1 :] if next_section >= 0 else ""
    else:
        before = text.rstrip("\n") + "\n\n"
    RESULTS.write_text(before + head + "\n" + body.strip() + "\n" + ("\n" + rest if rest else ""))
