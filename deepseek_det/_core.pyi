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
    # id, width, height (0: missing), name (list of str), line; LVIS' lists by their place in the
    # text: negative_at, negative_bytes, partial_at, partial_bytes
    images: dict[str, Any]
    categories: dict[str, Any]  # id, name, line, frequency (ord of LVIS' r, c, f; 0: none)
    # id, image_id, category_id, image, category (positions), box (n, 4) xywh, area (NaN: missing),
    # score, crowd, line, num_keypoints (-1: missing), and by their place in the text
    # segmentation_at, segmentation_bytes, keypoints_at, keypoints_bytes. Of results image_id,
    # category_id, box and score only, and the places where there are any
    annotations: dict[str, Any]
    defects: list[tuple[str, str, int, int, str, str]]  # section, reason, index, line, field, value
    defect_counts: dict[tuple[str, str], int]
    sections: list[str]
    text: npt.NDArray[np.uint8]  # with keep=True only

def json_parse(text: bytes, name: str = "text", /) -> Any: ...
def coco_read(
    source: str | bytes | os.PathLike[str],
    results: bool = False,
    name: str | None = None,
    keep: bool = False,  # the dict gets "text", the file and a NUL byte as uint8
) -> _CocoFile: ...
def id_positions(
    ids: npt.NDArray[np.int64], sorted: npt.NDArray[np.int64], /
) -> npt.NDArray[np.int32]: ...
def coco_evaluate(
    n_images: int,
    n_classes: int,
    objects: _Objects,
    detections: _Detections,
    params: _CocoParams,
    # any of ignore, detection_area, partial, object_masks, detection_masks, points
    extra: dict[str, Any] | None = None,
    /,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]: ...
def coco_match(
    n_images: int,
    n_classes: int,
    objects: _Objects,
    detections: _Detections,
    params: _CocoParams,
    extra: dict[str, Any] | None = None,
    /,
) -> tuple[
    npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.int32]
]: ...
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
) -> tuple[
    npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.uint32]
]: ...
def confusion_count(
    n_images: int,
    n_classes: int,
    objects: _Objects,
    detections: _Detections,
    score: float,
    iou: float,
    /,
) -> npt.NDArray[np.int64]: ...

# ---- masks (py_mask.c); a mask is {"size": [h, w], "counts": bytes or str}

_Masks = Sequence[Any]

def mask_encode(pixels: npt.NDArray[np.uint8], /) -> list[dict[str, Any]]: ...
def mask_from(rows: Sequence[Any], h: int, w: int, kind: int, /) -> list[dict[str, Any]]: ...
def mask_merge(masks: _Masks, intersect: bool, /) -> dict[str, Any]: ...
def mask_decode(masks: _Masks, /) -> npt.NDArray[np.uint8]: ...
def mask_measures(masks: _Masks, /) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]: ...
def mask_iou(
    detections: _Masks, objects: _Masks, crowd: npt.NDArray[np.bool_], /
) -> npt.NDArray[np.float64]: ...
def mask_set(
    name: str, text: Any, at: Any, bytes: Any, h: Any, w: Any, box: Any, /
) -> tuple[Any, npt.NDArray[np.float64], npt.NDArray[np.float64]]: ...
def points_read(
    name: str, text: Any, at: Any, bytes: Any, count: int, /
) -> npt.NDArray[np.float64]: ...

# ---- boxes, anchors, assignment, losses, detections (py_detect.c)

_F32 = npt.NDArray[np.float32]
_F64 = npt.NDArray[np.float64]
_I32 = npt.NDArray[np.int32]
_I64 = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]

