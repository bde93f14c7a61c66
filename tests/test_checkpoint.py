"""Checkpoints: what is written comes back, nothing else is let in, nothing is half written."""

import collections
import errno
import io
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek_det import Error, _core, _torchfile, checkpoint, nn
from deepseek_det.model import Model

META = {
    "model": "none",
    "names": ["a", "ü"],
    "imgsz": 320,
    "big": 10**12,
    "nested": {"x": [1.5, None]},
}
STATE = {
    "w": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "scalar": np.float32(3),
    "empty": np.zeros((0, 3), np.float32),
}
TRAINING = {
    "m": np.arange(5, dtype=np.float64),
    "step": 7,
    "history": [{"epoch": 1, "ap": 0.5}, {"epoch": 2, "ap": None}],
    "done": False,
}


def torch_file(members: dict[str, bytes], folder: str = "archive", compress: int = 0) -> bytes:
    """A zip as torch.save lays it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as archive:
        for name, data in members.items():
            archive.writestr(f"{folder}/{name}", data)
    return buffer.getvalue()


def tensor_pickle(
    size: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int = 0,
    count: int = 6,
    key: str = "0",
    storage: str = "FloatStorage",
) -> bytes:
    """{"w": one tensor}, written out by hand."""

    def number(n: int) -> bytes:
        data = n.to_bytes(9, "little", signed=True)
        return b"\x8a\x09" + data

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(number(n) for n in values) + b"t"

    def text(t: str) -> bytes:
        return b"X" + len(t).to_bytes(4, "little") + t.encode()

    return b"".join(
        [
            b"\x80\x02}" + text("w"),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            text("storage") + b"ctorch\n" + storage.encode() + b"\n",
            text(key) + text("cpu") + number(count) + b"tQ",
            number(offset) + numbers(size) + numbers(stride),
            b"\x89ccollections\nOrderedDict\n)RtRs.",
        ]
    )


class Runs:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


# ---- there and back -----------------------------------------------------------------------------


def test_write_then_read_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    checkpoint.write(path, META, STATE, TRAINING)
    back = checkpoint.read(path)
    assert back.meta == META
    assert back.state.keys() == STATE.keys()
    for name, array in STATE.items():
        assert back.state[name].shape == array.shape
        assert back.state[name].dtype == np.float32
        np.testing.assert_array_equal(back.state[name], array)
    assert back.training is not None
    np.testing.assert_array_equal(back.training.pop("m"), TRAINING["m"])
    assert back.training == {k: v for k, v in TRAINING.items() if k != "m"}
    assert list(tmp_path.iterdir()) == [path]


def test_write_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    checkpoint.write(a, META, STATE, TRAINING)
    checkpoint.write(b, META, STATE, TRAINING)
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(
    "dtype", ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "?", ">f4", ">i8"]
)
def test_arrays_of_every_type_come_back(dtype: str) -> None:
    array = (np.arange(12) % 2).reshape(3, 4).astype(dtype)
    back = _torchfile.loads(_torchfile.dumps({"a": array.T}), "x.pt")["a"]
    np.testing.assert_array_equal(back, array.T)
    assert back.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, np.zeros(2, "c8"), 2**3000])
def test_write_of_a_value_without_a_place_raises_and_leaves_nothing(
    tmp_path: Path, value: object
) -> None:
    with pytest.raises(TypeError, match="can't be stored"):
        checkpoint.write(tmp_path / "x.pt", {"v": value}, STATE)
    assert not list(tmp_path.iterdir())


def test_write_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.pt", tmp_path / "link.pt"
    checkpoint.write(real, META, STATE)
    link.symlink_to(real)
    checkpoint.write(link, {"model": "new"}, STATE)
    assert link.is_symlink()
    assert checkpoint.read(real).meta == {"model": "new"}


def test_file_opens_in_torch_and_back(tmp_path: Path) -> None:
    torch = _torch_python()
    checkpoint.write(tmp_path / "x.pt", META, STATE, TRAINING)
    script = (
        "import sys, torch\n"
        "d = torch.load(sys.argv[1], weights_only=True)\n"
        "assert d['meta']['nested']['x'] == [1.5, None] and d['meta']['big'] == 10**12\n"
        "assert d['state_dict']['w'].shape == (2, 3, 4) and d['state_dict']['w'].sum() == 276\n"
        "assert d['training']['m'].dtype == torch.float64\n"
        "w = d['state_dict']['w']\n"
        "torch.save({'model': {'t': w[0].t(), 'h': w.half(), 'b': w.bfloat16(),"
        " 'p': torch.nn.Parameter(w), 'n': torch.tensor(3)}, 'epoch': 3}, sys.argv[2])\n"
    )
    subprocess.run(
        [torch, "-c", script, str(tmp_path / "x.pt"), str(tmp_path / "y.pt")], check=True
    )
    back = checkpoint.read_state_dict(tmp_path / "y.pt")
    np.testing.assert_array_equal(back["t"], STATE["w"][0].T)
    for name in ("h", "b", "p"):
        np.testing.assert_array_equal(back[name].astype(np.float32), STATE["w"])
    assert back["n"] == 3


def _torch_python() -> str:
    """An interpreter that has torch: this one, or DEEPSEEK_DET_TORCH_PYTHON."""
    python = os.environ.get("DEEPSEEK_DET_TORCH_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import torch"], capture_output=True).returncode:
        pytest.skip("no torch here (set DEEPSEEK_DET_TORCH_PYTHON to a Python that has it)")
    return python


# ---- foreign files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "tensors", "first"),
    [
        ("fastestdet.pth", 420, (24, 3, 3, 3)),
        ("shufflenetv2_x0.5_backbone.pth", 330, (24, 3, 3, 3)),
    ],
)
def test_read_state_dict_of_a_foreign_file(
    models_root: Path, file: str, tensors: int, first: tuple[int, ...]
) -> None:
    arrays = checkpoint.read_state_dict(models_root / file)
    assert len(arrays) == tensors
    assert next(iter(arrays.values())).shape == first
    assert all(np.isfinite(a).all() for a in arrays.values())


def test_file_that_torch_wrote_is_read() -> None:
    content = checkpoint._read_file(Path(__file__).parent / "golden" / "torch.pt")
    w = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(content["views"]["turned"], w[0].T)
    np.testing.assert_array_equal(content["views"]["part"], w[:, 1:, ::2])
    assert content["views"]["one"] == 23
    assert content["views"]["one"].shape == ()
    expected = {"half": np.float16, "bfloat": np.float32, "int": np.int64, "bool": np.bool_}
    for name, array in content["types"].items():
        assert array.dtype == expected[name]
        np.testing.assert_array_equal(array, w > 7 if name == "bool" else w)
    np.testing.assert_array_equal(content["parameter"], w)
    assert content["empty"].shape == (0, 3)
    assert content["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert content["epoch"] == 3
    assert list(content["model"]) == [
        *("0.weight", "0.bias", "1.weight", "1.bias"),
        *("1.running_mean", "1.running_var", "1.num_batches_tracked"),
    ]


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model", "ema"])
def test_read_state_dict_finds_a_nested_one(tmp_path: Path, nest: str) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(
        _torchfile.dumps({"epoch": 3, nest: {"module.a": STATE["w"], "module.b": STATE["w"]}})
    )
    assert list(checkpoint.read_state_dict(path)) == ["a", "b"]


def test_read_state_dict_without_tensors_raises(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(_torchfile.dumps({"epoch": 3}))
    with pytest.raises(Error, match=r"x\.pth holds no state dict"):
        checkpoint.read_state_dict(path)
    with pytest.raises(Error, match=r"x\.pth was not written by deepseek_det"):
        checkpoint.read(path)


def test_tensors_of_one_storage_share_memory() -> None:
    program = tensor_pickle((2, 3), (3, 1))
    data = torch_file({"data.pkl": program, "data/0": np.arange(6, dtype="<f4").tobytes()})
    np.testing.assert_array_equal(_torchfile.loads(data, "x")["w"], [[0, 1, 2], [3, 4, 5]])
    turned = torch_file(
        {"data.pkl": tensor_pickle((3, 2), (1, 3)), "data/0": np.arange(6, dtype="<f4").tobytes()}
    )
    np.testing.assert_array_equal(_torchfile.loads(turned, "x")["w"], [[0, 3], [1, 4], [2, 5]])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_of_every_pickle_come_back(protocol: int) -> None:
    shared = ["é" * 70_000, 2**31, -(2**31), 2**63, -(2**63) - 1, 10**80, -1, 255, 256, 65536]
    value = {
        "shared": [shared, shared],
        7: (None, True, False, 1.5, -0.0, float("inf"), (), [], {}, (1,), (1, 2), (1, 2, 3)),
        "ordered": collections.OrderedDict(a=1, b=collections.OrderedDict()),
        "many": [*range(3000), {i: str(i) for i in range(1500)}],
    }
    live = _core._alloc_live()
    back = _torchfile.loads(torch_file({"data.pkl": pickle.dumps(value, protocol)}), "x.pt")
    assert back == value
    assert back["shared"][0] is back["shared"][1]
    assert list(back) == list(value)
    assert _core._alloc_live() == live


def test_values_that_hold_themselves_come_back_so() -> None:
    ring: list[Any] = [1]
    ring.append({"ring": (ring,)})
    back = _torchfile.loads(torch_file({"data.pkl": pickle.dumps(ring, 2)}), "x.pt")
    assert back[1]["ring"][0] is back


def test_read_with_each_allocation_failing_raises_and_leaks_nothing() -> None:
    data = _torchfile.dumps({"a": [1, ("x", STATE["w"])], "b": STATE["empty"]})
    live = _core._alloc_live()
    for n in range(1, 1000):
        _core._alloc_fail_at(n)
        try:
            _torchfile.loads(data, "x.pt")
            break
        except MemoryError:
            pass
        finally:
            _core._alloc_fail_at(0)
        assert _core._alloc_live() == live
    assert 3 < n < 1000


def test_big_endian_files_are_turned() -> None:
    members = {
        "data.pkl": tensor_pickle((6,), (1,)),
        "byteorder": b"big",
        "data/0": np.arange(6, dtype=">f4").tobytes(),
    }
    np.testing.assert_array_equal(_torchfile.loads(torch_file(members), "x")["w"], np.arange(6))


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"a text file, quite long enough to be something", "is no checkpoint: it starts with"),
        (b"PK\x03\x04 not really a zip", "truncated or damaged"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.rest", "before 1.6"),
        (b"\x80\x04\x95 a bare pickle", "is no checkpoint"),
        (torch_file({"other": b"x"}), "no data.pkl"),
        (torch_file({"data.pkl": b"\x80\x02}."}, compress=zipfile.ZIP_DEFLATED), "is compressed"),
    ],
)
def test_file_of_another_kind_is_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    for reader in (checkpoint.read, checkpoint.read_state_dict):
        with pytest.raises(Error, match=message) as error:
            reader(path)
        assert "x.pt" in str(error.value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Runs(os.system, "touch pwned"), "system"),
        (Runs(eval, "1 + 1"), "eval"),
        ({"w": [Runs(subprocess.call, ["touch", "pwned"])]}, "call"),
        (Path("x"), "Path"),
        (np.float64(1), "scalar|_codecs"),
    ],
)
def test_code_is_refused_by_name_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, named: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    path.write_bytes(torch_file({"data.pkl": pickle.dumps(value, protocol)}))
    with pytest.raises(Error, match=rf"x\.pt holds (code \(.*({named}).*\)|a pickle op).*refused"):
        checkpoint.read_state_dict(path)
    assert not (tmp_path / "pwned").exists()


FLOATS = np.arange(6, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("program", "storage", "message"),
    [
        (tensor_pickle((7,), (1,)), FLOATS, "does not fit"),
        (tensor_pickle((2, 3), (4, 1)), FLOATS, "does not fit"),
        (tensor_pickle((2,), (1,), offset=5), FLOATS, "does not fit"),
        (tensor_pickle((1 << 40,), (0,)), FLOATS, "does not fit"),
        (tensor_pickle((2,), (-1,), offset=3), FLOATS, "pickle is damaged"),
        (tensor_pickle((-2,), (1,)), FLOATS, "pickle is damaged"),
        (tensor_pickle((2,), (1,), offset=-1), FLOATS, "pickle is damaged"),
        (tensor_pickle((1 << 63,), (1,)), FLOATS, "pickle is damaged"),
        (tensor_pickle((2, 3), (1,)), FLOATS, "pickle is damaged"),
        (tensor_pickle((1,) * 40, (1,) * 40), FLOATS, "pickle is damaged"),
        (tensor_pickle((6,), (1,), count=1 << 40), FLOATS, "were announced"),
        (tensor_pickle((6,), (1,), storage="DoubleStorage"), FLOATS, "were announced"),
        (tensor_pickle((6,), (1,), storage="QUInt8Storage"), FLOATS, "holds code"),
        (tensor_pickle((6,), (1,), key="1"), FLOATS, "data/1 is missing"),
        (tensor_pickle((6,), (1,), key="../../data/0"), FLOATS, "is missing"),
        (b"\x80\x02}", FLOATS, "pickle is damaged"),
        (b"\x80\x02.", FLOATS, "pickle is damaged"),
        (b"\x80\x02]]s.", FLOATS, "pickle is damaged"),
        (b"\x80\x02}]K\x01s.", FLOATS, "pickle is damaged"),
        (b"\x80\x02h\x05.", FLOATS, "pickle is damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fab.", FLOATS, "pickle is damaged"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", FLOATS, "pickle is damaged"),
        (b"", FLOATS, "pickle is damaged"),
    ],
)
def test_tricks_with_tensors_are_refused(program: bytes, storage: bytes, message: str) -> None:
    with pytest.raises(Error, match=message):
        _torchfile.loads(torch_file({"data.pkl": program, "data/0": storage}), "x.pt")


def test_members_that_declare_more_than_the_file_are_refused() -> None:
    data = bytearray(torch_file({"data.pkl": tensor_pickle((6,), (1,)), "data/0": FLOATS}))
    at = data.rindex(b"PK\x01\x02")  # the central directory's last row
    data[at + 20 : at + 28] = (1 << 30).to_bytes(4, "little") * 2
    with pytest.raises(Error, match="declares more bytes than it has"):
        _torchfile.loads(bytes(data), "x.pt")


def test_values_that_nest_for_ever_are_refused(tmp_path: Path) -> None:
    # each list holds the one before twice: 2^40 parts in a hundred bytes
    bomb: list[Any] = []
    for _ in range(25):
        bomb = [bomb, bomb]
    program = pickle.dumps({"state_dict": {}, "meta": {"a": bomb}}, 2)
    path = tmp_path / "x.pt"
    path.write_bytes(torch_file({"data.pkl": program}))
    with pytest.raises(Error, match="nest too deeply"):
        checkpoint.read(path)
    ring: list[Any] = []
    ring.append(ring)
    path.write_bytes(
        torch_file({"data.pkl": pickle.dumps({"state_dict": {}, "meta": {"a": ring}}, 2)})
    )
    with pytest.raises(Error, match="nest too deeply"):
        checkpoint.read(path)


# ---- damage -------------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    checkpoint.write(path, {"model": "m"}, {"w": STATE["w"]}, {"step": 1})
    data = path.read_bytes()
    for i in range(len(data)):
        broken = bytearray(data)
        broken[i] ^= 1 << (i % 8)
        with pytest.raises(Error, match=r"x\.pt"):
            _torchfile.loads(bytes(broken), "x.pt")


def test_every_truncation_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    checkpoint.write(path, {"model": "m"}, {"w": STATE["w"]}, {"step": 1})
    data = path.read_bytes()
    for n in range(len(data)):
        with pytest.raises(Error, match=r"x\.pt"):
            _torchfile.loads(data[:n], "x.pt")
    with pytest.raises(Error, match=r"x\.pt"):
        _torchfile.loads(data + b"\0", "x.pt")


# ---- old or new ---------------------------------------------------------------------------------

CALLS = ("open", "write", "fsync", "close", "replace", "listdir")


def _save_in_child(path: Path, fault: Callable[[], None], call: int) -> int:
    """Saves in a forked process in which the call-th system call of the path goes to `fault`."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*a: Any, **k: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                fault()
            return real(*a, **k)

        return replacement

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    try:
        checkpoint.write(path, {"model": "new"}, STATE, TRAINING)
    except OSError:
        os._exit(2)
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("fails", [False, True], ids=["killed", "failing"])
def test_save_stopped_at_each_system_call_leaves_old_or_new(tmp_path: Path, fails: bool) -> None:
    path = tmp_path / "x.pt"

    def die() -> None:
        os._exit(9)

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    seen = set()
    for call in range(1, 100):
        checkpoint.write(path, {"model": "old"}, STATE)
        code = _save_in_child(path, full if fails else die, call)
        model = checkpoint.read(path).meta["model"]
        seen.add(model)
        if code == 0:
            assert model == "new"
            break
        if fails:
            assert list(tmp_path.iterdir()) == [path]
    else:
        pytest.fail("the save never ended")
    assert seen == {"old", "new"}
    checkpoint.write(path, {"model": "again"}, STATE)  # removes what killed saves left
    assert list(tmp_path.iterdir()) == [path]


