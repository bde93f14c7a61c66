"""Makes the stored values of whole nets with torch; run it from the repository's root.

    python tests/golden/make_models.py             # needs torch and torchvision
    python tests/golden/make_models.py checkpoint  # this version's checkpoint; needs the package

dsdet_n.npz: outputs, running statistics and gradients of a twin of dsdet-n, written here in torch
and computed in double precision. backbones.npz: torchvision's MobileNetV3 and a twin of RepVGG.
torch.pt: a checkpoint as torch's users have them.
Weights and inputs come from tests/seeded_state.py, so that the files hold results only.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import seeded_state as seeded  # noqa: E402

CLASSES, SIDE, BATCH = 3, 64, 2


def make_checkpoint() -> None:
    from deepseek_det import checkpoint, nn
    from deepseek_det.model import Model

    net = Model(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    )
    meta = {
        "graph": net.graph.to_json(net.store),
        "entries": checkpoint.entries(net.store),
        "sum": float(net.store.get("0.weight").sum()),
    }
    training = {"step": 7, "m": net.store.flat().copy()}
    checkpoint.write(HERE / "checkpoint_v1.pt", meta, net.state_dict(), training)


if sys.argv[1:] == ["checkpoint"]:
    make_checkpoint()
    sys.exit()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import torchvision  # noqa: E402
from torch import Tensor, nn  # noqa: E402


def load(net: nn.Module) -> nn.Module:
    """The seeded parameters; every name of the net gets one."""
    shapes = {name: tuple(t.shape) for name, t in net.state_dict().items()}
    values = {name: torch.from_numpy(a) for name, a in seeded.state(shapes).items()}
    missing = net.load_state_dict(values, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return net


def inputs(seed: int, n: int, side: int) -> Tensor:
    return torch.from_numpy(seeded.images(seed, n, side)).permute(0, 3, 1, 2).double() / 255


# ---- dsdet-n ------------------------------------------------------------------------------------


def norm(c: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(c, eps=1e-3, momentum=0.03)


class Unit(nn.Module):
    def __init__(self, i, o, k, s=1, g=1, act=F.relu, levels=1):
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False)
        self.bn = norm(o) if levels == 1 else nn.ModuleList(norm(o) for _ in range(levels))
        self.act = act

    def forward(self, x, level=None):
        y = self.conv(x)
        y = self.bn(y) if level is None else self.bn[level](y)
        return self.act(y) if self.act else y


class Residual(nn.Module):
    def __init__(self, i, e, o, k, s, act):
        super().__init__()
        self.expand = Unit(i, e, 1, act=act)
        self.depthwise = Unit(e, e, k, s, e, act)
        self.project = Unit(e, o, 1, act=None)
        self.same = i == o and s == 1

    def forward(self, x):
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.same else y


class Rep(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.dense = Unit(i, o, 3, s, act=None)
        self.point = Unit(i, o, 1, s, act=None)
        if i == o and s == 1:
            self.identity = norm(o)

    def forward(self, x):
        y = self.dense(x) + self.point(x)
        return F.relu(y + self.identity(x) if hasattr(self, "identity") else y)


class Separable(nn.Module):
    def __init__(self, c, levels=1):
        super().__init__()
        self.depthwise = Unit(c, c, 5, 1, c, F.hardswish, levels)
        self.point = Unit(c, c, 1, act=F.hardswish, levels=levels)

    def forward(self, x, level=None):
        return self.point(self.depthwise(x, level), level)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Unit(3, 16, 3, 2)
        self.stage1 = nn.Sequential(
            Residual(16, 64, 24, 3, 2, F.relu), Residual(24, 72, 24, 3, 1, F.relu)
        )
        self.stage2 = nn.Sequential(
            Residual(24, 96, 40, 5, 2, F.hardswish),
            Residual(40, 120, 40, 5, 1, F.hardswish),
            Residual(40, 120, 40, 5, 1, F.hardswish),
        )
        self.stage3 = nn.Sequential(Rep(40, 80, 2), Rep(80, 80, 1), Rep(80, 80, 1))
        self.stage4 = nn.Sequential(Rep(80, 120, 2), Rep(120, 120, 1))

    def forward(self, x):
        c3 = self.stage2(self.stage1(self.stem(x)))
        c4 = self.stage3(c3)
        return c3, c4, self.stage4(c4)


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.lateral = nn.ModuleList(Unit(c, 64, 1, act=F.hardswish) for c in (40, 80, 120))
        self.top_down = nn.ModuleList(Separable(64) for _ in range(2))
        self.down = nn.ModuleList(Unit(64, 64, 5, 2, 64, F.hardswish) for _ in range(2))
        self.bottom_up = nn.ModuleList(Separable(64) for _ in range(2))

    def forward(self, maps):
        a, b, c = (lateral(m) for lateral, m in zip(self.lateral, maps, strict=True))
        b = self.top_down[1](b + F.interpolate(c, scale_factor=2, mode="nearest"))
        a = self.top_down[0](a + F.interpolate(b, scale_factor=2, mode="nearest"))
        b = self.bottom_up[0](b + self.down[0](a))
        c = self.bottom_up[1](c + self.down[1](b))
        return a, b, c


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = nn.ModuleList(Separable(64, levels=3) for _ in range(2))
        self.cls = nn.Conv2d(64, 3 * CLASSES, 1)
        self.box = nn.Conv2d(64, 3 * 4, 1)
        self.scale = nn.ModuleList(Scale() for _ in range(3))

    def forward(self, maps):
        cls, box = [], []
        for level, x in enumerate(maps):
            for block in self.tower:
                x = block(x, level)
            n = len(x)
            cls.append(self.cls(x).permute(0, 2, 3, 1).reshape(n, -1, CLASSES))
            deltas = self.box(x) * self.scale[level].weight
            box.append(deltas.permute(0, 2, 3, 1).reshape(n, -1, 4))
        return torch.cat(cls, 1), torch.cat(box, 1)


class Twin(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.neck, self.head = Backbone(), Neck(), Head()

    def forward(self, x):
        return self.head(self.neck(self.backbone(x)))


def train_once(net: nn.Module, x: Tensor) -> dict[str, np.ndarray]:
    """Outputs, gradients and running statistics of one training step's forward and backward."""
    net.train()
    outputs = dict(zip(("cls", "box"), net(x), strict=True))
    seeds = {
        k: torch.from_numpy(seeded.draw(f"seed {k}", tuple(v.shape))) for k, v in outputs.items()
    }
    sum((outputs[k] * seeds[k].to(x)).sum() for k in outputs).backward()
    kept = {k: v.detach().numpy() for k, v in outputs.items()}
    kept |= {f"grad {name}": p.grad.numpy() for name, p in net.named_parameters()}
    kept |= {f"state {name}": b.numpy() for name, b in net.named_buffers() if b.dim()}
    return kept


