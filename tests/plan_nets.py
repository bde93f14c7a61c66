"""Small nets with what imported networks are made of, for the planner's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deepseek_det import _core, nn

Build = Callable[[Callable[..., nn.Module], nn.Value], nn.Value | list[nn.Value]]


class Blocks(nn.Module):
    """A net given as a function of modules made here: m(name, module) makes each once."""

    def __init__(self, build: Build, dims: Sequence[int] = (-1, -1, -1, 5)) -> None:
        super().__init__()
        self.build = build
        self.made: dict[str, nn.Module] = {}
        self.store = _core.Store()  # a first trace makes the modules
        self.forward(nn.Tracer(self.store).input("x", "f32", list(dims)))

    def make(self, name: str, module: nn.Module) -> nn.Module:
        if name not in self.made:
            self.made[name] = module
            self.add_module(name, module)
            self.name_children()
            for _, p in module.named_parameters():
                self.store.add(p.name, p.shape, p.role, p.decay)
        return self.made[name]

    def forward(self, x: nn.Value) -> nn.Value | list[nn.Value]:
        return self.build(self.make, x)


def pyramid_pooling(m: Callable[..., nn.Module], x: nn.Value) -> nn.Value:
    """YOLOX's: maxima of 5, 9 and 13 pixels beside the map itself."""
    a = nn.unary(m("a", nn.Conv2d(5, 6, 1))(x), "silu")
    pools = [a.op("max_pool", kernel=[k, k], stride=[1, 1], pads=[k // 2] * 4) for k in (5, 9, 13)]
    return m("b", nn.Conv2d(24, 7, 1))(nn.concat([a, *pools]))


def pools(m: Callable[..., nn.Module], x: nn.Value) -> list[nn.Value]:
    a = m("a", nn.Conv2d(5, 12, 3, 1, 1))(x)
    b = a.op("max_pool", kernel=[3, 3], stride=[2, 2], pads=[1] * 4)
    c = a.op("avg_pool", kernel=[3, 3], stride=[2, 2], pads=[1] * 4, count_pad=True)
    d = a.op("avg_pool", kernel=[2, 3], stride=[2, 2], pads=[0, 1, 0, 1])
    e = a.op("max_pool", kernel=[2, 2])
    whole = a.op("avg_pool")
    mean = a.op("reduce", kind="mean", axes=[1, 2])
    return [m("b", nn.Conv2d(12, 4, 1))(b + c + e), d, whole, mean, a.op("max_pool")]


def attention(m: Callable[..., nn.Module], x: nn.Value) -> nn.Value:
    """Squeeze and excitation: a product that is broadcast over the map."""
    a = nn.relu(m("a", nn.Conv2d(5, 12, 3, 1, 1))(x))
    s = nn.relu(m("b", nn.Conv2d(12, 4, 1))(a.op("avg_pool")))
    s = nn.unary(m("c", nn.Conv2d(4, 12, 1))(s), "hard_sigmoid")
    return m("d", nn.Conv2d(12, 3, 1))(a * s)


def arithmetic(m: Callable[..., nn.Module], x: nn.Value) -> list[nn.Value]:
    """Broadcasts along every axis, with what may follow."""
    a = m("a", nn.Conv2d(5, 9, 3, 1, 1))(x)
    b = m("b", nn.Conv2d(5, 9, 1))(x)
    row = b.op("slice", starts=[0], ends=[1], axes=[1])
    column = b.op("slice", starts=[3], ends=[4], axes=[2])
    one = b.op("slice", starts=[2], ends=[3], axes=[3])
    flat = a.op("reshape", shape=[0, -1, 3])
    return [
        nn.relu(a - row),
        a * column,
        nn.unary(nn.unary(one, "sigmoid") * a, "tanh"),
        a.op("binary", b, kind="max"),
        (flat * flat.op("slice", starts=[1], ends=[2], axes=[1])).op("softmax"),
    ]


def resizes(m: Callable[..., nn.Module], x: nn.Value) -> list[nn.Value]:
    a = m("a", nn.Conv2d(5, 9, 3, 1, 1))(x)
    up = a.op("resize", mode="bilinear", scale=[2.0, 2.0])
    down = up.op("resize", mode="bilinear", scale=[0.5, 0.5])
    corners = a.op("resize", x, mode="bilinear", align_corners=True)
    odd = a.op("resize", mode="nearest", scale=[1.5, 0.75])
    cubic = a.op("resize", mode="cubic", scale=[1.5, 2.0], cubic_a=-0.75)
    return [m("b", nn.Conv2d(9, 4, 1))(down + a), corners, odd, nn.relu(cubic), up]


def bottlenecks(m: Callable[..., nn.Module], x: nn.Value) -> nn.Value:
    """YOLOX's: an activation, then the sum, behind products of every kind."""
    a = nn.unary(m("a", nn.Conv2d(5, 8, 1))(x), "silu")
    b = nn.unary(m("b", nn.Conv2d(8, 8, 1))(a), "silu") + a
    c = m("c", nn.Conv2d(8, 8, 3, 1, 1, groups=8))(b)
    c = nn.unary(m("d", nn.Conv2d(8, 8, 1))(nn.relu(c)), "silu") + b
    d = nn.unary(m("e", nn.Conv2d(8, 8, 3, 1, 1))(c), "leaky_relu", a=0.1) + c
    e = d + nn.relu(m("f", nn.Conv2d(8, 8, 3, 1, 1, groups=2))(d))
    return m("g", nn.Conv2d(8, 3, 1))(e)


def cuts(m: Callable[..., nn.Module], x: nn.Value) -> list[nn.Value]:
    """Pieces of channels and rows, as windows and as copies."""
    a = m("a", nn.Conv2d(5, 12, 3, 1, 1))(x)
    p, q, r = nn.ops.split(a, sizes=[4, 3, 5])
    top = a.op("slice", starts=[2], ends=[9], axes=[1])
    odd = a.op("slice", starts=[1], ends=[99], axes=[3], steps=[2])
    back = a.op("slice", starts=[-1, 4], ends=[-99, 9], axes=[2, 1], steps=[-1, 3])
    joined = nn.concat([r, p, nn.relu(q), p])
    return [
        m("b", nn.Conv2d(16, 4, 1))(joined),
        m("c", nn.Conv2d(12, 4, 3, 1, 1))(top),
        m("d", nn.Conv2d(6, 4, 1))(odd),
        back.op("transpose", perm=[0, 3, 1, 2]),
        r,
        top.op("transpose", perm=[0, 3, 2, 1]),
    ]


def shuffle_block(m: Callable[..., nn.Module], x: nn.Value, n: int, c: int) -> nn.Value:
    """ShuffleNetV2's unit of stride 1: half of the channels pass, then both halves interleave."""
    left, right = nn.ops.split(x, parts=2)
    y = nn.relu(m(f"{n}a", nn.Conv2d(c, c, 1))(right))
    y = m(f"{n}b", nn.Conv2d(c, c, 3, 1, 1, groups=c))(y)
    y = nn.relu(m(f"{n}c", nn.Conv2d(c, c, 1))(y))
    return nn.concat([left, y]).op("channel_shuffle", groups=2)


def shuffle_down(m: Callable[..., nn.Module], x: nn.Value, n: int, i: int, c: int) -> nn.Value:
    """The unit of stride 2: both branches see all channels."""
    a = m(f"{n}d", nn.Conv2d(i, i, 3, 2, 1, groups=i))(x)
    a = nn.relu(m(f"{n}e", nn.Conv2d(i, c, 1))(a))
    b = nn.relu(m(f"{n}f", nn.Conv2d(i, c, 1))(x))
    b = m(f"{n}g", nn.Conv2d(c, c, 3, 2, 1, groups=c))(b)
    b = nn.relu(m(f"{n}h", nn.Conv2d(c, c, 1))(b))
    return nn.concat([a, b]).op("channel_shuffle", groups=2)


def shuffle_net(m: Callable[..., nn.Module], x: nn.Value) -> list[nn.Value]:
    a = shuffle_down(m, m("stem", nn.Conv2d(5, 6, 3, 1, 1))(x), 0, 6, 10)
    for n in range(1, 4):
        a = shuffle_block(m, a, n, 10)
    b = shuffle_block(m, shuffle_down(m, a, 4, 20, 14), 5, 14)
    return [m("p", nn.Conv2d(20, 4, 1))(a), m("q", nn.Conv2d(28, 3, 3, 1, 1))(b)]


NETS: dict[str, Callable[[], nn.Module]] = {
    "pyramid pooling": lambda: Blocks(pyramid_pooling),
    "pools": lambda: Blocks(pools),
    "attention": lambda: Blocks(attention),
    "arithmetic": lambda: Blocks(arithmetic),
    "resizes": lambda: Blocks(resizes),
    "bottlenecks": lambda: Blocks(bottlenecks),
    "cuts": lambda: Blocks(cuts),
    "shuffle net": lambda: Blocks(shuffle_net),
}
