"""Modules and tracing: names, sharing, the operators as functions, and what is refused."""

import doctest
from typing import Any

import numpy as np
import pytest

from deepseek_det import _core, nn
from deepseek_det.model import Model


class Lambda(nn.Module):
    """A module around a function of one value."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: nn.Value) -> Any:
        return self.function(x)


def run(function: Any, x: np.ndarray) -> np.ndarray:
    """A function of a symbolic value, on an array; interpreter and plan must agree."""
    model = Model(Lambda(function), channels=x.shape[-1])
    planned = model.infer(x)["out"]
    model.executor = "interpret"
    np.testing.assert_allclose(planned, model.infer(x)["out"], rtol=1e-5, atol=1e-6)
    return planned


X = np.random.default_rng(0).standard_normal((2, 4, 6, 8)).astype(np.float32)


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x + x, 2 * X),
        (lambda x: x - x * x, X - X * X),
        (lambda x: x / (x * x), 1 / X),
        (nn.relu, np.maximum(X, 0)),
        (lambda x: nn.unary(x, "clip", a=-0.5, b=0.5), np.clip(X, -0.5, 0.5)),
        (nn.Hardsigmoid(), np.clip(X / 6 + 0.5, 0, 1)),
        (nn.Hardswish(), X * np.clip(X / 6 + 0.5, 0, 1)),
        (nn.Sigmoid(), 1 / (1 + np.exp(-X))),
        (nn.SiLU(), X / (1 + np.exp(-X))),
        (nn.Identity(), X),
        (nn.Dropout(0.9), X),
        (nn.upsample, X.repeat(2, 1).repeat(2, 2)),
        (nn.Upsample(3), X.repeat(3, 1).repeat(3, 2)),
        (nn.GlobalAvgPool(), X.mean((1, 2), keepdims=True)),
        (nn.MaxPool2d(2), X.reshape(2, 2, 2, 3, 2, 8).max((2, 4))),
        (nn.AvgPool2d(2), X.reshape(2, 2, 2, 3, 2, 8).mean((2, 4))),
        (nn.Flatten(), X.reshape(2, -1)),
        (lambda x: nn.reshape(x, [0, -1, 4]), X.reshape(2, -1, 4)),
        (lambda x: nn.concat([x, nn.relu(x)]), np.concatenate([X, np.maximum(X, 0)], -1)),
        (lambda x: nn.concat([x, x], axis=1), np.concatenate([X, X], 1)),
        (lambda x: nn.ops.split(x, axis=3, parts=2)[1], X[..., 4:]),
        (lambda x: nn.ops.split(x, axis=3, sizes=[2, 6])[0], X[..., :2]),
        (lambda x: nn.ops.reduce(x, kind="max", axes=[3]), X.max(3)),
        (lambda x: nn.ops.transpose(x, perm=[0, 3, 1, 2]), X.transpose(0, 3, 1, 2)),
        (lambda x: nn.ops.binary(x, x, kind="add"), 2 * X),
    ],
)
def test_operators_do_what_numpy_does(function: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(run(function, X), expected, rtol=1e-5, atol=1e-5)


def test_linear_multiplies_by_the_transposed_weight() -> None:
    model = Model(nn.Linear(8, 3), channels=8)
    weight = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    model.load_state_dict({"weight": weight, "bias": np.float32([1, 2, 3])})
    np.testing.assert_allclose(
        model.infer(X)["out"], X @ weight.T + [1, 2, 3], rtol=1e-5, atol=1e-5
    )


def test_batch_norm_uses_and_moves_running_statistics() -> None:
    model = Model(nn.BatchNorm2d(8, eps=0.1, momentum=0.25), channels=8)
    mean, var = X.mean((0, 1, 2)), X.var((0, 1, 2))
    out = model.forward(X)["out"]
    np.testing.assert_allclose(out, (X - mean) / np.sqrt(var + 0.1), rtol=1e-4, atol=1e-5)
    count = X.size // 8
    np.testing.assert_allclose(model.store.get("running_mean"), 0.25 * mean, rtol=1e-4, atol=1e-6)
    unbiased = var * count / (count - 1)
    np.testing.assert_allclose(model.store.get("running_var"), 0.75 + 0.25 * unbiased, rtol=1e-4)
    running = model.store.get("running_mean"), model.store.get("running_var")
    expected = (X - running[0]) / np.sqrt(running[1] + 0.1)
    np.testing.assert_allclose(model.infer(X)["out"], expected, rtol=1e-4, atol=1e-5)


def test_outputs_have_the_names_that_forward_gives() -> None:
    pair = Model(Lambda(lambda x: (x, nn.relu(x))), channels=8)
    assert pair.outputs == ["out0", "out1"]
    named = Model(Lambda(lambda x: {"a": x + x, "b": nn.relu(x)}), channels=8)
    assert {k: v.shape for k, v in named.infer(X).items()} == {"a": X.shape, "b": X.shape}


# ---- names --------------------------------------------------------------------------------------


class Shared(nn.Module):
    """One convolution under two names, in a list that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 1)
        self.blocks = nn.ModuleList([nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 1)), self.first])

    def forward(self, x: nn.Value) -> nn.Value:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def test_names_are_attribute_paths_and_the_first_path_counts() -> None:
    model = Model(Shared(), channels=8)
    assert model.store.names == [
        "first.weight",
        "first.bias",
        "blocks.0.1.weight",
        "blocks.0.1.bias",
    ]
    assert [n["name"] for n in model.graph.nodes()][1:] == [
        "first.conv",
        "blocks.0.0.unary",
        "blocks.0.1.conv",
        "first.conv",
    ]


