"""Writes a data set in another layout; what survives stands in `writers`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from deepseek_det.data.datasets import Dataset, load, recognise
from deepseek_det.data.writers import WRITERS, Conversion, check_format, check_target, write
from deepseek_det.errors import Error

FORMATS = tuple(WRITERS)


def convert(
    src: str | os.PathLike[str] | Dataset,
    dst: str | os.PathLike[str],
    format: str = "coco",
    splits: Sequence[str] | None = None,
    strict: bool = False,
    images: str | os.PathLike[str] | None = None,
    voc_one_based: bool | None = None,
) -> Conversion:
    """Writes `src` to the new folder `dst` in one of `FORMATS`:
    "coco", "lvis", "voc", "yolo", "kitti" or "csv".

    src: as for `load`, or a `Dataset` (its one split). dst: must not exist, or be empty; it appears
    when everything is written, not before. splits: the names to convert, all by default. strict,
    images, voc_one_based: as for `load`. Raises `Error` for a full target and what `load` refuses,
    ValueError for another format.
    """
    check_format(format, "convert")
    check_target(dst, "convert")
    return write(load_all(src, splits, strict, images, voc_one_based), dst, format, "convert")


def load_all(
    src: str | os.PathLike[str] | Dataset,
    splits: Sequence[str] | None,
    strict: bool,
    images: str | os.PathLike[str] | None,
    voc_one_based: bool | None,
) -> list[Dataset]:
    """The splits of a data set, all with the same classes, else an `Error`.

    splits: names, all by default; trainval is left out where train and val are there.
    """
    if isinstance(src, Dataset):
        return [src]
    wanted = list(splits) if splits is not None else recognise(src, images).splits()
    # trainval repeats train and val; it is made when asked for.
    if splits is None and {"train", "val", "trainval"} <= set(wanted):
        wanted.remove("trainval")
    sets = [load(src, s, strict, images, voc_one_based=voc_one_based) for s in wanted]
    first = sets[0]
    for data in sets[1:]:
        if data.names != first.names:
            raise Error(
                f"convert: {data.root}: split {data.split!r} has the classes {data.names}, "
                f"{first.split!r} has {first.names}; convert them one by one"
            )
    return sets
