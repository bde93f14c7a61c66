"""The command `deepseek-det`: verbs, flags, exit codes and the last line of an error.

Exit 0: done. 1: the data, a file or the machine was in the way (or `check` found a defect). 2:
wrong usage. 130: Ctrl-C. What a verb does stands in `commands`, loaded when it is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from deepseek_det import flags

HELP = {
    "assigner": "how anchors get their object",
    "amp": "mixed precision: maps are bfloat16 between layers, weights float32",
    "augment": "augment the training images",
    "batch": "images of a step",
    "box_loss": "loss of the boxes",
    "close_mix": "last epochs without CutMix and Mosaic",
    "cls_loss": "loss of the classes",
    "conf": "detections below this confidence are left out",
    "data": "data set: a folder (VOC, COCO, LVIS, YOLO, KITTI, CSV), a data.yaml, json or csv",
    "device": "where to train",
    "dst": "new folder",
    "dynamic": "the image's height and width are free, too",
    "epochs": "passes over the training images",
    "exist_ok": "use project/name even if it holds something",
    "format": "layout to write: coco, lvis, voc, yolo, kitti or csv",
    "freeze": "first N parts of the net, or names, that stay as they are",
    "images": "folder of the images, where the data set does not say it",
    "imgsz": "side of the letterboxed images, a multiple of 32",
    "layers": "a line a step, not only one a kind of step",
    "iou": "overlap beyond which a weaker detection of the same class goes",
    "loss_weights": "of the classes: balanced, none, or numbers A,B,…",
    "lr0": "highest learning rate; by default the measured one for the batch",
    "max_det": "detections an image at most",
    "multi_scale": "share by which the image size varies from batch to batch",
    "n": "images to draw",
    "name": "folder of the run below the project",
    "nms": "suppression inside the file",
    "opset": "version of ONNX' operators, 13 to 21",
    "optimizer": "auto is adamw",
    "patience": "epochs without a better AP before the run ends",
    "project": "folder of the runs",
    "resume": "go on with project/name from its last.pt, with the arguments it was started with",
    "sampler": "repeat: images of rare classes more often, by 1/f; repeat-sqrt: by LVIS' rule",
    "seed": "same seed, same machine: same result, bit for bit",
    "shapes": "sizes of an .onnx file's inputs: NAME=1x3x320x320,…",
    "source": "image, folder, glob or video",
    "split": "part of the data set",
    "runs": "runs of which the median counts",
    "splits": "parts to convert, A,B; all by default",
    "strict": "refuse a data set in which a label is wrong, instead of leaving that out",
    "threads": "threads; by default all CPUs",
    "training": "forward, backward and update of the training form",
    "voc_one_based": "whether VOC boxes count pixels from 1; by default as the files say",
    "workers": "threads that prepare images",
}


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb: its line in the help, the function whose arguments are its flags, those left out."""

    summary: str
    module: str
    function: str
    without: tuple[str, ...] = ()


_RUN = (
    flags.Argument("project", "str", "runs", False),
    flags.Argument("exist_ok", "bool", False, False),
)
VERBS = {
    "demo": Verb("draw a data set, train on it and show the result", "commands", "demo_arguments"),
    "train": Verb("train a detector on a data set", "detector", "Detector.train"),
    "val": Verb("COCO figures of a checkpoint on a data set", "detector", "Detector.val"),
    "predict": Verb("find objects on images", "detector", "Detector.predict"),
    "export": Verb("write a detector as an ONNX file", "detector", "Detector.export"),
    "check": Verb("look for what is wrong with a data set", "data/check", "check"),
    "convert": Verb("write a data set in another layout", "data/convert", "convert"),
    "info": Verb("what a model, or this installation, is", "commands", "info_arguments"),
    "bench": Verb("where the time of a net goes, layer by layer", "commands", "bench_arguments"),
}
_LEFT_OUT = {"callbacks", "verbose", "stream", "path", "src", "dst", "model"}


