"""Whole nets: against stored values of torch, plan against interpreter, names, sizes, reports."""

import doctest
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeded_state as seeded

from deepseek_det import Error, checkpoint, nn
from deepseek_det import models as registry
from deepseek_det.detector import Detector
from deepseek_det.model import Model

GOLDEN = Path(__file__).parent / "golden"
EXECUTORS = ("interpret", "plan")


def seeded_model(model: Model) -> Model:
    """The model with the parameters that the stored values were made with."""
    shapes = {e["name"]: e["shape"] for e in model.store.entries()}
    assert model.load_state_dict(seeded.state(shapes)).complete
    return model


def difference(a: Any, b: Any) -> float:
    """max |a - b| / max |b|."""
    return float(np.abs(np.asarray(a, np.float64) - b).max() / max(np.abs(b).max(), 1e-30))


# ---- dsdet-n against its twin -------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    with np.load(GOLDEN / "dsdet_n.npz") as file:
        return dict(file)


@pytest.fixture
def dsdet_n() -> Model:
    return seeded_model(Model(registry.build("dsdet-n", 3)))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_dsdet_n_forward_and_gradient_equal_the_twin(
    stored: dict[str, Any], dsdet_n: Model, executor: Any
) -> None:
    dsdet_n.executor = executor
    x = seeded.images(int(stored["seed"]), 2, 64)
    out = dsdet_n.forward(x)
    for name in ("cls", "box"):
        assert difference(out[name], stored[name]) < 1e-4
    dsdet_n.backward({name: seeded.draw(f"seed {name}", a.shape) for name, a in out.items()})
    most = max(float(v) for k, v in stored.items() if k.startswith("grad") and k.endswith("max"))
    for entry in dsdet_n.store.entries():
        name, at, count = entry["name"], entry["offset"], entry["count"]
        if entry["role"] == "state":
            assert difference(dsdet_n.store.get(name), stored[f"state {name}"]) < 1e-4, name
            continue
        gradient = dsdet_n.gradient[at : at + count].astype(np.float64)
        # A bias before a batch norm has no effect: its gradient is the rounding of large sums.
        scale = max(float(stored[f"grad {name} max"]), 1e-2 * most)
        wrong = np.abs(gradient[seeded.samples(count)] - stored[f"grad {name} samples"]).max()
        assert wrong / scale < 1e-4, name
        norm = float(stored[f"grad {name} norm"])
        assert abs(np.linalg.norm(gradient) - norm) < 1e-4 * max(norm, scale), name


@pytest.mark.parametrize("executor", EXECUTORS)
def test_dsdet_n_deployed_equals_the_twin(
    stored: dict[str, Any], dsdet_n: Model, executor: Any
) -> None:
    dsdet_n.executor = executor
    out = dsdet_n.infer(seeded.images(int(stored["seed"]), 2, 64))
    for name in ("cls", "box"):
        assert difference(out[name], stored[f"eval {name}"]) < 1e-4


def test_bytes_and_floats_give_the_same(dsdet_n: Model) -> None:
    x = seeded.images(1, 2, 64)
    a, b = dsdet_n.infer(x), dsdet_n.infer(x.astype(np.float32) / 255)
    for name in a:
        assert difference(a[name], b[name]) < 1e-5


# ---- backbones ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("mobilenetv3 large", lambda classes: registry.mobilenetv3("large", classes)),
        ("mobilenetv3 small", lambda classes: registry.mobilenetv3("small", classes)),
        ("repvgg a0", lambda classes: registry.repvgg("a0", classes)),
        ("repvgg b0", lambda classes: registry.repvgg("b0", classes)),
    ],
)
def test_backbone_has_the_names_and_values_of_its_original(
    name: str, build: Callable[[int | None], Model]
) -> None:
    with np.load(GOLDEN / "backbones.npz") as file:
        stored = dict(file)
    x = seeded.images(0, 1, 64)
    whole = seeded_model(build(10))
    assert seeded.names_digest(whole.store.names) == stored[f"{name} names"]
    assert difference(whole.infer(x)["logits"], stored[f"{name} logits"]) < 1e-4
    alone = build(None)
    report = alone.load_state_dict(whole.state_dict(), strict=False)
    assert not report.missing and not report.mismatched
    assert all(n.startswith(("classifier.", "linear.")) for n in report.unexpected)
    for key, value in alone.infer(x).items():
        assert value.shape == tuple(stored[f"{name} {key} shape"])
        samples = value.ravel()[seeded.samples(value.size, 256)]
        wrong = np.abs(samples - stored[f"{name} {key} samples"]).max()
        assert wrong / stored[f"{name} {key} max"] < 1e-4


