#!/usr/bin/env python3
"""Reads changed label files of every format until the runs are done; stops at the first that does
worse than one of our errors, and leaves it in a file.

    python tests/fuzz/data_replay.py --runs 1000000 --seed 1 [voc yolo yaml kitti csv coco lvis]

A run is one text through a format's parser and checks, in memory: no file is opened, no image read
(each is taken for one of 64×48 pixels). The corpus of tests/fuzz/corpus seeds the changes; the C
reader of JSON has libFuzzer on it as well (fuzz_json). What is checked: nothing but `Error` is
raised, every defect has a known code, every box that passes is sound, and the peak of memory stays
within twice the text plus 64 MB (`--memory`, slower).
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import time
import traceback
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_det import Error, _core
from deepseek_det.data import coco, kitti, lvis, tables, voc, yolo
from deepseek_det.data.decode import Picture
from deepseek_det.data.records import Classes, Found, Intake

CORPUS = Path(__file__).resolve().parent / "corpus"
FILE, ROOT = Path("/set/labels/a.txt"), Path("/set")
PICTURE = Picture(64, 48, (64, 48), 1, 1, "RGB")
NAMES = ["cat", "dog", "Car"]
PIECES = (
    *(b"0", b"-1", b"1e400", b"nan", b"inf", b"9007199254740993", b"0x1", b"1_0", b"\xff", b"\0"),
    *(b"\n", b"\r", b" ", b"\t", b",", b";", b'"', b"'", b"<", b">", b"&", b"/", b"..", b"*", b"#"),
    *(b"[", b"]", b"{", b"}", b":", b"- ", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xed\xa0\x80"),
    *(b"<object>", b"</object>", b"<bndbox>", b"<xmin>", b"<!DOCTYPE a>", b"<![CDATA[", b"&amp;"),
    *(b"names", b"train", b"&a ", b"*a", b"!!", b"DontCare", b"difficult", b"filename", b"XMin"),
    *(b'"id"', b'"bbox"', b'"images"', b'"coco_url"', b'"neg_category_ids"', b"null", b"true"),
)


def sound(found: list[Found], intake: Intake) -> int:
    """Passes boxes through the common checks; returns how many there are, after a look at each."""
    record = intake.record(FILE, "a", PICTURE, (64, 48), found, FILE)
    x0, y0, x1, y1 = record.boxes.T
    assert ((x0 >= 0) & (y0 >= 0) & (x1 > x0) & (y1 > y0) & (x1 <= 64) & (y1 <= 48)).all()
    assert len(record.labels) == len(record.ignore) == len(record.boxes)
    return len(record.boxes)


def try_voc(data: bytes) -> int:
    intake = Intake(ROOT)
    try:
        file = voc.parse(data)
    except voc.XmlRefused as refused:
        intake.reject(FILE, refused.line, refused.code, "xml", "", refused.text)
        return 0
    names = sorted(voc._object_names(file)) or NAMES
    layout = voc.Layout(ROOT, ROOT, ROOT, None)
    classes = Classes(names, list(range(len(names))))
    for name, line in [file.fields.get("filename", ("", 0))]:
        intake.inside(ROOT, name, FILE, line, "filename", ROOT)
    voc._declared(file)
    return sound(layout._boxes(FILE, file, classes, intake, None), intake)


def try_yolo(data: bytes) -> int:
    intake = Intake(ROOT)
    names = dict(enumerate(NAMES))
    classes = Classes(NAMES, list(names))
    rows = yolo.rows_of(data, FILE, intake)
    return sound(list(yolo.boxes_of(rows, FILE, (64, 48), classes, names, intake)), intake)


def try_yaml(data: bytes) -> int:
    content = yolo.yaml_of(data, FILE)
    names = yolo._yaml_names(FILE, content) or {}
    assert all(isinstance(n, str) and n for n in names.values())
    return len(names)


def try_kitti(data: bytes) -> int:
    intake = Intake(ROOT)
    classes = Classes(NAMES, list(range(len(NAMES))))
    return sound(
        list(kitti.boxes_of(yolo.rows_of(data, FILE, intake), FILE, classes, intake)), intake
    )


def try_csv(data: bytes) -> int:
    intake = Intake(ROOT)
    stream = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    try:
        rows = tables.rows_of(tables._lines(stream, FILE), FILE, intake)
    except UnicodeDecodeError:
        return 0  # read_rows makes an Error of it
    boxes = tables._columns(rows, FILE, sorted(set(rows.labels)), intake)
    for name in rows.images:
        intake.inside(ROOT, name, FILE, 1, "image", ROOT)
    found = [boxes.of(i) for i in range(len(rows.images))]
    if rows.header.fractions:
        found = [[tables._in_pixels(f, PICTURE) for f in each] for each in found]
    return sum(sound(each, intake) for each in found)


def try_json(data: bytes, federated: bool) -> int:
    intake = Intake(ROOT)
    file = _core.coco_read(data, name="fuzz")
    coco._take_defects(FILE, file, intake)
    if len(file["sections"]) < 3:
        return 0
    if federated:
        for what in ("negative", "partial"):
            lvis._lists(FILE, data, file["images"], what)
    names, ids = coco._categories(FILE, file, intake)
    boxes = coco._boxes(FILE, file, Classes(names, ids), intake)
    for name in file["images"]["name"]:
        intake.inside(ROOT, name, FILE, 1, "file_name", ROOT)
    return sum(sound(boxes.of(i), intake) for i in range(len(file["images"]["name"])))


TARGETS: dict[str, tuple[str, Callable[[bytes], Any]]] = {
    "voc": ("voc", try_voc),
    "yolo": ("yolo", try_yolo),
    "yaml": ("yaml", try_yaml),
    "kitti": ("kitti", try_kitti),
    "csv": ("csv", try_csv),
    "coco": ("json", lambda data: try_json(data, False)),
    "lvis": ("json", lambda data: try_json(data, True)),
}


def changed(seeds: list[bytes], rng: random.Random) -> bytes:
    """A seed with one to eight changes: bytes put, cut, doubled, moved, or of another seed."""
    data = bytearray(seeds[int(rng.random() * len(seeds))])
    for _ in range(1 << int(rng.random() ** 2 * 4)):
        at = int(rng.random() * (len(data) + 1))
        kind, span = int(rng.random() * 7), int(rng.random() ** 3 * 40) + 1
        if kind == 0:
            data[at : at + 1] = bytes([int(rng.random() * 256)])
        elif kind == 1:
            del data[at : at + span]
        elif kind == 2:
            data[at:at] = data[at : at + span] * (1 + int(rng.random() * 3))
        elif kind == 3:
            data[at:at] = PIECES[int(rng.random() * len(PIECES))]
        elif kind == 4:
            data[at : at + span] = PIECES[int(rng.random() * len(PIECES))]
        elif kind == 5:
            other = seeds[int(rng.random() * len(seeds))]
            start = int(rng.random() * (len(other) + 1))
            data[at : at + span] = other[start : start + span]
        else:
            to = int(rng.random() * (len(data) + 1))
            data[to:to] = data[at : at + span]
    return bytes(data)


def replay(name: str, runs: int, seed: int, output: Path, memory: bool = False) -> bool:
    """Runs one format; True where nothing was found."""
    folder, target = TARGETS[name]
    seeds = [f.read_bytes() for f in sorted((CORPUS / folder).iterdir())]
    assert seeds, f"{CORPUS / folder} is empty"
    rng = random.Random(f"{name} {seed}")
    start, passed, slowest, peak = time.perf_counter(), 0, 0.0, 0
    if memory:
        tracemalloc.start()
    for number in range(runs):
        data = seeds[number] if number < len(seeds) else changed(seeds, rng)
        if memory:
            tracemalloc.reset_peak()
        begin = time.perf_counter()
        try:
            passed += target(data) > 0
        except Error:
            pass
        except Exception:
            traceback.print_exc()
            output.write_bytes(data)
            print(f"{name}: run {number} of seed {seed} is in {output}", file=sys.stderr)
            return False
        slowest = max(slowest, time.perf_counter() - begin)
        if memory:
            used = tracemalloc.get_traced_memory()[1]
            peak = max(peak, used)
            assert used <= 2 * len(data) + (64 << 20), (name, number, used)
    if memory:
        tracemalloc.stop()
    seconds = time.perf_counter() - start
    more = f", peak of {peak >> 10} KiB" if memory else ""
    print(
        f"{name}: {runs} runs, {passed} with boxes or names, {seconds:.0f} s, "
        f"the slowest {slowest * 1000:.0f} ms{more}",
        flush=True,
    )
    return True


def main() -> int:
    """Runs the formats that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("formats", nargs="*", choices=[*TARGETS, []])
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", action="store_true", help="look at the peak of memory, too")
    parser.add_argument("--output", type=Path, default=Path("data_replay.bin"))
    args = parser.parse_args()
    np.seterr(all="raise", under="ignore")
    good = [
        replay(name, args.runs, args.seed, args.output, args.memory)
        for name in args.formats or TARGETS
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
