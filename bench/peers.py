"""The engines that inference is raced against, each with its best options for one image.

A runner takes an ONNX file, the input (N, 3, H, W) float32 and a number of threads, and gives a
function without arguments that runs the net once and returns its outputs as arrays.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], list[np.ndarray]]
"""Runs a net once."""


def onnxruntime_run(path: Path, x: np.ndarray, threads: int) -> Run:
    """onnxruntime: all graph optimizations (with them its blocked NCHWc layout), spinning."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)


def openvino_run(path: Path, x: np.ndarray, threads: int, precision: str | None = "f32") -> Run:
    """OpenVINO: one stream for latency, threads pinned or not, whichever is faster here.

    precision None leaves what it takes by itself.
    """
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(path))

    def compiled(pinned: bool) -> Run:
        config: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "ENABLE_CPU_PINNING": pinned,
        }
        if precision is not None:
            config["INFERENCE_PRECISION_HINT"] = precision
        net = core.compile_model(model, "CPU", config)
        request = net.create_infer_request()
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))
        outputs = range(len(net.outputs))

        def run() -> list[np.ndarray]:
            request.infer()
            return [request.get_output_tensor(i).data for i in outputs]

        return run

    runs = [compiled(pinned) for pinned in ((True, False) if threads > 1 else (True,))]
    return min(runs, key=_quick_time)


def _quick_time(run: Run, calls: int = 12) -> float:
    """Median seconds of a few calls."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def convert_to_ncnn(path: Path, x: np.ndarray) -> tuple[Path, Path]:
    """ncnn's two files beside the ONNX file, by pnnx, weights in float32.

    Raises RuntimeError with pnnx's last words where it can't.
    """
    parameters, weights = path.with_suffix(".ncnn.param"), path.with_suffix(".ncnn.bin")
    if not (parameters.exists() and weights.exists()):
        shape = ",".join(map(str, x.shape))
        tool = Path(sys.executable).with_name("pnnx")
        done = subprocess.run(
            [str(tool), path.name, f"inputshape=[{shape}]", "fp16=0", "optlevel=2"],
            cwd=path.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if not (parameters.exists() and weights.exists()):
            words = (done.stderr + done.stdout).strip().splitlines()
            raise RuntimeError(f"pnnx: {words[-1] if words else done.returncode}")
    return parameters, weights


def ncnn_run(path: Path, x: np.ndarray, threads: int) -> Run:
    """ncnn: packed layouts, Winograd and its matrix product on, no half precision anywhere."""
    import ncnn

    parameters, weights = convert_to_ncnn(path, x)
    net = ncnn.Net()
    option = net.opt
    option.num_threads = threads
    option.lightmode = True
    option.use_packing_layout = True
    option.use_winograd_convolution = True
    option.use_sgemm_convolution = True
    for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(option, f"use_{half}", False)
    if net.load_param(str(parameters)) or net.load_model(str(weights)):
        kinds = {line.split()[0] for line in parameters.read_text().splitlines()[2:]}
        foreign = ", ".join(sorted(kind for kind in kinds if "." in kind))
        raise RuntimeError(f"pnnx leaves what ncnn has no layer for: {foreign or 'unknown'}")
    # pnnx numbers the outputs (out0, out1, …); ncnn lists them in the order of its layers
    into, out = net.input_names()[0], sorted(net.output_names(), key=lambda n: int(n[3:]))

    def run() -> list[np.ndarray]:
        extractor = net.create_extractor()
        extractor.input(into, ncnn.Mat(x[0]))
        return [np.array(extractor.extract(name)[1]) for name in out]

    return run


def versions() -> str:
    """Names and versions of the peers that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("onnxruntime", "openvino", "ncnn", "pnnx", "torch"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