@pytest.mark.parametrize("build", [registry.mobilenetv3, registry.repvgg])
def test_backbone_of_an_unknown_size_is_refused(build: Callable[[str], Model]) -> None:
    with pytest.raises(ValueError, match="size is 'huge'"):
        build("huge")


# ---- the family ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "limit"), [("n", 0.5e6), ("s", 1.0e6), ("m", 2.5e6)])
def test_dsdet_keeps_its_limit_at_80_classes(size: str, limit: float) -> None:
    model = Model(registry.build(f"dsdet-{size}", 80))
    assert 0.5 * limit < model.params <= limit
    rows = model.layers(320)
    assert sum(r["params"] for r in rows) == model.params
    assert sum(r["macs"] for r in rows) == model.macs(320) > 1e8


def test_dsdet_anchors_are_ordered_by_level() -> None:
    out = Model(registry.build("dsdet-n", 5)).infer(np.zeros((2, 64, 96, 3), np.uint8))
    anchors = 3 * (8 * 12 + 4 * 6 + 2 * 3)
    assert {k: v.shape for k, v in out.items()} == {"cls": (2, anchors, 5), "box": (2, anchors, 4)}


def test_fresh_head_expects_few_objects() -> None:
    out = Model(registry.build("dsdet-n", 4)).infer(seeded.images(0, 1, 64))
    scores = 1 / (1 + np.exp(-out["cls"]))
    assert 0.005 < scores.mean() < 0.02


@pytest.mark.parametrize("size", ["n", "s", "m"])
def test_plan_equals_interpreter(size: str) -> None:
    model = seeded_model(Model(registry.build(f"dsdet-{size}", 3)))
    x = seeded.images(0, 1, 64)
    planned = model.infer(x)
    model.executor = "interpret"
    for name, value in model.infer(x).items():
        assert difference(planned[name], value) < 1e-5


@pytest.mark.parametrize(
    "build",
    [
        lambda: Model(registry.build("dsdet-n", 3)),
        lambda: registry.repvgg("a0"),
        lambda: registry.mobilenetv3("small", 10),
    ],
    ids=["dsdet-n", "repvgg", "mobilenetv3"],
)
def test_fuse_is_exact_and_idempotent(build: Callable[[], Model]) -> None:
    model = seeded_model(build())
    x = seeded.images(0, 1, 64)
    before, names = model.infer(x), len(model.store)
    assert 0 <= model.fuse() < 1e-5
    assert len(model.store) < names
    after = model.infer(x)
    for name in before:
        assert difference(after[name], before[name]) < 1e-6
    assert model.fuse() == 0
    assert not any(n["op"] == "batch_norm" for n in model.graph.nodes())


def test_registry_takes_a_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    before = registry.list_models()
    assert before[:3] == ["dsdet-n", "dsdet-s", "dsdet-m"]
    registry.register("mine", lambda classes: registry.build("dsdet-n", classes))
    assert registry.list_models() == [*before, "mine"]
    assert Model(registry.build("mine", 2)).infer(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"'yours' is not one of dsdet-n"):
        registry.build("yours", 2)


# ---- training by hand ----------------------------------------------------------------------------


def small() -> Model:
    return Model(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 2, 1),
        )
    )


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.02), ("sgd", 0.05)])
def test_ones_own_loop_learns(executor: Any, optimizer: Any, lr: float) -> None:
    model = small()
    model.executor = executor
    x = seeded.images(0, 4, 16)
    # what a strided mean of the red channel and of the green one would say
    target = x.reshape(4, 8, 2, 8, 2, 3).mean((2, 4))[..., :2].astype(np.float32) / 255
    losses = []
    for _ in range(60):
        error = model.forward(x)["out"] - target
        losses.append(float((error**2).mean()))
        model.backward({"out": 2 * error / error.size})
        assert model.step(lr=lr, optimizer=optimizer) > 0
    assert losses[-1] < 0.2 * losses[0]
    assert not model.gradient.any()