class Parser(argparse.ArgumentParser):
    """argparse with our last line: ``error: who: what came, what was needed``, exit 2."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        who = self.prog.split(" ")[-1]
        self.exit(2, f"error: {who}: {message}\n")


def build(argv: Sequence[str]) -> Parser:
    """The parser; flags are made for the verb in `argv` only, the others need theirs not."""
    from deepseek_det import __version__

    parser = Parser(
        prog="deepseek-det",
        description="Small object detectors: train, evaluate, predict.",
        epilog="deepseek-det VERB --help shows a verb's flags.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"deepseek_det {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        sub = verbs.add_parser(
            name, help=verb.summary, description=_sentence(verb.summary), allow_abbrev=False
        )
        if name in argv:
            _add_flags(sub, name, verb)
    return parser


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _add_flags(parser: Parser, name: str, verb: Verb) -> None:
    if name in ("train", "val", "predict", "export"):
        default = "dsdet-s" if name == "train" else None
        parser.add_argument(
            "--model",
            metavar="NAME_OR_FILE",
            default=default,
            required=name != "train",
            help="checkpoint (.pt)"
            if name != "train"
            else "name (see info) or checkpoint (.pt) to start from (default: dsdet-s)",
        )
    if name in ("check", "convert"):
        parser.add_argument("where", nargs="?", metavar="DATA", help=HELP["data"])
        parser.add_argument("--data", metavar="PATH", help="the same, as a flag")
    if name == "convert":
        parser.add_argument("--output", metavar="PATH", required=True, help=HELP["dst"])
    if name == "export":
        parser.add_argument("--output", metavar="FILE", required=True, help="file.onnx to write")
        parser.add_argument(
            "--verify",
            action="store_true",
            help="run the file in onnxruntime beside the model; exit 1 where they differ",
        )
        parser.add_argument(
            "--source",
            metavar="PATH",
            help="images for --verify: file, folder or glob; by default drawn ones",
        )
    if name == "check":
        parser.add_argument(
            "--strict",
            action="store_true",
            help="as everywhere; a defect is exit 1 without it, a dispute is with it",
        )
        for flag, text in (
            ("--pictures", "write a page of training images, augmented, with their boxes"),
            ("--statistics", "write a page of histograms and a sample of pictures"),
        ):
            parser.add_argument(flag, action="store_true", help=f"{text}, to project/name")
        _add_against(parser)
    arguments = [a for a in flags.signature(verb.module, verb.function) if a.name not in _LEFT_OUT]
    flags.add(parser, arguments, HELP)
    if name in ("val", "predict", "check"):
        kept = (flags.Argument("name", "str", name, False), *_RUN)
        flags.add(parser, kept, HELP)
    if name == "predict":
        parser.add_argument(
            "--save", action=argparse.BooleanOptionalAction, default=True, help="write pictures"
        )
    if name == "info":
        parser.add_argument("--model", metavar="NAME_OR_FILE", help="name or checkpoint (.pt)")
    if name == "bench":
        parser.add_argument(
            "--model", metavar="NAME_OR_FILE", required=True, help="name, .pt or .onnx file"
        )
    parser.add_argument("--json", action="store_true", help="one machine-readable line on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")


def _add_against(parser: Parser) -> None:
    """The flags of check that compare annotators."""
    group = parser.add_argument_group("with several annotators' labels of the same images")
    group.add_argument(
        "--against",
        metavar="PATH",
        action="append",
        help="another annotator's labels: report agreement and disputes; repeat for more",
    )
    group.add_argument(
        "--iou",
        type=float,
        metavar="X",
        default=0.7,
        help="overlap of agreeing boxes (default: 0.7)",
    )
    group.add_argument(
        "--partial", action="store_true", help="images that not all have are no error"
    )
    group.add_argument("--disputes", metavar="FILE", help="write the disputes as JSON (COCO)")
    group.add_argument("--page", metavar="FILE", help="write the page on which a person decides")
    group.add_argument(
        "--link", action="store_true", help="the page links its images instead of holding them"
    )
    group.add_argument("--decisions", metavar="FILE", help="what was decided on the page")
    group.add_argument("--output", metavar="PATH", help="new data set from the decisions")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code.

    argv: the words after the program's name, by default those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = build(words).parse_args(words)
    except SystemExit as end:
        return int(end.code or 0)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run(args)
    except KeyboardInterrupt:
        _last_line(f"{args.verb}: interrupted{_how_to_go_on(args)}")
        return 130
    except BrokenPipeError:
        # The reader of stdout has gone; Python would complain about it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        if args.debug:
            raise
        text, code = _explain(error, args.verb)
        _last_line(text)
        return code


def _run(args: argparse.Namespace) -> int:
    from deepseek_det import commands

    values = vars(args)
    made, problem = getattr(commands, args.verb)(commands.Call(values))
    if args.json:
        print(json.dumps({"verb": args.verb, **made}, ensure_ascii=False), flush=True)
    if problem:
        _last_line(problem)
    return 1 if problem else 0


def _explain(error: Exception, verb: str) -> tuple[str, int]:
    """The text of the last line, and the exit code."""
    from deepseek_det import Error

    if isinstance(error, OSError) and not isinstance(error, Error):
        reason = error.strerror or str(error) or type(error).__name__
        return f"{verb}: {error.filename}: {reason}" if error.filename else f"{verb}: {reason}", 1
    if isinstance(error, MemoryError):
        return f"{verb}: not enough memory: {error}" if str(error) else f"{verb}: no memory", 1
    if isinstance(error, Error):
        return str(error), 1
    if isinstance(error, (ValueError, TypeError)):
        return str(error), 2
    return f"{verb}: {type(error).__name__}: {error}; a defect of this program: see --debug", 1


def _how_to_go_on(args: argparse.Namespace) -> str:
    from deepseek_det import commands

    last = commands.running
    if args.verb != "train" or last is None:
        return ""
    return (
        f"; {last.last} is whole: go on with deepseek-det train --resume "
        f"--project {last.dir.parent} --name {last.dir.name}"
    )


def _last_line(text: str) -> None:
    print(f"error: {' '.join(text.split())}", file=sys.stderr, flush=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
