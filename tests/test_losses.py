"""Losses: the formulas in double, finite differences, torch's values, bad input; the criterion."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_det import _core, losses, ops
from deepseek_det.anchors import assign, detector_anchors

GOLDEN = Path(__file__).parent / "golden" / "losses.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as stored:
        return dict(stored)


def close(got, want, bound=1e-6):
    """|got - want| ≤ bound · max(1, |want|), element by element."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.all(np.abs(got - want) <= bound * np.maximum(1, np.abs(want)))


def softplus(x):
    return np.logaddexp(0, x)


def focal_formula(x, t, alpha=0.25, gamma=2.0):
    """The formula in long double, and its derivative term by term."""
    x, t = np.asarray(x, np.longdouble), np.asarray(t, np.longdouble)
    log_p, log_q = -softplus(-x), -softplus(x)
    p, q = np.exp(log_p), np.exp(log_q)
    ce = -(t * log_p + (1 - t) * log_q)
    miss = p * (1 - t) + q * t
    a = alpha * t + (1 - alpha) * (1 - t)
    value = a * miss**gamma * ce
    slope = p * q * (1 - 2 * t)
    return value, a * (gamma * miss ** (gamma - 1) * slope * ce + miss**gamma * (p - t))


def giou_formula(a, b):
    iw = np.clip(np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0]), 0, None)
    ih = np.clip(np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1]), 0, None)
    area = lambda v: (v[:, 2] - v[:, 0]) * (v[:, 3] - v[:, 1])  # noqa: E731
    union = area(a) + area(b) - iw * ih
    cw = np.maximum(a[:, 2], b[:, 2]) - np.minimum(a[:, 0], b[:, 0])
    ch = np.maximum(a[:, 3], b[:, 3]) - np.minimum(a[:, 1], b[:, 1])
    return 1 - (iw * ih / union - (cw * ch - union) / (cw * ch))


def test_focal_against_the_formula_at_every_magnitude():
    x = np.concatenate([np.linspace(-40, 40, 801), [1e3, -1e3, 1e4, -1e4]])
    for t in (0.0, 1.0, 0.3):
        value, grad = losses.focal_loss(x, np.full_like(x, t), reduction="none")
        want, slope = focal_formula(x, np.full_like(x, t))
        close(value, want.astype(float))
        close(grad, slope.astype(float))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_focal_in_both_types_keeps_the_type(dtype):
    x = np.random.default_rng(0).normal(0, 5, (7, 11)).astype(dtype)
    t = (np.random.default_rng(1).random((7, 11)) < 0.3).astype(dtype)
    value, grad = losses.focal_loss(x, t, reduction="none")
    assert value.dtype == grad.dtype == dtype and value.shape == grad.shape == (7, 11)
    want, slope = focal_formula(x, t)
    close(value, want.astype(float))
    close(grad, slope.astype(float))


def test_losses_equal_torch(golden):
    for i in range(3):
        alpha, gamma = golden[f"focal{i}_params"]
        for kind in ("hard", "soft"):
            value, grad = losses.focal_loss(
                golden["logits"], golden[kind], alpha, gamma, reduction="none"
            )
            close(value, golden[f"focal{i}_{kind}_value"])
            # torch forms 1 - p_t by subtraction, and 0 · inf where it underflows
            want = golden[f"focal{i}_{kind}_grad"]
            close(grad[np.isfinite(want)], want[np.isfinite(want)])
    value, grad = losses.bce_loss(golden["logits"], golden["soft"], "none")
    close(value, golden["bce_value"])
    close(grad, golden["bce_grad"])
    value, grad = losses.giou_loss(golden["pred"], golden["target"], "none")
    close(value, golden["giou_value"])
    close(grad, golden["giou_grad"])
    value, grad = losses.smooth_l1_loss(golden["pred"], golden["target"], 7.0, "none")
    close(value, golden["smooth_value"])
    close(grad, golden["smooth_grad"])


def test_giou_against_the_formula():
    rng = np.random.default_rng(2)
    a = rng.uniform(0, 300, (500, 2))
    a = np.concatenate([a, a + rng.uniform(1, 200, (500, 2))], 1)
    b = a + rng.normal(0, 10, a.shape)
    b[:, 2:] = np.maximum(b[:, 2:], b[:, :2] + 0.5)
    value, grad = losses.giou_loss(a, b, "none")
    close(value, giou_formula(a, b))
    for k in range(4):
        step = np.zeros(4)
        step[k] = 1e-6
        close(grad[:, k], (giou_formula(a + step, b) - giou_formula(a - step, b)) / 2e-6, 1e-5)