def test_backward_adds_and_checks() -> None:
    model = small()
    x = seeded.images(0, 1, 16)
    with pytest.raises(Error, match="call forward first"):
        model.backward({"out": np.zeros(1)})
    out = model.forward(x)["out"]
    with pytest.raises(ValueError, match=r"gradient of \['cls'\] came, outputs are \['out'\]"):
        model.backward({"cls": out})
    with pytest.raises(ValueError, match="shape"):
        model.backward({"out": out[:, :1]})
    model.backward({"out": np.ones_like(out)})
    once = model.gradient.copy()
    model.backward({"out": np.ones_like(out)})
    np.testing.assert_allclose(model.gradient, 2 * once, rtol=1e-6)
    assert once.any()


def test_frozen_parameters_stay() -> None:
    model = small()
    for name in ("0.weight", "1.weight", "1.bias"):
        model.store.set_options(name, frozen=True)
    before = model.state_dict()
    x = seeded.images(0, 2, 16)
    out = model.forward(x)["out"]
    model.backward({"out": np.ones_like(out)})
    model.step(lr=0.1)
    moved = {n for n, a in model.state_dict().items() if not np.array_equal(a, before[n])}
    assert moved == {"3.weight", "3.bias"}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_first_layer_that_is_not_finite_is_named(executor: Any) -> None:
    model = small()
    model.executor = executor
    assert model.first_nonfinite() is None
    x = seeded.images(0, 1, 16)
    model.forward(x)
    assert model.first_nonfinite() is None
    model.store.set("3.bias", [np.inf, 0])
    model.forward(x)
    assert model.first_nonfinite() == "3.conv"


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), ValueError, r"\(8, 8, 3\), \(N, H, W, C\) is needed"),
        (np.zeros((1, 8, 8, 4), np.uint8), ValueError, "images"),
        (np.zeros((1, 8, 8, 3), np.int64), TypeError, "int64, uint8 or float32 is needed"),
        (np.zeros((1, 0, 8, 3), np.uint8), ValueError, "conv"),
    ],
)
def test_images_of_another_kind_are_refused(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        small().infer(x)


def test_at_most_16_plans_are_kept() -> None:
    model = small()
    for side in range(8, 40):
        model.infer(np.zeros((1, side, 8, 3), np.uint8))
    assert len(model._plans) == 16
    assert model.infer(np.zeros((1, 8, 8, 3), np.float64))["out"].shape == (1, 4, 4, 2)


def test_infer_follows_the_parameters() -> None:
    model = small()
    x = seeded.images(0, 1, 16)
    model.infer(x)
    model.store.set("3.weight", np.zeros((2, 8, 1, 1), np.float32))
    model.store.set("3.bias", np.float32([1, 2]))
    np.testing.assert_array_equal(model.infer(x)["out"][0, 0, 0], [1, 2])


# ---- state --------------------------------------------------------------------------------------


def test_load_state_dict_reports_what_did_not_fit() -> None:
    model = small()
    state = model.state_dict()
    state["extra"] = np.zeros(1, np.float32)
    state["0.num_batches_tracked"] = np.zeros((), np.int64)
    state["3.bias"] = np.zeros(5, np.float32)
    state["1.bias"] = state["1.bias"] + 7
    del state["3.weight"]
    with pytest.raises(ValueError, match=r"3\.bias"):
        model.load_state_dict(state)
    assert not model.store.get("1.bias").any()
    report = model.load_state_dict(state, strict=False)
    assert report.missing == ["3.weight"]
    assert report.unexpected == ["extra"]
    assert report.mismatched == [("3.bias", (2,), (5,))]
    assert len(report.matched) == 5
    assert not report.complete
    assert (model.store.get("1.bias") == 7).all()
    text = str(report)
    assert text.splitlines()[0] == (
        "5 parameters loaded, 1 of another shape, 1 missing, 1 unexpected"
    )
    for line in ("3.bias: the model has (2,), the state (5,)", "missing        3.weight", "extra"):
        assert line in text


def test_foreign_file_loads_with_a_report(models_root: Path) -> None:
    report = registry.mobilenetv3("small").load_state_dict(
        models_root / "fastestdet.pth", strict=False
    )
    assert not report.matched
    assert len(report.unexpected) > 300


def test_initial_values_depend_on_seed_and_name_only() -> None:
    a, b = registry.build("dsdet-n", 3), registry.build("dsdet-n", 20)
    one, two, other = Model(a).state_dict(), Model(b).state_dict(), Model(a, seed=1).state_dict()
    for name, array in one.items():
        if not name.startswith("head.cls."):
            np.testing.assert_array_equal(array, two[name])
    assert not np.array_equal(one["neck.down.0.conv.weight"], one["neck.down.1.conv.weight"])
    assert not np.array_equal(one["neck.down.0.conv.weight"], other["neck.down.0.conv.weight"])


def test_parameter_names_follow_the_parts() -> None:
    names = Model(registry.build("dsdet-n", 3)).store.names
    assert {n.split(".")[0] for n in names} == {"backbone", "neck", "head"}
    assert "head.tower.0.depthwise.bn.2.running_mean" in names


# ---- detectors in files -------------------------------------------------------------------------


def test_detector_comes_back_from_its_file(tmp_path: Path) -> None:
    det = Detector("dsdet-n", classes=["cat", "dog"])
    det.imgsz = 256
    det.save(tmp_path / "x.pt")
    back = Detector(tmp_path / "x.pt")
    assert (back.names, back.imgsz, back.model_name) == (["cat", "dog"], 256, "dsdet-n")
    x = seeded.images(0, 1, 64)
    for run in ("infer", "forward"):
        ours, theirs = getattr(det, run)(x), getattr(back, run)(x)
        for name, value in ours.items():
            np.testing.assert_array_equal(theirs[name], value)


def test_fused_detector_comes_back_from_its_file(tmp_path: Path) -> None:
    det = Detector("dsdet-n", classes=["cat", "dog"])
    det.fuse()
    det.save(tmp_path / "x.pt")
    back = Detector(tmp_path / "x.pt")
    assert back.params == det.params
    x = seeded.images(0, 1, 64)
    for name, value in det.infer(x).items():
        np.testing.assert_array_equal(back.infer(x)[name], value)


def test_file_of_another_model_or_other_classes_is_refused(tmp_path: Path) -> None:
    det = Detector("dsdet-n", classes=["cat", "dog"])
    det.save(tmp_path / "x.pt")
    with pytest.raises(Error, match=r"x\.pt detects \['cat', 'dog'\], classes=\['cow'\]"):
        Detector(tmp_path / "x.pt", classes=["cow"])
    with pytest.raises(ValueError, match="the state does not fit"):
        Detector("dsdet-s", classes=["cat", "dog"]).load_state_dict(tmp_path / "x.pt")
    other = small()
    meta = {
        "graph": other.graph.to_json(other.store),
        "entries": checkpoint.entries(other.store),
    }
    checkpoint.write(tmp_path / "y.pt", meta, other.state_dict())
    with pytest.raises(Error, match=r"y\.pt holds a net with outputs \['out'\], no detector"):
        Detector(tmp_path / "y.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["cat"]}, "1 names and 2 categories for a net of 2 classes"),
        ({"names": ["a", "b", "c"], "categories": [0, 1, 2]}, "3 names and 3 categories"),
        ({"names": None}, "is no detector's"),
        ({"imgsz": "big"}, "is no detector's"),
        ({"categories": ["x", "y"]}, "is no detector's"),
        ({"graph": "{}"}, "does not hold together"),
    ],
)
def test_file_with_wrong_meta_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    det = Detector("dsdet-n", classes=["cat", "dog"])
    checkpoint.write(tmp_path / "x.pt", det.meta_dict() | change, det.state_dict())
    with pytest.raises(Error, match=rf"x\.pt .*{message}"):
        Detector(tmp_path / "x.pt")


# ---- docs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model", "checkpoint", "_torchfile", "models", "models.mobilenet", "models.rep_vgg"]
)
def test_docstring_examples_run(name: str) -> None:
    module = importlib.import_module(f"deepseek_det.{name}")
    assert doctest.testmod(module).failed == 0