class _AnchorRule(TypedDict):
    strides: tuple[int, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    base: float

_AssignOptions = tuple[str, float, float, int, float, float, float, float]

def box_iou(a: _F32, b: _F32, /) -> _F32: ...
def box_best(boxes: _F32, others: _F32, /) -> tuple[_F32, _I32]: ...
def losses() -> list[tuple[str, int, str, tuple[float, ...], str]]: ...
def loss(name: str, x: _F64, t: _F64, params: _F64, reduction: int, /) -> tuple[_F64, _F64]: ...
def class_weights(counts: _F64, beta: float, /) -> _F64: ...
def anchor_grid(rows: int, cols: int, stride: float, sizes: _F64, ratios: _F64, /) -> _F32: ...
def anchor_rule() -> _AnchorRule: ...
def detector_anchors(
    height: int, width: int, strides: _I64, scales: _F64, ratios: _F64, base: float, /
) -> tuple[_F32, _I64]: ...
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

# ---- the matching of label quality (py_match.c)

def assignment(cost: _F64, /) -> _I32: ...
def match_labels(
    boxes_a: _F32, labels_a: _I32, boxes_b: _F32, labels_b: _I32, iou: float, near: float, /
) -> tuple[_I32, _F32]: ...

# ---- graphs and runs (py_store.c, py_graph.c, py_run.c, py_plan.c, py_optim.c)

_Array = npt.NDArray[Any]
# (dtype, shape), or a shape alone for the dtype that the input has
_InputType = tuple[str, Sequence[int]] | Sequence[int]

class _Entry(TypedDict):
    name: str
    index: int
    role: str
    shape: tuple[int, ...]
    offset: int
    count: int
    lr_factor: float
    decay: bool
    frozen: bool

class Store:
    """All parameters of a model in one flat float32 array."""

    def __new__(cls) -> Store: ...
    def add(
        self, name: str, shape: Sequence[int], role: str = "trainable", decay: bool = False
    ) -> int: ...
    def entry(self, name: str, /) -> _Entry: ...
    def entries(self) -> list[_Entry]: ...
    def set_options(
        self,
        name: str,
        lr_factor: float | None = None,
        frozen: bool | None = None,
        decay: bool | None = None,
    ) -> None: ...
    def get(self, name: str, /) -> npt.NDArray[np.float32]: ...
    def set(self, name: str, array: npt.ArrayLike, /) -> None: ...
    # a view of all values: no entry can be added while it lives; call touch() after writing
    def flat(self) -> npt.NDArray[np.float32]: ...
    def touch(self) -> None: ...
    def copy(self) -> Store: ...
    def __len__(self) -> int: ...
    def __contains__(self, name: object, /) -> bool: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def size(self) -> int: ...
    @property
    def version(self) -> int: ...

class _Node(TypedDict):
    op: str
    name: str
    inputs: list[int]
    outputs: list[int]
    params: dict[str, Any]
    opaque: bool
    backward: bool
    n_saved: int

class _Value(TypedDict):
    name: str
    kind: str
    producer: int
    slot: int
    entry: int

class _Types(TypedDict):
    values: list[tuple[str, tuple[int, ...]] | None]
    outputs: dict[str, tuple[str, tuple[int, ...]]]
    macs: int

class _Layer(TypedDict):
    name: str
    op: str
    shape: tuple[int, ...]
    params: int
    macs: int

class Graph:
    """Operators and values in topological order: the only description of a network."""

    def __new__(cls) -> Graph: ...
    def input(self, name: str, dtype: str, shape: Sequence[int], /) -> int: ...
    def entry(self, store: Store, name: str, /) -> int: ...
    def node(
        self,
        op: str,
        name: str,
        inputs: Sequence[int | None],
        params: dict[str, Any] | None = None,
        n_outputs: int = 0,
    ) -> list[int]: ...
    def output(self, name: str, value: int, /) -> None: ...
    def prune_dead(self) -> None: ...
    def infer(self, store: Store, inputs: Sequence[_InputType], /) -> _Types: ...
    def macs(self, store: Store, inputs: Sequence[_InputType], /) -> int: ...
    def layers(self, store: Store, inputs: Sequence[_InputType], /) -> list[_Layer]: ...
    def nodes(self) -> list[_Node]: ...
    def values(self) -> list[_Value]: ...
    def to_json(self, store: Store, /) -> str: ...
    @staticmethod
    def from_json(text: str, store: Store, /) -> Graph: ...
    def copy(self) -> Graph: ...
    def differentiate(self, store: Store, inputs_too: bool = False) -> Graph: ...
    def deploy(self, store: Store, /) -> tuple[Graph, Store]: ...
    # name, dtype, shape with -1 where free, value
    @property
    def inputs(self) -> list[tuple[str, str, tuple[int, ...], int]]: ...
    @property
    def outputs(self) -> list[tuple[str, int]]: ...
    @property
    def output_names(self) -> list[str]: ...
    # value, index of the entry whose gradient it is a part of
    @property
    def gradients(self) -> list[tuple[int, int]]: ...
    @property
    def training(self) -> bool: ...

class Interpreter:
    """Runs a graph in plain C, one operator at a time: the oracle of tests."""

    def __new__(
        cls, graph: Graph, store: Store, inputs: Sequence[_InputType], seed: int = 0
    ) -> Interpreter: ...
    def forward(self, inputs: Sequence[npt.ArrayLike], step: int = 0) -> list[_Array]: ...
    # adds into `gradient`; the result has the gradients of inputs ("d:<input>") where asked for
    def backward(
        self, seeds: Sequence[npt.ArrayLike | None], gradient: npt.NDArray[np.float32], /
    ) -> dict[str, _Array]: ...
    def value(self, value: int, /) -> _Array | None: ...

class Arena:
    """Memory for activations, shared by all plans of a model; it grows as needed."""

    def __new__(cls) -> Arena: ...
    @property
    def bytes(self) -> int: ...

class _Step(TypedDict):
    pattern: str
    name: str
    nodes: list[int]
    shape: tuple[int, ...] | None
    milliseconds: float
    macs: int
    bytes: int
    backward: bool

class Plan:
    """A graph planned for given input types: steps in an arena, run by all threads.

    A backward reads the inputs and outputs of the forward before it: leave them as they are.
    """

    def __new__(
        cls,
        graph: Graph,
        store: Store,
        inputs: Sequence[_InputType],
        without_patterns: int = 0,
        strip_rows: int = 0,
        arena: Arena | None = None,
        seed: int = 0,
        bf16: bool = False,
    ) -> Plan: ...
    def forward(
        self,
        inputs: Sequence[npt.ArrayLike],
        step: int = 0,
        out: Sequence[_Array | None] | None = None,
    ) -> list[_Array]: ...
    def backward(
        self, seeds: Sequence[npt.ArrayLike | None], gradient: npt.NDArray[np.float32], /
    ) -> dict[str, _Array]: ...
    def steps(self) -> list[_Step]: ...
    def profile(self, on: bool, /) -> None: ...
    def first_nonfinite(self) -> str | None: ...
    @property
    def arena_bytes(self) -> int: ...
    @property
    def arena(self) -> Arena: ...

class _Field(TypedDict):
    name: str
    kind: str
    initial: Any
    names: tuple[str, ...]

class _Op(TypedDict):
    name: str
    doc: str
    version: int
    min_in: int
    max_in: int
    n_outputs: int
    gradient: bool
    fields: list[_Field]

class _Machine(TypedDict):
    isa: str
    threads: int
    flops: float
    bytes_per_second: float
    clock_seconds: float

# takes some tenths of a second
def measure_machine() -> _Machine: ...
def ops() -> list[_Op]: ...
def optim_apply(
    store: Store,
    gradient: npt.NDArray[np.float32],
    m: npt.NDArray[np.float32],
    v: npt.NDArray[np.float32] | None,
    ema: npt.NDArray[np.float32] | None,
    *,
    kind: str = "adamw",
    lr: float,
    decay: float = 0.0,
    momentum: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    clip_norm: float = 0.0,
    grad_scale: float = 1.0,
    ema_rate: float = 0.0,
    step: int,
) -> float: ...

# ---- files (py_io.c)

def torch_read(data: bytes, name: str, /) -> Any: ...