@pytest.mark.parametrize(
    ("pred", "target", "value"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),  # nothing at all: IoU 0, no hull
        ([0, 0, 0, 5], [0, 0, 4, 5], 1.0),  # no width: IoU 0, the hull is the target
        ([5, 5, 1, 1], [0, 0, 4, 4], 1.0),  # reversed: no area, the hull by the edges' names
        ([2, 2, 6, 6], [2, 2, 6, 6], 0.0),
    ],
)
def test_giou_of_degenerate_boxes_is_the_limit(pred, target, value):
    got, grad = losses.giou_loss([pred], [target])
    assert got == pytest.approx(value, abs=1e-12)
    assert np.isfinite(grad).all()


def every_loss():
    rng = np.random.default_rng(3)
    for name, width, _, defaults, _ in _core.losses():
        x = rng.normal(0, 2, (50, width))
        t = rng.random((50, width))
        if name == "giou":
            x[:, 2:] = x[:, :2] + 1 + rng.random((50, 2))
            t[:, 2:] = t[:, :2] + 1 + rng.random((50, 2))
        yield pytest.param(name, x, t, np.array(defaults, float), id=name)


@pytest.mark.parametrize(("name", "x", "t", "params"), list(every_loss()))
def test_every_row_of_the_table_against_differences(name, x, t, params):
    _, grad = _core.loss(name, x, t, params, 0)
    for k in range(x.shape[1]):
        step = np.zeros(x.shape[1])
        step[k] = 1e-6
        high, low = (_core.loss(name, x + s, t, params, 0)[0] for s in (step, -step))
        close(grad[:, k], (high - low) / 2e-6, 1e-6)


@pytest.mark.parametrize(("name", "x", "t", "params"), list(every_loss()))
def test_reductions_agree(name, x, t, params):
    each, grad = _core.loss(name, x, t, params, 0)
    total, same = _core.loss(name, x, t, params, 2)
    mean, scaled = _core.loss(name, x, t, params, 1)
    assert total[0] == pytest.approx(each.sum(), rel=1e-13)
    assert mean[0] == pytest.approx(each.mean(), rel=1e-13)
    np.testing.assert_array_equal(same, grad)
    np.testing.assert_allclose(scaled, grad / len(x), rtol=1e-14)


def test_every_row_has_a_python_function():
    names = {"bce": "bce_loss", "focal": "focal_loss", "qfl": "quality_focal_loss"}
    for name, *_ in _core.losses():
        assert names.get(name, f"{name}_loss") in losses.__all__


def test_empty_arrays_give_zero():
    value, grad = losses.giou_loss(np.zeros((0, 4)), np.zeros((0, 4)))
    assert value == 0 and grad.shape == (0, 4)
    assert losses.focal_loss([], [])[0] == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20),
    st.floats(0, 1),
    st.floats(-0.5, 1),
    st.floats(0, 5),
)
def test_focal_is_finite_and_not_negative(x, t, alpha, gamma):
    value, grad = losses.focal_loss(x, np.full(len(x), t), alpha, gamma, reduction="none")
    assert np.isfinite(value).all() and (value >= 0).all() and np.isfinite(grad).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=8, max_size=8))
def test_giou_loss_is_bounded_and_unmoved_by_a_shift(numbers):
    a, b = (
        np.sort(np.array(v).reshape(2, 2), axis=0).reshape(4)
        for v in np.split(np.array(numbers), 2)
    )
    value, grad = losses.giou_loss(a, b)
    assert -1e-9 <= value <= 2 + 1e-9 and np.isfinite(grad).all()
    if min(a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]) > 1e-2:
        assert losses.giou_loss(a + 7, b + 7)[0] == pytest.approx(value, abs=1e-6)