def make_dsdet() -> None:
    # A rounding of float32 must not cross the kink of a ReLU: the first input where both precisions
    # agree on every gradient, as far as torch's float32 can, is taken.
    for seed in range(100):
        x = inputs(seed, BATCH, SIDE)
        exact = train_once(load(Twin()).double(), x)
        rough = train_once(load(Twin()), x.float())
        grads = [k for k in exact if k.startswith("grad")]
        most = max(np.abs(exact[k]).max() for k in grads)
        if max(np.abs(exact[k] - rough[k]).max() for k in grads) < 5e-5 * most:
            break
    else:
        raise SystemExit("every input crosses a kink")
    with torch.no_grad():
        predicted = load(Twin()).double().eval()(x)
    kept = {"seed": np.int64(seed)}
    for name, value in exact.items():
        if name.startswith("grad"):
            flat = value.ravel()
            kept[f"{name} norm"] = np.float64(np.linalg.norm(flat))
            kept[f"{name} max"] = np.float64(np.abs(flat).max())
            kept[f"{name} samples"] = flat[seeded.samples(flat.size)].astype(np.float32)
        else:
            kept[name] = value.astype(np.float32)
    for name, value in zip(("cls", "box"), predicted, strict=True):
        kept[f"eval {name}"] = value.numpy().astype(np.float32)
    np.savez_compressed(HERE / "dsdet_n.npz", **kept)
    print("dsdet-n: input", seed)


# ---- backbones ----------------------------------------------------------------------------------


