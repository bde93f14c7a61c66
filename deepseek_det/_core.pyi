"""The C module. Each area of the binding keeps its functions together."""

import os
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

class Error(Exception):
    """A file, a model or an object is not what the call needs."""

# ---- process (module.c)

class _Config(TypedDict):
    isa: str
    isa_supported: list[str]
    cpu: str
    threads: int
    cpus: int
    compiler: str
    build: str

def get_num_threads() -> int: ...
def set_num_threads(number: int, /) -> None: ...
def config() -> _Config: ...
def _alloc_calls() -> int: ...
def _alloc_live() -> int: ...
def _alloc_fail_at(number: int, /) -> None: ...
def _busy(seconds: float, /) -> None: ...

# ---- pictures and the order of an epoch (py_image.c)

def image_fit(width: int, height: int, side: int, /) -> tuple[float, int, int, int, int]: ...
def image_letterbox(
    image: npt.NDArray[np.uint8], scale: float, width: int, height: int, side: int, /
) -> npt.NDArray[np.uint8]: ...
def image_resize(
    image: npt.NDArray[np.uint8], step: float, width: int, height: int, /
) -> npt.NDArray[np.uint8]: ...
def image_hsv(
    image: npt.NDArray[np.uint8], hue: float, saturation: float, value: float, /
) -> npt.NDArray[np.uint8]: ...
def image_recipe(
    ranges: npt.NDArray[np.float64],
    seed: int,
    epoch: int,
    position: int,
    n: int,
    mixing: bool,
    /,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]: ...
def image_mix_count(mix: float, seed: int, epoch: int, position: int, /) -> int: ...
def image_compose(
    pieces: npt.NDArray[np.float64],
    pictures: Sequence[tuple[Any, ...]],
    min_clipped: float,
    min_visible: float,
    out: npt.NDArray[np.uint8],
    /,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]: ...
def order_permutation(seed: int, epoch: int, n: int, /) -> npt.NDArray[np.uint32]: ...
def order_repeats(
    seed: int, epoch: int, factors: npt.NDArray[np.float64], /
) -> npt.NDArray[np.uint32]: ...
def order_side(seed: int, epoch: int, batch: int, side: int, spread: float, /) -> int: ...

# ---- evaluation (py_evaluate.c)

_Objects = tuple[Any, Any, Any, Any, Any, Any]  # image, class, box, area, crowd, blank
_Detections = tuple[Any, Any, Any, Any]  # image, class, box, score
_CocoParams = tuple[Any, Any, Any, Any, bool]  # iou, recall, areas, max_det, use_classes

class _CocoFile(TypedDict):
    images: dict[str, Any]  # id, width, height (0: missing), name (list of str), line
    categories: dict[str, Any]  # id, name, line
    # id, image_id, category_id, image, category (positions), box (n, 4) xywh, area (NaN: missing),
    # score, crowd, line, segmentation_at, segmentation_bytes
    annotations: dict[str, Any]
    defects: list[tuple[str, str, int, int, str, str]]  # section, reason, index, line, field, value
    defect_counts: dict[tuple[str, str], int]
    sections: list[str]

def json_parse(text: bytes, name: str = "text", /) -> Any: ...
def coco_read(
    source: str | bytes | os.PathLike[str], results: bool = False, name: str | None = None
) -> _CocoFile: ...
def coco_evaluate(
    n_images: int,
    n_classes: int,
    objects: _Objects,
    detections: _Detections,
    params: _CocoParams,
    /,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]: ...
def coco_stats(
    params: _CocoParams,
    n_classes: int,
    areas: tuple[int, int, int, int],
    precision: npt.NDArray[np.float64],
    recall: npt.NDArray[np.float64],
    /,
) -> npt.NDArray[np.float64]: ...
def voc_evaluate(
    n_images: int,
    n_classes: int,
    objects: _Objects,
    detections: _Detections,
    iou: float,
    eleven_points: bool,
    /,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.uint32]]: ...
def confusion_count(
    n_images: int,
    n_classes: int,
    objects: _Objects,
    detections: _Detections,
    score: float,
    iou: float,
    /,
) -> npt.NDArray[np.int64]: ...

# ---- boxes, anchors, assignment, losses, detections (py_detect.c)

_F32 = npt.NDArray[np.float32]
_F64 = npt.NDArray[np.float64]
_I32 = npt.NDArray[np.int32]
_I64 = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]
_AssignOptions = tuple[str, float, float, int, float, float, float, float]

def box_iou(a: _F32, b: _F32, /) -> _F32: ...
def box_best(boxes: _F32, others: _F32, /) -> tuple[_F32, _I32]: ...
def losses() -> list[tuple[str, int, str, tuple[float, ...], str]]: ...
def loss(name: str, x: _F64, t: _F64, params: _F64, reduction: int, /) -> tuple[_F64, _F64]: ...
def class_weights(counts: _F64, beta: float, /) -> _F64: ...
def anchor_grid(
    rows: int, cols: int, stride: float, sizes: _F64, ratios: _F64, /
) -> _F32: ...
def assign(
    anchors: _F32,
    levels: _I64 | None,
    boxes: _F32,
    labels: _I32,
    ignore: _Bools | None,
    logits: _F32 | None,
    deltas: _F32 | None,
    options: _AssignOptions,
    /,
) -> tuple[_I32, _F32, _F32]: ...
def detection_loss(
    outputs: tuple[_F32, _F32, _F32, _I64 | None],
    truth: tuple[_F32, _I32, _Bools | None, _I64],
    class_weights: _F32 | None,
    assign: _AssignOptions,
    criterion: tuple[str, _F64, str, _F64, float, float],
    dlogits: _F32 | None,
    ddeltas: _F32 | None,
    /,
) -> tuple[float, float, float, int]: ...
def nms(
    boxes: _F32, scores: _F32, classes: _I32 | None, iou_threshold: float, max_det: int, /
) -> _I64: ...
def soft_nms(
    boxes: _F32,
    scores: _F32,
    classes: _I32 | None,
    gaussian: bool,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    max_det: int,
    /,
) -> tuple[_I64, _F32]: ...
def detect(
    logits: _F32,
    deltas: _F32,
    anchors: _F32,
    maps: _F32,
    options: tuple[float, float, int, int, bool, bool],
    /,
) -> tuple[_I32, _F32, _F32, _I32, _I32]: ...