BAD_LOSSES = {
    "shapes": (lambda: losses.focal_loss([1.0, 2.0], [1.0]), ValueError, "shape"),
    "reduction": (lambda: losses.bce_loss([1.0], [1.0], "avg"), ValueError, "reduction"),
    "gamma": (lambda: losses.focal_loss([1.0], [1.0], 0.25, -1), ValueError, "gamma"),
    "gamma nan": (lambda: losses.focal_loss([1.0], [1.0], 0.25, np.nan), ValueError, "gamma"),
    "alpha": (lambda: losses.focal_loss([1.0], [1.0], 1.5), ValueError, "alpha"),
    "text": (lambda: losses.focal_loss(["a"], [1.0]), TypeError, "numbers"),
    "box width": (lambda: losses.giou_loss([[1.0, 2, 3]], [[1.0, 2, 3]]), ValueError, "4"),
    "smooth beta": (lambda: losses.smooth_l1_loss([[1.0] * 4], [[1.0] * 4], 0), ValueError, "beta"),
    "weights beta": (lambda: losses.class_balanced_weights([1], 1.0), ValueError, "beta"),
    "weights count": (lambda: losses.class_balanced_weights([1, -1]), ValueError, r"counts\[1\]"),
    "weights nan": (lambda: losses.class_balanced_weights([np.nan]), ValueError, "counts"),
    "weights rank": (lambda: losses.class_balanced_weights([[1]]), ValueError, "shape"),
    "unknown": (
        lambda: _core.loss("hinge", *[np.zeros((1, 1))] * 2, np.zeros(0), 0),
        ValueError,
        "hinge",
    ),
}


@pytest.mark.parametrize("case", BAD_LOSSES)
def test_bad_input_is_refused(case):
    call, kind, text = BAD_LOSSES[case]
    with pytest.raises(kind, match=text):
        call()


def test_class_balanced_weights():
    counts = np.array([10, 1000, 0, 40000])
    weights = losses.class_balanced_weights(counts)
    raw = np.array([(1 - 0.999) / (1 - 0.999**n) if n else 0 for n in counts])
    np.testing.assert_allclose(weights, raw * 3 / raw.sum(), rtol=1e-12)
    assert weights[2] == 0 and weights.sum() == pytest.approx(3)
    np.testing.assert_allclose(losses.class_balanced_weights([5, 9], 0.0), [1, 1])
    assert losses.class_balanced_weights([0, 0]).tolist() == [0, 0]


# ---- the criterion ----


class Scene:
    """Three images with objects, an ignore region and an image without any."""

    def __init__(self, nc=3, imgsz=96, seed=0):
        rng = np.random.default_rng(seed)
        self.anchors, self.levels = detector_anchors(imgsz)
        a, n = len(self.anchors), 3
        self.logits = rng.normal(-3, 1.5, (n, a, nc)).astype(np.float32)
        self.deltas = rng.normal(0, 0.15, (n, a, 4)).astype(np.float32)
        self.deltas[0, :50, 2:] *= 60  # beyond the clamp
        corner = rng.uniform(0, 60, (9, 2))
        self.boxes = np.concatenate([corner, corner + rng.uniform(8, 60, (9, 2))], 1)
        self.boxes = self.boxes.astype(np.float32)
        self.labels = rng.integers(0, nc, 9).astype(np.int32)
        self.ignore = np.zeros(9, bool)
        self.ignore[3] = True
        self.boxes[3] = [30, 30, 90, 90]
        self.offsets = np.array([0, 5, 9, 9])
        self.weights = rng.uniform(0.5, 2, nc).astype(np.float32)

    def loss(self, **options):
        return losses.detection_loss(
            self.logits, self.deltas, self.anchors, self.boxes, self.labels, self.offsets,
            self.ignore, levels=self.levels, class_weights=self.weights, **options,
        )  # fmt: skip

    def twin(self, assigner="atss", cls_loss="bce", box_loss="giou", cls_weight=1, box_weight=2):
        """The criterion from the single losses and `assign`, in NumPy and double."""
        functions = {
            "bce": losses.bce_loss,
            "focal": losses.focal_loss,
            "qfl": losses.quality_focal_loss,
        }
        x = self.logits.astype(float)
        targets, alive, n_box, total_box = np.zeros_like(x), np.ones(x.shape[:2], bool), 0, 0
        d_box = np.zeros(self.deltas.shape)
        for i, (first, end) in enumerate(zip(self.offsets, self.offsets[1:], strict=False)):
            got = assign(
                self.anchors, self.boxes[first:end], self.labels[first:end],
                self.ignore[first:end], logits=self.logits[i], deltas=self.deltas[i],
                levels=self.levels, assigner=assigner,
            )  # fmt: skip
            at = np.flatnonzero(got.object >= 0)
            alive[i] = got.object != -2
            soft = got.target if assigner == "tal" else got.iou
            label = self.labels[first:end][got.object[at]]
            targets[i, at, label] = 1 if cls_loss == "focal" else soft[at]
            n_box += got.target[at].sum(dtype=float)
            value, d_box[i, at] = self.box_twin(i, at, got.boxes[at], box_loss)
            d_box[i, at] *= got.target[at, None]
            total_box += (value * got.target[at]).sum()
        value, grad = functions[cls_loss](x, targets, reduction="none")
        mask = alive[..., None] * self.weights
        n_cls = max(targets.sum(), 1)
        n_box = max(n_box, 1)
        return (
            cls_weight * (value * mask).sum() / n_cls,
            box_weight * total_box / n_box,
            cls_weight * grad * mask / n_cls,
            box_weight * d_box / n_box,
        )

    def box_twin(self, i, at, boxes, box_loss):
        anchors, d, b = (v.astype(float) for v in (self.anchors[at], self.deltas[i, at], boxes))
        side, centre = anchors[:, 2:] - anchors[:, :2], (anchors[:, 2:] + anchors[:, :2]) / 2
        if box_loss != "giou":
            middle, size = (b[:, 2:] + b[:, :2]) / 2, b[:, 2:] - b[:, :2]
            want = np.concatenate([(middle - centre) / side, np.log(size / side)], 1)
            return getattr(losses, f"{box_loss}_loss")(d, want, reduction="none")
        middle, size = centre + d[:, :2] * side, side * np.exp(np.clip(d[:, 2:], -4, 4))
        boxes_out = np.concatenate([middle - size / 2, middle + size / 2], 1)
        value, g = losses.giou_loss(boxes_out, b, "none")
        free = np.abs(d[:, 2:]) <= 4
        to_size = (g[:, 2:] - g[:, :2]) / 2 * size * free
        return value, np.concatenate([(g[:, :2] + g[:, 2:]) * side, to_size], 1)


