"""torch's zip container, read and written without torch: nested plain values and tensors only.

A file is a zip of stored members below one folder: ``data.pkl`` (a pickle of protocol 2 whose
tensors are persistent ids), ``data/<key>`` (the bytes of a storage), ``byteorder`` and ``version``.

Reading is in C (`csrc/io`) and never runs code: the pickle goes through a small machine, which
knows the operations that plain values and tensors need and a list of allowed names, and refuses the
rest by name. Each size is held against the file's before anything is allocated, so a file can't
unpack into more memory than a small multiple of its own length.

Files written here end with a SHA-256 over all that stands before it, as the zip's comment, which
zip readers pass over. The folder's name says that it must be there, so that a flipped bit is found
wherever it is.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_det import _core

Array = npt.NDArray[Any]

FOLDER = "deepseek_det"
_MARK = b"sha256:"
_HEX = 64

# torch's storage classes, for the types that NumPy has.
_STORAGES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}


# ---- writing ------------------------------------------------------------------------------------


class _Writer:
    """Emits a pickle of protocol 2 and collects the storages that it refers to."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.storages: list[bytes] = []

    def value(self, v: Any) -> None:
        """Appends one value; TypeError for what the format has no place for."""
        if isinstance(v, np.ndarray):
            self._tensor(v)
        elif isinstance(v, np.generic):
            self.value(v.item())
        elif v is None:
            self.out += b"N"
        elif isinstance(v, bool):
            self.out += b"\x88" if v else b"\x89"
        elif isinstance(v, int):
            self._int(int(v))
        elif isinstance(v, float):
            self.out += b"G" + struct.pack(">d", v)
        elif isinstance(v, str):
            text = v.encode("utf-8")
            self.out += b"X" + struct.pack("<I", len(text)) + text
        elif isinstance(v, tuple):
            self._items(b"", v, b"t")
        elif isinstance(v, list):
            self._items(b"]", v, b"e")
        elif isinstance(v, Mapping):
            self._items(b"}", [part for item in v.items() for part in item], b"u")
        else:
            raise TypeError(f"checkpoint: a value of type {type(v).__name__} can't be stored")

    def _items(self, before: bytes, values: Any, after: bytes) -> None:
        self.out += before + b"("
        for v in values:
            self.value(v)
        self.out += after

    def _int(self, v: int) -> None:
        if -(2**31) <= v < 2**31:
            self.out += b"J" + struct.pack("<i", v)
            return
        data = v.to_bytes((v.bit_length() + 8) // 8, "little", signed=True)
        if len(data) > 255:
            raise TypeError("checkpoint: an integer of more than 255 bytes can't be stored")
        self.out += b"\x8a" + bytes([len(data)]) + data

    def _name(self, name: str) -> None:
        module, _, attribute = name.rpartition(".")
        self.out += f"c{module}\n{attribute}\n".encode()

    def _tensor(self, array: Array) -> None:
        kind = array.dtype.newbyteorder("=")
        storage = next((s for s, c in _STORAGES.items() if np.dtype(c) == kind), None)
        if storage is None:
            raise TypeError(f"checkpoint: an array of {array.dtype} can't be stored")
        dense = np.ascontiguousarray(array, kind.newbyteorder("<"))
        self._name("torch._utils._rebuild_tensor_v2")
        self.out += b"(("
        self.value("storage")
        self._name(storage)
        self.value(str(len(self.storages)))
        self.value("cpu")
        self.value(dense.size)
        self.out += b"tQ"
        self.value(0)
        self.value(array.shape)
        self.value(tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim)))
        self.value(False)
        self._name("collections.OrderedDict")
        self.out += b")RtR"
        self.storages.append(dense.tobytes())


def dumps(value: Any) -> bytes:
    """The bytes of a file of nested dict, list, tuple, str, int, float, bool, None and ndarray.

    The same value gives the same bytes. Raises TypeError for other types.

    >>> loads(dumps({"a": np.arange(3), "b": [1, None]}), "x.pt")
    {'a': array([0, 1, 2]), 'b': [1, None]}
    """
    writer = _Writer()
    writer.value(value)
    writer.out += b"."
    members = {"data.pkl": bytes(writer.out), "byteorder": b"little"}
    members |= {f"data/{i}": data for i, data in enumerate(writer.storages)}
    members["version"] = b"3\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"{FOLDER}/{name}"), data)
        archive.comment = _MARK + b"0" * _HEX
    body = buffer.getvalue()[:-_HEX]
    return body + hashlib.sha256(body).hexdigest().encode()


# ---- reading ------------------------------------------------------------------------------------


def loads(data: bytes, name: str) -> Any:
    """What a file's bytes hold; tensors come as arrays, those that share a storage share memory.

    name: of the file, for messages. bfloat16 comes as float32. Raises Error with the file and the
    reason: empty, no torch file, torch's format from before 1.6, truncated, damaged, or holding
    anything but tensors and plain values. Never runs code of the file.
    """
    return _core.torch_read(data, name)
