"""Runs on disk: project/name, with a number when that is taken, and what a run goes on with."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_det import checkpoint
from deepseek_det.errors import Error

if TYPE_CHECKING:
    from deepseek_det.data import Dataset
    from deepseek_det.train import Settings


def place(project: str | os.PathLike[str], name: str, who: str = "run") -> Path:
    """project/name as a path; ValueError where the words make no folder's name."""
    if not name or "\0" in name or not os.fspath(project):
        raise ValueError(f"{who}: project {str(project)!r} and name {name!r} make no folder's name")
    return Path(project) / name


def claim(
    project: str | os.PathLike[str], name: str, exist_ok: bool = False, who: str = "run"
) -> Path:
    """Makes the folder project/name and returns it; name2, name3, … where it holds something.

    exist_ok: take project/name even so. Two processes never get the same new folder.
    Raises ValueError for a name that is no folder's, Error where a file is in the way, OSError
    where nothing can be made.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (claim(folder, "train") / "results.csv").touch()
    ...     claim(folder, "train").name
    'train2'
    """
    base = place(project, name, who)
    base.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = base if number == 1 else base.with_name(f"{base.name}{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            if not folder.is_dir():
                raise Error(f"{who}: {folder} is a file, a folder was needed") from None
            if exist_ok or not any(folder.iterdir()):
                return folder
        number += 1


def read_last(path: Path) -> dict[str, Any]:
    """The training part of a run's last.pt; Error where there is none."""
    if not path.exists():
        raise Error(f"train: resume: there is no checkpoint {path}")
    training = checkpoint.read(path).training
    if training is None:
        raise Error(f"train: resume: {path} is no run's last.pt, it has no training state")
    return training


def as_started(
    settings: Settings, data: str | os.PathLike[str] | Dataset | None, before: dict[str, Any]
) -> tuple[Settings, str | os.PathLike[str] | Dataset]:
    """The arguments of a run that goes on: its own, where those that came are the defaults.

    before: what `read_last` gave. workers and device may change, they do not touch the result.
    Raises Error for an argument that came and is another than the run's.
    """
    own, initial = before["settings"], type(settings)()
    free = ("workers", "device")
    for name in own.keys() & asdict(settings).keys():
        came = plain(getattr(settings, name))
        if name in free or came == own[name]:
            continue
        if came != plain(getattr(initial, name)):
            raise Error(
                f"train: resume: the run was started with {name}={own[name]!r}, now {came!r} came"
            )
        settings = replace(settings, **{name: own[name]})
    return settings, before["data"] if data is None else data


def plain(value: Any) -> Any:
    """A setting as a checkpoint holds it: sequences are lists."""
    return list(value) if isinstance(value, (tuple, list)) else value