@pytest.mark.parametrize("assigner", ["tal", "atss", "max_iou"])
@pytest.mark.parametrize("cls_loss", ["bce", "focal", "qfl"])
@pytest.mark.parametrize("box_loss", ["giou", "l2", "smooth_l1"])
def test_criterion_equals_its_parts(assigner, cls_loss, box_loss):
    scene = Scene()
    got = scene.loss(assigner=assigner, cls_loss=cls_loss, box_loss=box_loss, box_weight=1.5)
    cls, box, dlogits, ddeltas = scene.twin(assigner, cls_loss, box_loss, 1, 1.5)
    assert got.loss_cls == pytest.approx(cls, rel=1e-5)
    assert got.loss_box == pytest.approx(box, rel=1e-5)
    np.testing.assert_allclose(got.dlogits, dlogits, rtol=2e-5, atol=1e-9)
    np.testing.assert_allclose(got.ddeltas, ddeltas, rtol=2e-5, atol=1e-9)
    assert got.positives >= 8


def test_criterion_with_many_classes_and_without_objects():
    scene = Scene(nc=37)
    got = scene.loss()
    assert got.loss_cls == pytest.approx(scene.twin()[0], rel=1e-5)
    scene.boxes, scene.labels, scene.ignore = np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool)
    scene.offsets = np.zeros(4, int)
    got = scene.loss()
    assert got.positives == 0 and got.loss_box == 0 and not got.ddeltas.any()
    assert got.loss_cls == pytest.approx(scene.twin()[0], rel=1e-5) and got.target_sum == 0


def test_criterion_writes_into_given_arrays_and_skips_gradients():
    scene = Scene()
    out = np.full_like(scene.logits, 9), np.full_like(scene.deltas, 9)
    got, want = scene.loss(out=out), scene.loss()
    assert got.dlogits is out[0]
    np.testing.assert_array_equal(out[0], want.dlogits)
    np.testing.assert_array_equal(out[1], want.ddeltas)
    bare = scene.loss(grad=False)
    assert bare.dlogits is None and bare.loss_cls == want.loss_cls


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["logits", "deltas"])
def test_criterion_of_non_finite_outputs_is_non_finite(name, value):
    for at in (0, 3001, -1):
        scene = Scene(nc=9)
        getattr(scene, name).reshape(-1)[at] = value
        for assigner in ("tal", "atss", "max_iou"):
            got = scene.loss(assigner=assigner)
            assert not np.isfinite(got.loss_cls if name == "logits" else got.loss_box)