def test_write_that_fails_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(FileNotFoundError, match=r"can't be written.*nowhere/x\.pt"):
        checkpoint.write(tmp_path / "nowhere" / "x.pt", META, STATE)
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=r"can't be written.*x\.pt"):
        checkpoint.write(path, META, STATE)
    path.rmdir()

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left.*x\.pt"):
        checkpoint.write(path, META, STATE)
    assert not list(tmp_path.iterdir())


def test_write_into_a_read_only_folder_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.write(tmp_path / "x.pt", META, STATE)

    def refuse(*_: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)  # chmod would not stop root
        with pytest.raises(OSError, match=r"Read-only file system.*x\.pt"):
            checkpoint.write(tmp_path / "x.pt", {"model": "new"}, STATE)
    assert checkpoint.read(tmp_path / "x.pt").meta == META


# ---- networks -----------------------------------------------------------------------------------


def _net() -> Model:
    return Model(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    )


def _meta(net: Model) -> dict[str, Any]:
    return {"graph": net.graph.to_json(net.store), "entries": checkpoint.entries(net.store)}


def test_network_comes_back_with_roles_and_parameters(tmp_path: Path) -> None:
    net = _net()
    net.store.set_options("0.weight", lr_factor=0.5)
    checkpoint.write(tmp_path / "x.pt", _meta(net), net.state_dict())
    read = checkpoint.read(tmp_path / "x.pt")
    graph, store = checkpoint.to_graph(read, "x.pt")
    assert store.entries() == net.store.entries()
    np.testing.assert_array_equal(store.flat(), net.store.flat())
    assert graph.to_json(store) == net.graph.to_json(net.store)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, s: m.pop("graph"), "meta has no graph"),
        (lambda m, s: m.pop("entries"), "meta has no graph"),
        (lambda m, s: s.pop("1.bias"), "state_dict lacks '1.bias'"),
        (lambda m, s: m["entries"].pop(), "meta.entries lacks"),
        (lambda m, s: m["entries"].append(m["entries"][0]), "does not hold together"),
        (lambda m, s: m["entries"][0].pop("role"), "does not hold together"),
        (lambda m, s: m["entries"][0].update(role="boss"), "'trainable'"),
        (lambda m, s: m["entries"].insert(0, 3), "does not hold together"),
        (lambda m, s: m.update(graph=m["graph"][:50]), "does not hold together"),
        (lambda m, s: m.update(graph=m["graph"].replace("0.weight", "0.wait")), "0.wait"),
    ],
)
def test_network_that_does_not_hold_together_is_refused(
    change: Callable[[dict[str, Any], dict[str, Any]], object], message: str
) -> None:
    net = _net()
    meta, state = _meta(net), net.state_dict()
    change(meta, state)
    with pytest.raises(Error, match=message) as error:
        checkpoint.to_graph(checkpoint.Checkpoint(meta, state), "x.pt")
    assert "x.pt" in str(error.value)


def test_files_of_released_versions_stay_readable(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "checkpoint_v1.pt"
    shutil.copy(golden, tmp_path / "x.pt")
    read = checkpoint.read(tmp_path / "x.pt")
    graph, store = checkpoint.to_graph(read, "x.pt")
    assert read.training is not None
    assert read.training["step"] == 7
    assert store.get("0.weight").sum() == pytest.approx(read.meta["sum"], rel=1e-6)
    assert graph.output_names == ["out"]