def test_a_module_can_serve_in_two_nets() -> None:
    part = Shared()
    assert Model(part, channels=8).store.names[0] == "first.weight"
    assert Model(nn.Sequential(part, nn.ReLU()), channels=8).store.names[0] == "0.first.weight"
    assert Model(part, channels=8).store.names[0] == "first.weight"


def test_a_child_that_is_replaced_is_gone() -> None:
    net = nn.Sequential()
    net.body = nn.Conv2d(8, 4, 1)
    net.body = nn.Conv2d(8, 2, 1, bias=False)
    assert [(n, p.shape) for n, p in net.named_parameters()] == [("body.weight", (2, 8, 1, 1))]
    net.body = None
    assert not list(net.named_parameters())


def test_module_list_counts_and_indexes() -> None:
    modules = nn.ModuleList([nn.ReLU(), nn.Identity()])
    assert len(modules) == 2
    assert isinstance(modules[1], nn.Identity)
    assert [type(m) for m in modules] == [nn.ReLU, nn.Identity]


@pytest.mark.parametrize(
    ("module", "std"),
    [
        (nn.Conv2d(16, 64, 3), np.sqrt(2 / (64 * 9))),
        (nn.Conv2d(64, 64, 5, groups=64), np.sqrt(2 / 25)),
        (nn.Linear(64, 64), 0.01),
        (nn.Conv2d(16, 64, 3, init=nn.normal(0.5)), 0.5),
    ],
)
def test_initial_weights_have_their_spread(module: nn.Module, std: float) -> None:
    module.name_children()
    weight = dict(module.named_parameters())["weight"].initial(3)
    assert weight.std() == pytest.approx(std, rel=0.1)
    assert abs(weight.mean()) < 0.1 * std


# ---- what is refused ----------------------------------------------------------------------------


class Forgetful(nn.Module):
    """Keeps its layers where nobody finds them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Conv2d(8, 8, 1)]

    def forward(self, x: nn.Value) -> nn.Value:
        return self.layers[0](x)


class Hasty(nn.Module):
    """Sets a child before the base class is ready."""

    def __init__(self) -> None:
        self.conv = nn.Conv2d(8, 8, 1)


def branch_on(x: nn.Value) -> nn.Value:
    return x if x else nn.relu(x)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Model(nn.Sequential(Forgetful()), channels=8), ValueError, "ModuleList"),
        (Hasty, TypeError, r"Hasty: call super\(\).__init__\(\) first"),
        (lambda: nn.Conv2d(8, 6, 3, groups=4), ValueError, "8 to 6 channels do not divide into 4"),
        (lambda: nn.ReLU()(X), TypeError, "ReLU was called on ndarray, modules take symbolic"),
        (lambda: nn.ReLU()(), TypeError, "ReLU was called on nothing"),
        (lambda: Model(nn.Module(), channels=8), NotImplementedError, "Module has no forward"),
        (lambda: Model(Lambda(branch_on)), TypeError, "no truth value"),
        (lambda: Model(Lambda(lambda x: x + 1)), TypeError, "binary of a int"),
        (lambda: Model(Lambda(lambda x: None)), TypeError, "forward returned NoneType"),
        (lambda: Model(Lambda(lambda x: [x, 3])), TypeError, "output 'out1' of Lambda is a int"),
        (lambda: Model(Lambda(lambda x: [])), TypeError, "forward returned"),
        (lambda: nn.Sequential(3), TypeError, "'0' is a int, a Module is needed"),
        (lambda: nn.ops.convolve, AttributeError, "no operator 'convolve'"),
        (
            lambda: Model(Lambda(lambda x: nn.ops.softmax(x, dim=1))),
            TypeError,
            "no attribute 'dim'",
        ),
        (lambda: Model(Lambda(lambda x: nn.ops.softmax(x, x))), TypeError, "2 inputs came, 1 to 1"),
        (lambda: nn.ops.softmax(X), TypeError, "none of the inputs is a symbolic value"),
        (lambda: Model(Lambda(lambda x: nn.unary(x, "relux"))), ValueError, "relux"),
    ],
)
def test_wrong_use_is_told(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_an_error_names_the_module_it_came_from() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.ReLU(), Lambda(branch_on))

        def forward(self, x: nn.Value) -> nn.Value:
            return self.body(x)

    with pytest.raises(TypeError) as error:
        Model(Net())
    assert error.value.__notes__ == ["in module body.1: Lambda"]


def test_a_shape_that_does_not_fit_names_the_layer() -> None:
    model = Model(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(9, 4, 1))))
    with pytest.raises(ValueError, match=r"1\.0\.conv.*9.*8"):
        model.infer(np.zeros((1, 8, 8, 3), np.uint8))


def test_values_of_two_nets_do_not_mix() -> None:
    kept: list[nn.Value] = []
    Model(Lambda(lambda x: kept.append(x) or nn.relu(x)))
    with pytest.raises(ValueError, match="values of two nets"):
        Model(Lambda(lambda x: x + kept[0]))


# ---- the table ----------------------------------------------------------------------------------


def test_every_operator_has_a_function_with_its_attributes() -> None:
    assert set(dir(nn.ops)) == {row["name"] for row in _core.ops()}
    for row in _core.ops():
        function = getattr(nn.ops, row["name"])
        assert row["doc"] in function.__doc__
        assert all(field["name"] in function.__doc__ for field in row["fields"])


def test_docstring_examples_run() -> None:
    assert doctest.testmod(nn).failed == 0
