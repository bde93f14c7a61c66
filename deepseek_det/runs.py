"""Where runs are kept: project/name, with a number behind the name when it is taken."""

from __future__ import annotations

import os
from pathlib import Path

from deepseek_det.errors import Error


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
