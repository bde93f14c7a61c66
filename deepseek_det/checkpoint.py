"""Checkpoints: a model, what it is, and what a run needs to go on, in one file; torch opens it too.

``{"state_dict": {name: tensor}, "meta": {graph, entries, names, …}, "training": {…}}``: meta.graph
is the network as JSON, meta.entries the roles of its parameters, in order; "training" stands in
last.pt only. The container is described in `_torchfile`; no file can run code here.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import numpy.typing as npt

from deepseek_det import _core, _torchfile
from deepseek_det._core import Error

Array = npt.NDArray[Any]

# A value that refers to itself, or to the same part over and over, would keep a walk busy for ever.
_MAX_PARTS, _MAX_DEPTH = 1_000_000, 32
# Where training scripts keep a state dict, best first.
_NESTS = ("state_dict", "model_state_dict", "model", "ema")


class Entry(TypedDict):
    """What meta.entries says of a parameter beside its array."""

    name: str
    role: str
    decay: bool
    lr_factor: float


@dataclass(frozen=True)
class Checkpoint:
    """What `read` returns: what the model is, its arrays by name, a run's state (last.pt only)."""

    meta: dict[str, Any]
    state: dict[str, npt.NDArray[np.float32]]
    training: dict[str, Any] | None = None


# ---- files --------------------------------------------------------------------------------------


def write(
    path: str | os.PathLike[str],
    meta: Mapping[str, Any],
    state: Mapping[str, npt.ArrayLike],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a checkpoint; at any moment, after a kill too, `path` is the old file or the new one.

    meta: plain values (dict, list, str, int, float, bool, None). state: the parameters, stored as
    float32. extra: plain values and arrays, stored as "training". Nothing of a file that could not
    be written stays behind. Raises OSError (full disk, no such folder), TypeError for other values.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/x.pt", {"model": "none"}, {"w": np.ones((2, 3), np.float32)})
    ...     read(f"{folder}/x.pt").state["w"].sum().item()
    6.0
    """
    content: dict[str, Any] = {
        "state_dict": {name: np.asarray(a, np.float32) for name, a in state.items()},
        "meta": dict(meta),
    }
    if extra is not None:
        content["training"] = dict(extra)
    write_bytes(path, _torchfile.dumps(content))


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file atomically: to a temporary one beside it, to the disk, then under its name.

    A temporary file that a killed process left there is removed. Raises OSError naming `path`.
    """
    # through a link, as an ordinary write would go
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _remove_leftovers(target)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.replace(target)
        _sync_folder(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, f"can't be written: {error.strerror}", str(path)) from None
        raise


def _sync_folder(folder: Path) -> None:
    """Makes a rename last; file systems that can't are left alone."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _remove_leftovers(target: Path) -> None:
    form = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.tmp")
    for file in target.parent.iterdir():
        found = form.fullmatch(file.name)
        if found and not _alive(int(found[1])):
            with contextlib.suppress(OSError):
                file.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _read_file(path: str | os.PathLike[str]) -> Any:
    return _torchfile.loads(Path(path).read_bytes(), os.fspath(path))


# ---- content ------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint of this package.

    Raises OSError where there is no such file, Error naming file and reason otherwise: empty,
    truncated, damaged, holding code, or another program's (`read_state_dict` takes those).
    """
    content = _read_file(path)
    if not isinstance(content, dict) or not {"state_dict", "meta"} <= set(content):
        raise Error(
            f"checkpoint: {path} was not written by deepseek_det: it has no state_dict and meta "
            "(load_state_dict takes torch's files)"
        )
    state, meta, training = content["state_dict"], content["meta"], content.get("training")
    if not isinstance(state, dict) or not isinstance(meta, dict):
        raise Error(f"checkpoint: {path}: state_dict and meta are no dicts")
    for name, array in state.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise Error(f"checkpoint: {path}: state_dict: {name!r} is no tensor")
    if training is not None and not isinstance(training, dict):
        raise Error(f"checkpoint: {path}: training is no dict")
    if not all(isinstance(name, str) for part in (meta, training or {}) for name in part):
        raise Error(f"checkpoint: {path}: a key is no text")
    _check_plain(path, meta, arrays=False)
    _check_plain(path, training, arrays=True)
    floats = {n: np.asarray(a, np.float32, order="C") for n, a in state.items()}
    return Checkpoint(meta, floats, training)


def _check_plain(path: str | os.PathLike[str], value: Any, arrays: bool) -> None:
    """Raises Error where a value is endless, too deep, or has a tensor where none belongs."""
    parts, stack = 0, [(value, 0)]
    while stack:
        v, depth = stack.pop()
        parts += 1
        if parts > _MAX_PARTS or depth > _MAX_DEPTH:
            raise Error(f"checkpoint: {path}: its values nest too deeply, refused")
        if isinstance(v, dict):
            stack += [(part, depth + 1) for part in v.values()]
        elif isinstance(v, (list, tuple)):
            stack += [(part, depth + 1) for part in v]
        elif isinstance(v, np.ndarray) and not arrays:
            raise Error(f"checkpoint: {path}: meta holds a tensor")
        elif not isinstance(v, (str, int, float, np.ndarray, type(None))):
            raise Error(f"checkpoint: {path}: a value is no plain one")


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Array]:
    """{name: array} of any torch file (.pt, .pth) that holds tensors, ours too.

    A state dict may stand under "state_dict", "model_state_dict", "model" or "ema"; values that are
    no tensors are passed over, and the prefix "module." of data-parallel training goes. Raises
    OSError where there is no such file, Error naming file and reason for one that can't be used.
    """
    content = _read_file(path)
    for key in _NESTS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    arrays = dict(_arrays(content))
    if not arrays:
        raise Error(f"checkpoint: {path} holds no state dict: there are no named tensors in it")
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    return arrays


