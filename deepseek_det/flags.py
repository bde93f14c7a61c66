"""Command-line flags from Python signatures: one flag an argument, its default and type included.

The signature is read from the module's source text, not by importing it, so that ``--help`` costs
no more than parsing a file.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a function: its name, its annotation as written, and its default."""

    name: str
    annotation: str
    default: Any
    required: bool


def signature(module: str, function: str) -> list[Argument]:
    """The arguments of a function or method, ``self`` left out.

    module: file below the package without .py; function: "name" or "Class.name".
    Raises LookupError where there is none.

    >>> [a.name for a in signature("data/synthetic", "synthetic")]
    ['folder', 'n', 'seed']
    """
    tree: Any = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))
    for part in function.split("."):
        kinds = (ast.FunctionDef, ast.ClassDef)
        found = [n for n in tree.body if isinstance(n, kinds) and n.name == part]
        if not found:
            raise LookupError(f"flags: {module} has no {function}")
        tree = found[-1]
    names = [a for a in tree.args.args if a.arg != "self"]
    defaults = tree.args.defaults
    optional = len(names) - len(defaults)
    return [
        Argument(
            a.arg,
            ast.unparse(a.annotation) if a.annotation else "str",
            None if i < optional else ast.literal_eval(defaults[i - optional]),
            i < optional,
        )
        for i, a in enumerate(names)
    ]


def add(
    parser: argparse.ArgumentParser,
    arguments: Sequence[Argument],
    helps: dict[str, str],
) -> None:
    """Adds a flag for each argument, with the text that `helps` has for its name."""
    for a in arguments:
        flag = "--" + a.name.replace("_", "-")
        text = helps.get(a.name, "")
        shown = "" if a.default in (None, False, "", ()) else f" (default: {a.default})"
        options: dict[str, Any] = {"dest": a.name, "help": text + shown, "default": a.default}
        if a.annotation in ("bool", "bool | None"):
            if a.default is False:
                parser.add_argument(flag, action="store_true", **options)
            else:
                options["help"] = text
                parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
            continue
        choices = _choices(a.annotation)
        if choices:
            parser.add_argument(flag, choices=choices, **options)
            continue
        if a.required:
            options["required"] = True
        kind, shape = _kind(a.annotation)
        parser.add_argument(flag, type=kind, metavar=shape, **options)


def _choices(annotation: str) -> list[str] | None:
    """The words of a Literal, where nothing but None may stand beside it."""
    tree = ast.parse(annotation, mode="eval").body
    parts = _union(tree)
    words: list[str] = []
    for part in parts:
        if isinstance(part, ast.Subscript) and ast.unparse(part.value) == "Literal":
            inner = part.slice
            items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            words += [str(ast.literal_eval(i)) for i in items]
        elif not (isinstance(part, ast.Constant) and part.value is None):
            return None
    return words or None


def _union(tree: ast.expr) -> list[ast.expr]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        return [*_union(tree.left), *_union(tree.right)]
    return [tree]


def _kind(annotation: str) -> tuple[Callable[[str], Any], str]:
    """How a flag's text becomes a value, and its name in the help."""
    parts = {ast.unparse(p) for p in _union(ast.parse(annotation, mode="eval").body)} - {"None"}
    if parts == {"int"}:
        return int, "N"
    if parts == {"float"}:
        return _number, "X"
    if "Sequence[float]" in parts:
        return _words_or_numbers, "A,B,…"
    if "Sequence[str]" in parts:
        return _count_or_names if "int" in parts else _names, "A,B,…"
    return str, "PATH" if "os.PathLike[str]" in parts else "TEXT"


def _number(text: str) -> float:
    return float(text)


def _names(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _count_or_names(text: str) -> int | list[str]:
    try:
        return int(text)
    except ValueError:
        return _names(text)


def _words_or_numbers(text: str) -> str | list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        return text


# argparse names the type in its message.
_number.__name__ = "number"
