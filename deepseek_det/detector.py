"""The detector: a model with anchors, class names and the user's verbs."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from deepseek_det import anchors, checkpoint, models
from deepseek_det._process import get_seed
from deepseek_det.errors import Error
from deepseek_det.model import FloatArray, LoadReport, Model

if TYPE_CHECKING:
    from deepseek_det.data import Dataset
    from deepseek_det.metrics import Metrics
    from deepseek_det.profile import Profile
    from deepseek_det.results import Results
    from deepseek_det.train import Callback, Run

DEFAULT_IMGSZ = 320


class Detector(Model):
    """A detector by registry name ("dsdet-s") or from a checkpoint ("best.pt").

    classes: the names; for a name of the registry without classes the data's are taken at the
    first training. names, params, imgsz and `anchors_for` tell what it is.
    Raises Error for a file that is no checkpoint, ValueError for a name that is not registered.

    >>> det = Detector("dsdet-n", classes=["cat", "dog"])
    >>> {name: array.shape for name, array in det.infer(np.zeros((1, 64, 64, 3), np.uint8)).items()}
    {'cls': (1, 252, 2), 'box': (1, 252, 4)}
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "dsdet-s",
        classes: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> None:
        name = os.fspath(model)
        if name in models.list_models():
            self._from_registry(name, classes, get_seed() if seed is None else seed)
            return
        if not name.endswith(".pt") and not Path(name).exists():
            raise ValueError(
                f"Detector: {name!r} is neither a file nor one of {', '.join(models.list_models())}"
            )
        self._from_checkpoint(name)
        if classes is not None and list(classes) != self.names:
            raise Error(
                f"Detector: {name} detects {self.names}, classes={list(classes)} was asked for"
            )

    def _from_registry(self, name: str, classes: Sequence[str] | None, seed: int) -> None:
        names = [str(c) for c in classes] if classes is not None else []
        if len(set(names)) != len(names):
            raise ValueError(f"Detector: classes {names} hold a name twice")
        super().__init__(models.build(name, max(len(names), 1)), seed=seed)
        self.model_name = name
        self.names = names
        self.categories = list(range(len(names)))
        self.imgsz = DEFAULT_IMGSZ
        self.anchor_options: dict[str, Any] = {}
        self.meta: dict[str, Any] = {}

    def _from_checkpoint(self, path: str) -> None:
        if path.lower().endswith(".onnx"):
            raise Error(
                f"Detector: {path} is an ONNX file, a checkpoint (.pt) was needed; "
                "load_onnx reads it"
            )
        read = checkpoint.read(path)
        graph, store = checkpoint.to_graph(read, path)
        self._set(graph, store)
        self.seed = 0
        if set(self.outputs) != {"cls", "box"}:
            raise Error(f"checkpoint: {path} holds a net with outputs {self.outputs}, no detector")
        self.meta = meta = read.meta
        try:
            self.model_name = str(meta.get("model", ""))
            self.names = [str(n) for n in meta["names"]]
            self.categories = [int(c) for c in meta.get("categories", range(len(self.names)))]
            self.imgsz = int(meta.get("imgsz", DEFAULT_IMGSZ))
            self.anchor_options = dict(meta.get("anchors", {}))
            types = graph.infer(store, [self._square(64)])["outputs"]
        except (KeyError, TypeError, ValueError) as error:
            raise Error(f"checkpoint: {path} is no detector's: {error.args[0]}") from None
        classes = types["cls"][1][-1]
        # a net that has not met its data yet has no names, and one class
        if len(self.names) != len(self.categories) or max(len(self.names), 1) != classes:
            raise Error(
                f"checkpoint: {path} does not hold together: {len(self.names)} names and "
                f"{len(self.categories)} categories for a net of {classes} classes"
            )

    def copy(self) -> Detector:
        """A detector of its own with the same parameters."""
        twin = copy.copy(self)
        twin._set(self.graph, self.store.copy())
        return twin

    def with_classes(self, names: Sequence[str], categories: Sequence[int]) -> Detector:
        """The same net for other classes: all parameters that still fit are kept.

        Raises Error for a net that is not in the registry (pruned, quantized, imported).
        """
        if list(names) == self.names:
            self.categories = list(categories)
            return self
        if self.model_name not in models.list_models():
            raise Error(
                f"train: the data's classes are {list(names)}, the model's {self.names}, "
                "and its head can't be rebuilt: the net is not one of the registry"
            )
        twin = Detector(self.model_name, classes=names, seed=self.seed)
        twin.load_state_dict(
            {n: a for n, a in self.state_dict().items() if not n.startswith("head.cls.")},
            strict=False,
        )
        twin.categories = list(categories)
        twin.imgsz = self.imgsz
        return twin

    def anchors_for(self, imgsz: int) -> anchors.Anchors:
        """The anchors of images of imgsz × imgsz, in the order of the outputs."""
        return anchors.detector_anchors(imgsz, **self.anchor_options)

    # ---- the user's verbs -------------------------------------------------------------------

    def train(
        self,
        data: str | os.PathLike[str] | Dataset | None = None,
        epochs: int = 60,
        imgsz: int = 320,
        batch: int = 16,
        lr0: float | None = None,
        seed: int = 0,
        device: str = "cpu",
        workers: int | None = None,
        resume: bool = False,
        freeze: int | Sequence[str] | None = None,
        patience: int | None = None,
        amp: bool = False,
        optimizer: Literal["auto", "adamw", "sgd"] = "auto",
        cls_loss: Literal["auto", "bce", "focal", "qfl"] = "auto",
        box_loss: Literal["giou", "l2", "smooth_l1"] = "giou",
        assigner: Literal["tal", "atss", "max_iou"] = "atss",
        loss_weights: Literal["balanced", "none"] | Sequence[float] = "balanced",
        sampler: Literal["repeat", "repeat-sqrt"] | None = None,
        multi_scale: float = 0.0,
        close_mix: int = 10,
        augment: bool = True,
        strict: bool = False,
        images: str | os.PathLike[str] | None = None,
        project: str | os.PathLike[str] = "runs",
        name: str = "train",
        exist_ok: bool = False,
        callbacks: Sequence[Callback] = (),
        verbose: bool = True,
    ) -> Run:
        """Trains on a data set and leaves checkpoints, curves and a report in project/name.

        data: a folder or file in any layout that `data.load` knows, or a Dataset; strict, images:
        as there. imgsz: side of the letterboxed images, a multiple of 32. lr0: None takes the
        measured rate for the batch. freeze: the first n parts of the net (stem, stages, neck) or
        name prefixes. patience: epochs without a better AP before it stops. amp: maps between
        layers are bfloat16, which is faster and as accurate; checkpoints stay float32. resume: go
        on with project/name's last.pt; what is left at its default then is as it was started with,
        data too. Afterwards the detector holds the best weights. Returns the run: .best .last .dir
        .metrics .history.
        Raises ValueError on arguments, Error on data and non-finite losses.
        """
        from deepseek_det.train import Settings, Trainer

        settings = Settings(
            epochs=epochs,
            imgsz=imgsz,
            batch=batch,
            lr0=lr0,
            seed=seed,
            device=device,
            workers=workers,
            freeze=freeze,
            patience=patience,
            amp=amp,
            optimizer=optimizer,
            cls_loss=cls_loss,
            box_loss=box_loss,
            assigner=assigner,
            loss_weights=loss_weights,
            sampler=sampler,
            multi_scale=multi_scale,
            close_mix=close_mix,
            augment=augment,
            strict=strict,
            images=None if images is None else os.fspath(images),
        )
        trainer = Trainer(
            self,
            data,
            settings,
            project=project,
            name=name,
            exist_ok=exist_ok,
            resume=resume,
            callbacks=callbacks,
            verbose=verbose,
        )
        return trainer.run()

    def val(
        self,
        data: str | os.PathLike[str] | Dataset,
        split: str = "val",
        conf: float = 0.001,
        iou: float = 0.6,
        max_det: int = 300,
        imgsz: int | None = None,
        batch: int = 16,
        workers: int | None = None,
        strict: bool = False,
        images: str | os.PathLike[str] | None = None,
    ) -> Metrics:
        """COCO figures on a split of a data set: `Metrics` with .ap .ap50 .stats .per_class ….

        conf, iou, max_det: of the post-processing. imgsz: None for the size it was trained at.
        strict: refuse a data set with a wrong label instead of leaving that out. images: folder of
        the images where the data set does not say it.
        Raises Error where the data set's classes are not the detector's, or the split is missing.
        """
        from deepseek_det.predict import evaluate, load_for

        dataset = load_for(self.names, data, split, strict, images)
        return evaluate(self, dataset, conf, iou, max_det, imgsz, batch, workers)

    def predict(
        self,
        source: Any,
        conf: float = 0.25,
        iou: float = 0.7,
        max_det: int = 300,
        imgsz: int | None = None,
        stream: bool = False,
    ) -> list[Results] | Iterator[Results]:
        """Detections on images: a list of `Results`, or a generator with `stream`.

        source: path, folder, glob, bytes, PIL image, (H, W, 3) uint8 RGB array, a list of these, or
        a video (needs the [video] extra). Boxes are float32 xyxy pixels of the original image.
        """
        from deepseek_det.predict import predict

        results = predict(self, source, conf, iou, max_det, imgsz)
        return results if stream else list(results)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a checkpoint: atomically, tensors only, readable by torch.load too."""
        checkpoint.write(path, self.meta_dict(), self.state_dict())

    def export(
        self,
        path: str | os.PathLike[str],
        opset: int = 17,
        nms: bool = False,
        conf: float = 0.25,
        iou: float = 0.7,
        max_det: int = 300,
        imgsz: int | None = None,
        dynamic: bool = False,
    ) -> Path:
        """Writes the deployed net with its decoding as an ONNX file; returns its path.

        Input ``images`` (N, 3, imgsz, imgsz) float32, RGB from 0 to 1, letterboxed; N is free.
        Output ``output0`` (N, 4 + classes, A) float32: centre x, centre y, width and height in the
        input's pixels, then a score a class. nms: ``output0`` is (N, max_det, 6) instead, x0 y0 x1
        y1 score class as `predict` finds them, best first, then rows of zeros; conf, iou, max_det
        are that NMS'. opset: 13 to 21. imgsz: None for the size it was trained at. dynamic: the
        image's height and width are free, too, in multiples of 32. The metadata say names, stride
        and imgsz. docs/onnx.md shows what to do with the file.
        Raises ValueError on arguments, Error without the onnx package or where the net has an
        operator that ONNX lacks, OSError where the file can't be written.
        """
        from deepseek_det.onnx.export import Options, export

        return export(self, path, Options(opset, nms, conf, iou, max_det, imgsz, dynamic))

    def meta_dict(self) -> dict[str, Any]:
        """What a checkpoint says beside the parameters."""
        from deepseek_det import __version__

        return {
            **{k: v for k, v in self.meta.items() if k in ("train",)},
            "graph": self.graph.to_json(self.store),
            "entries": checkpoint.entries(self.store),
            "names": list(self.names),
            "categories": list(self.categories),
            "model": self.model_name,
            "imgsz": self.imgsz,
            "mean": [0.0, 0.0, 0.0],
            "std": [1.0, 1.0, 1.0],
            "anchors": dict(self.anchor_options),
            "version": __version__,
            "quant": None,
        }

    def load_state_dict(
        self, state: str | os.PathLike[str] | Any, strict: bool = True
    ) -> LoadReport:
        """As `Model.load_state_dict`."""
        return super().load_state_dict(state, strict)

    def profile(
        self,
        imgsz: int | None = None,
        batch: int = 1,
        runs: int = 20,
        training: bool = False,
    ) -> Profile:
        """As `Model.profile`; imgsz is a multiple of 32."""
        from deepseek_det.data.transforms import check_imgsz

        side = None if imgsz is None else check_imgsz(imgsz, "profile")
        return super().profile(side, batch, runs, training)

    def info(self) -> str:
        """A table of the deployed net's layers with parameters and MACs at `imgsz`."""
        rows = self.layers(self.imgsz)
        width = max(len(r["name"]) for r in rows)
        lines = [f"{'layer':<{width}}  {'op':<12} {'output':<20} {'parameters':>10} {'MMAC':>8}"]
        for r in rows:
            shape = "×".join(map(str, r["shape"]))
            lines.append(
                f"{r['name']:<{width}}  {r['op']:<12} {shape:<20} "
                f"{r['params']:>10,} {r['macs'] / 1e6:>8.2f}"
            )
        lines.append(
            f"{self.model_name or 'net'}: {len(self.names)} classes, {self.params:,} parameters "
            f"deployed, {self.macs(self.imgsz) / 1e6:.0f} MMAC at {self.imgsz}"
        )
        return "\n".join(lines)


def letterbox_maps(
    sizes: npt.NDArray[np.int32], scales: npt.NDArray[np.float32], pads: npt.NDArray[np.float32]
) -> FloatArray:
    """(N, 5) rows scale, pad_x, pad_y, width, height: what `ops.detect` takes to map boxes back."""
    columns = [scales[:, None], pads, sizes.astype(np.float32)]
    return np.ascontiguousarray(np.concatenate(columns, axis=1), np.float32)
