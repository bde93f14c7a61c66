"""Inference race: float32 latency against onnxruntime, OpenVINO and ncnn, one interleaved run.

The reference net, exported from torch with folded norms; the same weights in ours (our own fold).
Usage: python bench/race_infer.py [--threads 1 2] [--sizes 320 640] [--rounds 40] [--anchors DIR]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import deepseek_det as dd
from deepseek_det.model import Model

from racing import interleave, machine, median, record, table  # isort: skip
from ref_net import Net, torch_module  # isort: skip

Run = Callable[[], list[np.ndarray]]


def export(model: Model, size: int, folder: Path, anchors: Path) -> Path:
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    reference = torch_module(anchors)
    net = reference.Net()
    net.load_state_dict({k: torch.tensor(v) for k, v in model.state_dict().items()}, strict=False)
    net.eval()
    for module in list(net.modules()):
        if isinstance(module, reference.CBA):
            module[0] = fuse_conv_bn_eval(module[0], module[1])
            module[1] = torch.nn.Identity()
    path = folder / f"ref{size}.onnx"
    torch.onnx.export(
        net,
        (torch.zeros(1, 3, size, size),),
        str(path),
        input_names=["x"],
        output_names=["a", "b", "c"],
        opset_version=17,
        dynamo=False,
    )
    return path


def onnxruntime_run(path: Path, x: np.ndarray, threads: int) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def openvino_run(path: Path, x: np.ndarray, threads: int) -> Run:
    import openvino as ov

    core = ov.Core()
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(str(path)), "CPU", config).create_infer_request()

    def run() -> list[np.ndarray]:
        request.infer({0: x})
        return [request.get_output_tensor(i).data for i in range(3)]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--anchors", type=Path, default=Path("../shared/anchors"))
    parser.add_argument("--record", metavar="SECTION", help="section of RESULTS.md to replace")
    args = parser.parse_args()
    model = Model(Net())
    rng = np.random.default_rng(1)
    for name in model.store.names:  # norms that fold to something
        if name.endswith("running_var"):
            model.store.set(
                name, rng.uniform(0.5, 2, model.store.get(name).shape).astype(np.float32)
            )
        elif name.endswith("running_mean"):
            model.store.set(
                name, rng.normal(0, 0.1, model.store.get(name).shape).astype(np.float32)
            )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            path = export(model, size, Path(folder), args.anchors)
            x = rng.random((1, size, size, 3), np.float32)
            planes = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
            for threads in args.threads:
                dd.set_num_threads(threads)
                contestants: dict[str, Run] = {
                    "ours": lambda x=x: list(model.infer(x).values()),
                    "onnxruntime": onnxruntime_run(path, planes, threads),
                    "openvino": openvino_run(path, planes, threads),
                }
                mine = [o.transpose(0, 3, 1, 2) for o in contestants["ours"]()]
                theirs = contestants["onnxruntime"]()
                error = max(
                    float(np.abs(a - b).max() / np.abs(b).max())
                    for a, b in zip(mine, theirs, strict=True)
                )
                times = interleave(contestants, args.rounds, warmup=5)
                ms = {name: 1e3 * median(t) for name, t in times.items()}
                best = min(v for name, v in ms.items() if name != "ours")
                rows.append(
                    [f"reference {size}", str(threads)]
                    + [f"{ms[name]:.2f}" for name in contestants]
                    + [f"{best / ms['ours']:.2f}", f"{error:.1e}"]
                )
                print(rows[-1], flush=True)
    text = table(["net", "threads", *contestants, "best peer / ours", "error"], rows)
    body = f"{machine()}; milliseconds, median of {args.rounds}, float32.\n\n{text}"
    print(body)
    if args.record:
        record(args.record, body)


if __name__ == "__main__":
    main()
