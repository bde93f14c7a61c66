"""Makes the corpus of fuzz_model: small files and pickles of every kind that the reader knows.

Run from the project's root: python tests/fuzz/make_model_corpus.py.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np

from deepseek_det import _torchfile, checkpoint, nn
from deepseek_det.model import Model

FOLDER = Path(__file__).resolve().parent / "corpus" / "model"


def pickled(value: object) -> bytes:
    """The pickle of our own writer."""
    writer = _torchfile._Writer()
    writer.value(value)
    return bytes(writer.out + b".")


def zipped(pickle: bytes, data: bytes, order: bytes) -> bytes:
    """A file as torch writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in (("data.pkl", pickle), ("byteorder", order), ("data/0", data)):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), part)
    return buffer.getvalue()


net = Model(nn.Sequential(nn.Conv2d(3, 2, 2, bias=False), nn.ReLU()))
weight = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
meta = {
    "graph": net.graph.to_json(net.store),
    "entries": checkpoint.entries(net.store),
    "names": ["a", "ü"],
    "categories": [1, 2**40],
    "model": "net",
    "imgsz": 64,
    "anchors": {"strides": (8, 16), "ratios": [1, 0.5], "scales": [1.0], "base": 3},
    "quant": None,
}
plain = {"a": [1, -2, 2**20, 2**70, 1.5, None, True], "t": (1, (), ("x" * 300,)), "d": {3: []}}
shared = [{"k": "v"}]
files = {
    "model.pickle": pickled({"state_dict": {"0.weight": weight}, "meta": meta}),
    "plain.pickle": pickled(plain),
    "file.pt": zipped(pickled({"w": weight}), weight.tobytes(), b"little"),
    "big_endian.pt": zipped(pickled({"w": weight}), weight.astype(">f4").tobytes(), b"big"),
    "sealed.pt": _torchfile.dumps({"w": weight[0, 0], "x": [1]}),
}
ordered = collections.OrderedDict([("a", shared), ("b", shared)])
for protocol in (2, 4):
    files[f"protocol{protocol}.pickle"] = pickle.dumps([plain, ordered, shared], protocol)
FOLDER.mkdir(parents=True, exist_ok=True)
for name, data in files.items():
    (FOLDER / name).write_bytes(data)
    print(f"{name}: {len(data)} bytes")