def _arrays(content: Any) -> Iterator[tuple[str, Array]]:
    if isinstance(content, dict):
        for name, value in content.items():
            if isinstance(name, str) and isinstance(value, np.ndarray):
                yield name, value


# ---- graphs -------------------------------------------------------------------------------------


def entries(store: _core.Store) -> list[Entry]:
    """meta.entries of a store: roles and optimizer settings by name, in the store's order."""
    return [
        {"name": e["name"], "role": e["role"], "decay": e["decay"], "lr_factor": e["lr_factor"]}
        for e in store.entries()
    ]


def to_graph(
    checkpoint: Checkpoint, path: str | os.PathLike[str]
) -> tuple[_core.Graph, _core.Store]:
    """The network of a checkpoint: its graph over a new store with its parameters.

    path: for messages. Raises Error where meta and parameters do not fit each other.
    """
    meta, state = checkpoint.meta, checkpoint.state
    graph, listed = meta.get("graph"), meta.get("entries")
    if not isinstance(graph, str) or not isinstance(listed, list):
        raise Error(f"checkpoint: {path} holds no network: meta has no graph and entries")
    store = _core.Store()
    try:
        for entry in listed:
            _add_entry(store, cast(Entry, dict(entry)), state)
        rest = [name for name in state if name not in store]
        if rest:
            raise ValueError(f"meta.entries lacks {rest[0]!r} of state_dict")
        return _core.Graph.from_json(graph, store), store
    except (KeyError, TypeError, ValueError, Error) as error:
        what = error.args[0] if error.args else error
        raise Error(f"checkpoint: {path} does not hold together: {what}") from None


def _add_entry(
    store: _core.Store, entry: Entry, state: Mapping[str, npt.NDArray[np.float32]]
) -> None:
    name = entry["name"]
    if name not in state:
        raise ValueError(f"state_dict lacks {name!r} of meta.entries")
    store.add(name, state[name].shape, entry["role"], bool(entry["decay"]))
    store.set_options(name, lr_factor=float(entry["lr_factor"]))
    store.set(name, state[name])
