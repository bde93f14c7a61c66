"""torch's zip container, read and written without torch: nested plain values and tensors only.

A file is a zip of stored members below one folder: ``data.pkl`` (a pickle of protocol 2 whose
tensors are persistent ids), ``data/<key>`` (the bytes of a storage), ``byteorder`` and ``version``.

Reading never runs code: the pickle goes through the small machine below, which knows the operations
that plain values and tensors need and a list of allowed names, and refuses the rest by name. Each
size is held against the file's before anything is allocated, so a file can't unpack into more
memory than a small multiple of its own length.

Files written here end with a SHA-256 over all that stands before it, as the zip's comment, which
zip readers pass over. The folder's name says that it must be there, so that a flipped bit is found
wherever it is.
"""

from __future__ import annotations

import hashlib
import io
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from deepseek_det._core import Error

Array = npt.NDArray[Any]

FOLDER = "deepseek_det"
_MARK = b"sha256:"
_HEX = 64
# The head of torch's files from before version 1.6: a pickled magic number instead of a zip.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_DIMS = 32

# torch's storage classes; bfloat16 has no NumPy type and becomes float32.
_STORAGES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}
_CALLS = {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
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
        storage = next((s for s, c in _STORAGES.items() if c != "u2" and np.dtype(c) == kind), None)
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


# ---- reading: the pickle ------------------------------------------------------------------------


class _Name(str):
    """A name that a pickle refers to, from the allowed list; never the thing itself."""


class _Mark:
    """Where a run of items begins on the stack."""


class _Storage:
    """The bytes of one storage, typed."""

    def __init__(self, data: Array) -> None:
        self.data = data


class _Machine:
    """Runs a pickle that builds plain values and tensors."""

    def __init__(self, name: str, storage: Callable[[str, str, int], Array]) -> None:
        self.name = name
        self.storage = storage
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        for operation, argument, _ in pickletools.genops(program):
            if operation.name == "STOP":
                break
            handler = _OPERATIONS.get(operation.name)
            if handler is None:
                raise Error(
                    f"checkpoint: {self.name} holds a pickle operation that tensors do not need "
                    f"({operation.name}), refused"
                )
            handler(self, argument)
        if len(self.stack) != 1:
            raise ValueError(f"{len(self.stack)} values are left")
        return self.stack[0]

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_items(self) -> list[Any]:
        """What stands above the last mark."""
        items: list[Any] = []
        while True:
            item = self.stack.pop()
            if isinstance(item, _Mark):
                items.reverse()
                return items
            items.append(item)

    def name_of(self, module: str, attribute: str) -> None:
        name = f"{module}.{attribute}"
        if name not in _CALLS and name not in _STORAGES:
            raise Error(f"checkpoint: {self.name} holds code ({name}), refused")
        self.stack.append(_Name(name))

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items for something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise ValueError(f"a key of type {type(key).__name__}")
            target[key] = value

    def append_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("items for something that is no list")
        self.stack[-1].extend(items)

    def build(self) -> None:
        """A module's state dict carries `_metadata`, which says nothing about its tensors."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise ValueError("a state for something that is no dict")

    def persistent(self) -> None:
        tag, kind, key, _place, count = self.stack.pop()
        if tag != "storage" or not isinstance(kind, _Name) or kind not in _STORAGES:
            raise ValueError("a persistent id that is no storage")
        if type(key) is not str or type(count) is not int:
            raise ValueError("a storage without key or length")
        self.stack.append(_Storage(self.storage(kind, key, count)))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no allowed name")
        if function == "collections.OrderedDict" and arguments == ():
            self.stack.append({})
        elif function == "torch.Size":
            (size,) = arguments
            self.stack.append(tuple(size))
        elif function == "torch._utils._rebuild_tensor_v2":
            self.stack.append(self.tensor(*arguments[:4]))
        elif function == "torch._utils._rebuild_parameter":
            tensor = arguments[0]
            if not isinstance(tensor, np.ndarray):
                raise ValueError("a parameter that is no tensor")
            self.stack.append(tensor)
        else:
            raise ValueError(f"a call of {function}")

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> Array:
        """A view of a storage; sizes, strides and offset are held against the storage's length."""
        if not isinstance(storage, _Storage) or len(size) != len(stride) or len(size) > _MAX_DIMS:
            raise ValueError("a tensor without storage, size or stride")
        numbers = [offset, *size, *stride]
        if not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
            raise ValueError(f"a tensor of size {size}, stride {stride}, offset {offset}")
        data = storage.data
        count = 1
        for n in size:
            count *= n
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if count and (last >= data.size or count > data.size):
            raise Error(
                f"checkpoint: {self.name}: a tensor of size {tuple(size)}, stride {tuple(stride)}, "
                f"offset {offset} does not fit into its storage of {data.size} elements"
            )
        if not count:
            return np.empty(size, data.dtype)
        strides = [s * data.itemsize for s in stride]
        return np.lib.stride_tricks.as_strided(data[offset:], size, strides)


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _tuple_of(n: int) -> Callable[[_Machine, Any], None]:
    def handler(machine: _Machine, argument: Any) -> None:
        items = [machine.pop() for _ in range(n)]
        machine.stack.append(tuple(reversed(items)))

    return handler


def _put(machine: _Machine, argument: Any) -> None:
    machine.memo[len(machine.memo) if argument is None else argument] = machine.stack[-1]


def _global(machine: _Machine, argument: Any) -> None:
    module, _, attribute = argument.partition(" ")
    machine.name_of(module, attribute)


def _stack_global(machine: _Machine, argument: Any) -> None:
    attribute, module = str(machine.pop()), str(machine.pop())
    machine.name_of(module, attribute)


def _set_item(machine: _Machine, argument: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, a: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _push),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, a: m.stack.append(m.memo[a])),
    "NONE": lambda m, a: m.stack.append(None),
    "NEWTRUE": lambda m, a: m.stack.append(True),
    "NEWFALSE": lambda m, a: m.stack.append(False),
    "MARK": lambda m, a: m.stack.append(_Mark()),
    "EMPTY_TUPLE": lambda m, a: m.stack.append(()),
    "EMPTY_LIST": lambda m, a: m.stack.append([]),
    "EMPTY_DICT": lambda m, a: m.stack.append({}),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda m, a: m.stack.append(tuple(m.pop_items())),
    "APPEND": lambda m, a: m.append_items([m.pop()]),
    "APPENDS": lambda m, a: m.append_items(m.pop_items()),
    "SETITEM": _set_item,
    "SETITEMS": lambda m, a: m.set_items(m.pop_items()),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "BINPERSID": lambda m, a: m.persistent(),
    "REDUCE": lambda m, a: m.reduce(),
    "BUILD": lambda m, a: m.build(),
}