class RepVGGBlock(nn.Module):
    """The training form, with the names of RepVGG's files."""

    def __init__(self, i, o, s):
        super().__init__()

        def branch(k):
            unit = nn.Sequential()
            unit.add_module("conv", nn.Conv2d(i, o, k, s, k // 2, bias=False))
            unit.add_module("bn", nn.BatchNorm2d(o))
            return unit

        self.rbr_identity = nn.BatchNorm2d(i) if i == o and s == 1 else None
        self.rbr_dense = branch(3)
        self.rbr_1x1 = branch(1)

    def forward(self, x):
        identity = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return F.relu(self.rbr_dense(x) + self.rbr_1x1(x) + identity)


class RepVGG(nn.Module):
    def __init__(self, blocks, widths, classes):
        super().__init__()
        channels = min(64, int(64 * widths[0]))
        self.stage0 = RepVGGBlock(3, channels, 2)
        for n, (count, factor) in enumerate(zip(blocks, widths, strict=True), 1):
            width = int(32 * 2**n * factor)
            rows = [
                RepVGGBlock(channels if i == 0 else width, width, 2 if i == 0 else 1)
                for i in range(count)
            ]
            setattr(self, f"stage{n}", nn.Sequential(*rows))
            channels = width
        self.linear = nn.Linear(channels, classes)

    def maps(self, x):
        c3 = self.stage2(self.stage1(self.stage0(x)))
        c4 = self.stage3(c3)
        return c3, c4, self.stage4(c4)

    def forward(self, x):
        return self.linear(self.maps(x)[2].mean((2, 3)))


def mobilenet_maps(net: nn.Module, x: Tensor, ends: tuple[int, int, int]) -> list[Tensor]:
    maps = []
    for i, layer in enumerate(net.features):
        x = layer(x)
        if i in ends:
            maps.append(x)
    return maps


def make_backbones() -> None:
    kept: dict[str, np.ndarray] = {}
    x = inputs(0, 1, 64)
    models = torchvision.models
    nets = {
        "mobilenetv3 large": (models.mobilenet_v3_large(num_classes=10), (6, 12, 16)),
        "mobilenetv3 small": (models.mobilenet_v3_small(num_classes=10), (3, 8, 12)),
        "repvgg a0": (RepVGG((2, 4, 14, 1), (0.75, 0.75, 0.75, 2.5), 10), None),
        "repvgg b0": (RepVGG((4, 6, 16, 1), (1, 1, 1, 2.5), 10), None),
    }
    for name, (net, ends) in nets.items():
        load(net).double().eval()
        with torch.no_grad():
            maps = net.maps(x) if ends is None else mobilenet_maps(net, x, ends)
            logits = net(x)
        names = [n for n in net.state_dict() if not n.endswith("num_batches_tracked")]
        kept[f"{name} names"] = np.int64(seeded.names_digest(names))
        kept[f"{name} logits"] = logits.numpy().astype(np.float32)
        for key, value in zip(("c3", "c4", "c5"), maps, strict=True):
            nhwc = value.permute(0, 2, 3, 1).numpy()
            flat = nhwc.ravel()
            kept[f"{name} {key} shape"] = np.array(nhwc.shape)
            kept[f"{name} {key} samples"] = flat[seeded.samples(flat.size, 256)].astype(np.float32)
            kept[f"{name} {key} max"] = np.float64(np.abs(flat).max())
    np.savez_compressed(HERE / "backbones.npz", **kept)


def make_torch_file() -> None:
    """What torch.save writes for a training script: views, shared storages, half precisions."""
    w = torch.arange(24.0).reshape(2, 3, 4)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    content = {
        "model": load(net).state_dict(),
        "views": {"turned": w[0].t(), "part": w[:, 1:, ::2], "one": w[1, 2, 3]},
        "types": {"half": w.half(), "bfloat": w.bfloat16(), "int": w.long(), "bool": w > 7},
        "parameter": nn.Parameter(w),
        "empty": torch.zeros(0, 3),
        "optimizer": torch.optim.AdamW(net.parameters()).state_dict(),
        "epoch": 3,
    }
    torch.save(content, HERE / "torch.pt")


make_dsdet()
make_backbones()
make_torch_file()