def test_criterion_gives_the_same_bits_with_any_number_of_threads():
    scene, before = Scene(nc=11, imgsz=160), _core.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            _core.set_num_threads(threads)
            results.append(scene.loss())
    finally:
        _core.set_num_threads(before)
    for other in results[1:]:
        assert (other.loss_cls, other.loss_box) == (results[0].loss_cls, results[0].loss_box)
        np.testing.assert_array_equal(other.dlogits, results[0].dlogits)
        np.testing.assert_array_equal(other.ddeltas, results[0].ddeltas)


def _spoil(**changes):
    def call():
        scene = Scene()
        options = {k: changes.pop(k) for k in list(changes) if not hasattr(scene, k)}
        for name, change in changes.items():
            setattr(scene, name, change(getattr(scene, name)))
        scene.loss(**options)

    return call


BAD_SCENES = {
    "label high": (_spoil(labels=lambda v: v + 3), "label"),
    "label negative": (_spoil(labels=lambda v: v - 3), "label"),
    "label fraction": (_spoil(labels=lambda v: v + 0.5), "whole"),
    "labels short": (_spoil(labels=lambda v: v[1:]), "labels"),
    "offsets end": (_spoil(offsets=lambda v: np.array([0, 5, 8, 8])), "offsets"),
    "offsets fall": (_spoil(offsets=lambda v: np.array([0, 9, 5, 9])), "objects"),
    "offsets begin": (_spoil(offsets=lambda v: np.array([1, 5, 9, 9])), "offsets"),
    "offsets count": (_spoil(offsets=lambda v: v[:-1]), "offsets"),
    "logits rank": (_spoil(logits=lambda v: v[0]), "logits"),
    "deltas count": (_spoil(deltas=lambda v: v[:, 1:]), "deltas"),
    "anchors count": (_spoil(anchors=lambda v: v[1:]), "anchors"),
    "anchor empty": (_spoil(anchors=lambda v: np.zeros_like(v)), "anchor 0"),
    "levels": (_spoil(levels=lambda v: v[:-1]), "levels"),
    "weights": (_spoil(weights=lambda v: v[1:]), "class_weights"),
    "assigner": (_spoil(assigner="best"), "assigner"),
    "cls loss": (_spoil(cls_loss="giou"), "class loss"),
    "cls loss name": (_spoil(cls_loss="hinge"), "hinge"),
    "box loss": (_spoil(box_loss="bce"), "box loss"),
    "topk": (_spoil(topk=-1), "topk"),
    "gamma": (_spoil(cls_loss="focal", cls_params=(0.25, -2.0)), "gamma"),
    "params": (_spoil(cls_loss="focal", cls_params=(0.25,)), "focal"),
    "weight nan": (_spoil(box_weight=np.nan), "weights"),
}


@pytest.mark.parametrize("case", BAD_SCENES)
def test_criterion_refuses_bad_input(case):
    call, text = BAD_SCENES[case]
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: Scene().loss(),
        lambda: losses.focal_loss(np.zeros(9), np.zeros(9)),
        lambda: assign(*(getattr(Scene(), k) for k in ("anchors", "boxes", "labels"))),
        lambda: ops.nms([[0, 0, 1, 1]], [1], 0.5),
        lambda: ops.soft_nms([[0, 0, 1, 1]], [1]),
        lambda: ops.detect(np.zeros((1, 1, 1)), np.zeros((1, 1, 4)), [[0, 0, 8, 8]], [[1] * 5]),
    ],
    ids=["detection_loss", "focal_loss", "assign", "nms", "soft_nms", "detect"],
)
def test_a_failed_allocation_is_a_memory_error_and_leaks_nothing(call):
    call()  # threads and modules are there
    live = _core._alloc_live()
    for n in range(1, 20):
        _core._alloc_fail_at(n)
        try:
            call()
        except MemoryError:
            continue
        finally:
            _core._alloc_fail_at(0)
            assert _core._alloc_live() == live
        break
    assert 1 < n < 20


def test_docstrings_run():
    assert doctest.testmod(losses).failed == 0