# ---- reading: the zip ---------------------------------------------------------------------------


class _Archive:
    """The members of a file, their sizes held against the file's."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.zip = zipfile.ZipFile(io.BytesIO(data))
        infos = self.zip.infolist()
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED:
                raise Error(f"checkpoint: {name}: {info.filename} is compressed, refused")
        if sum(info.file_size for info in infos) > len(data):
            raise Error(f"checkpoint: {name} declares more bytes than it has, refused")
        roots = [i.filename for i in infos if re.fullmatch(r"[^/]*/data\.pkl", i.filename)]
        if len(roots) != 1:
            raise Error(f"checkpoint: {name} is a zip, but holds no data.pkl as torch.save writes")
        self.folder = roots[0].removesuffix("/data.pkl")
        self.order = "<"
        if f"{self.folder}/byteorder" in self.zip.namelist():
            self.order = ">" if self.member("byteorder") == b"big" else "<"
        self.storages: dict[str, Array] = {}

    def member(self, path: str) -> bytes:
        return self.zip.read(f"{self.folder}/{path}")

    def storage(self, kind: str, key: str, count: int) -> Array:
        """The elements of a storage; each is read once, tensors share it."""
        known = f"{kind} {key}"
        if known not in self.storages:
            dtype = np.dtype(self.order + _STORAGES[kind].replace("?", "b1"))
            path = f"data/{key}"
            try:
                data = bytearray(self.member(path))
            except KeyError:
                raise Error(f"checkpoint: {self.name} is incomplete: {path} is missing") from None
            if len(data) != count * dtype.itemsize:
                raise Error(
                    f"checkpoint: {self.name}: {path} has {len(data)} bytes, "
                    f"{count} elements of {dtype.itemsize} were announced"
                )
            array = np.frombuffer(data, dtype)
            if kind == "torch.BFloat16Storage":
                array = (array.astype(np.uint32) << 16).view(np.float32)
            elif self.order == ">":
                array = array.astype(dtype.newbyteorder("="))
            self.storages[known] = array
        return self.storages[known]


def _verified(data: bytes, name: str) -> bool:
    """Whether a checksum stands at the end and is right; raises Error where it is wrong."""
    body = data[:-_HEX]
    if not body.endswith(_MARK):
        return False
    if hashlib.sha256(body).hexdigest().encode() != data[-_HEX:]:
        raise Error(f"checkpoint: {name} is damaged: its checksum differs")
    return True


def loads(data: bytes, name: str) -> Any:
    """What a file's bytes hold; tensors come as arrays, those that share a storage share memory.

    name: of the file, for messages. Raises Error with the file and the reason: empty, no torch
    file, torch's format from before 1.6, truncated, damaged, or holding anything but tensors and
    plain values. Never runs code of the file.
    """
    if not data:
        raise Error(f"checkpoint: {name} is empty")
    if data.startswith(_LEGACY):
        raise Error(
            f"checkpoint: {name} is in torch's format from before 1.6; load it in torch and save "
            "it again with torch.save(state_dict, path)"
        )
    if not data.startswith(b"PK\x03\x04"):
        # a damaged file of ours still has its mark at the end: then that is the better message
        _verified(data, name)
        raise Error(f"checkpoint: {name} is no checkpoint: it starts with {data[:12]!r}")
    verified = _verified(data, name)
    try:
        archive = _Archive(data, name)
        if archive.folder == FOLDER and not verified:
            raise Error(f"checkpoint: {name} is damaged: its checksum is missing")
        program = archive.member("data.pkl")
        storage = cast(Callable[[str, str, int], Array], archive.storage)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise Error(f"checkpoint: {name} is truncated or damaged ({error})") from None
    try:
        return _Machine(name, storage).run(program)
    except zipfile.BadZipFile as error:
        raise Error(f"checkpoint: {name} is damaged ({error})") from None
    except (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise Error(f"checkpoint: {name}: its pickle is damaged ({error})") from None
