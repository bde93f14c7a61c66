"""The shape of the project: who may include whom, what the public header, the stubs, the documents
and the version say, and that the examples in them run."""

import ast
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import deepseek_det as dd
from deepseek_det import _core

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"

# A folder of csrc includes only from itself and from those before it.
FOLDERS = (
    "base",
    "simd",
    "kernels",
    "detect",
    "image",
    "quantize",
    "evaluate",
    "ops",
    "graph",
    "io",
    "cuda",
    "python",
)
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)


def c_sources() -> list[Path]:
    """All C files and headers in the folders of csrc."""
    return sorted(p for p in CSRC.rglob("*") if p.suffix in (".c", ".h", ".def", ".cpp", ".cu"))


def own_includes(path: Path) -> list[str]:
    """The project's headers that a file includes, relative to csrc."""
    return [i for i in INCLUDE.findall(path.read_text()) if (CSRC / i).is_file()]


# ---- the C core ---------------------------------------------------------------------------------


def test_folders_of_the_core_are_those_of_the_list():
    assert {p.name for p in CSRC.iterdir() if any(p.glob("*.[ch]"))} <= set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_includes_only_from_folders_above_it(folder):
    allowed = FOLDERS[: FOLDERS.index(folder) + 1]
    wrong = [
        f"{path.relative_to(ROOT)} includes {name}"
        for path in c_sources()
        if path.parent.name == folder
        for name in own_includes(path)
        if name.split("/")[0] not in allowed and name != "dd.h"
    ]
    assert wrong == []


def test_every_quoted_include_names_its_folder():
    wrong = [
        f"{path.relative_to(ROOT)} includes {name}"
        for path in c_sources()
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', path.read_text(), re.MULTILINE)
        if not (CSRC / name).is_file()
    ]
    assert wrong == []


def test_core_without_python():
    wrong = [
        path.relative_to(ROOT)
        for path in c_sources()
        if path.parent.name != "python"
        and any(
            i == "Python.h" or i.startswith("numpy/") for i in INCLUDE.findall(path.read_text())
        )
    ]
    assert wrong == []


def test_allocations_go_through_one_file():
    call = re.compile(r"\b(malloc|calloc|realloc|aligned_alloc|posix_memalign|strdup|free)\s*\(")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in c_sources()
        if path.relative_to(CSRC).as_posix() != "base/memory.c"
        for number, line in enumerate(without_comments(path.read_text()).splitlines(), 1)
        if call.search(line)
    ]
    assert wrong == []


def without_comments(text: str) -> str:
    """C text whose comments are blank, line by line."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group())  # noqa: E731
    return re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.DOTALL)


# ---- the public header --------------------------------------------------------------------------


def public_headers() -> set[str]:
    return set(own_includes(CSRC / "dd.h"))


def test_binding_calls_what_the_public_header_offers():
    wrong = [
        f"{path.relative_to(ROOT)} includes {name}"
        for path in sorted((CSRC / "python").glob("*.[ch]"))
        for name in own_includes(path)
        if not name.startswith("python/") and name not in public_headers() and name != "dd.h"
    ]
    assert wrong == []


def test_public_program_includes_nothing_else():
    program = (ROOT / "tests/c/check_public.c").read_text()
    assert [i for i in INCLUDE.findall(program) if "/" in i or i.startswith("dd")] == ["dd.h"]


def test_example_of_public_header_is_the_compiled_one():
    program = (ROOT / "tests/c/check_public.c").read_text()
    compiled = program.split("compares the two. */\n")[1].split("/* The end of the example. */")[0]
    comment = (CSRC / "dd.h").read_text().split("word for word")[1].split("*/")[0]
    shown = [line.removeprefix(" *").removeprefix("     ") for line in comment.splitlines()[2:]]
    assert "\n".join(shown).strip() == compiled.strip()


# ---- the stubs of the C module ------------------------------------------------------------------


def stub_tree() -> ast.Module:
    return ast.parse((ROOT / "deepseek_det/_core.pyi").read_text())


def stub_names(body: list[ast.stmt]) -> set[str]:
    """Names that stubs define, without those for the type checker alone (classes _Name)."""
    names = set()
    for node in body:
        private_class = isinstance(node, ast.ClassDef) and node.name.startswith("_")
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not private_class:
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_stubs_name_what_the_module_has():
    assert stub_names(stub_tree().body) == {n for n in vars(_core) if not n.startswith("__")}


@pytest.mark.parametrize(
    "node",
    [n for n in stub_tree().body if isinstance(n, ast.ClassDef) and hasattr(_core, n.name)],
    ids=lambda n: n.name,
)
def test_stubs_name_what_a_type_has(node):
    own = vars(getattr(_core, node.name))
    hidden = {"__doc__", "__module__", "__new__", "__weakref__", "__dict__", "__getattribute__"}
    assert {n for n in stub_names(node.body) if not n.startswith("__")} == {
        n for n in own if not n.startswith("__")
    }
    special = {n for n in stub_names(node.body) if n.startswith("__")} - {"__init__"}
    assert special <= set(own) | hidden


# ---- names and versions -------------------------------------------------------------------------

# What users type (a contract): dotted names, and the arguments in their order.
FACE = {
    "Detector": "model classes",
    "Detector.train": (
        "data epochs imgsz batch lr0 seed device workers resume freeze patience amp optimizer "
        "cls_loss loss_weights sampler strict project name exist_ok callbacks verbose"
    ),
    "Detector.val": "data split conf iou max_det",
    "Detector.predict": "source conf iou max_det imgsz stream",
    "Detector.save": "path",
    "Detector.info": "",
    "Detector.fuse": "",
    "Detector.state_dict": "",
    "Detector.load_state_dict": "state strict",
    "Detector.infer": "x",
    "Detector.forward": "",
    "Detector.backward": "",
    "list_models": "",
    "set_num_threads": "",
    "get_num_threads": "",
    "set_seed": "",
    "show_config": "",
    "anchors.DynamicAnchorGenerator": "base_sizes",
    "losses.focal_loss": "logits targets alpha gamma reduction",
    "losses.giou_loss": "pred_xyxy target_xyxy reduction",
    "losses.class_balanced_weights": "counts beta",
    "ops.nms": "boxes scores iou_threshold classes max_det",
    "ops.soft_nms": "boxes scores",
    "ops.box_iou": "",
    "ops.giou": "",
    "ops.letterbox": "",
    "data.load": "path split",
    "data.synthetic": "folder n seed",
    "data.convert": "src dst format",
    "data.RepeatSampler": "",
    "quality.cross_check": "a b iou",
    "quality.resolve": "q decisions dst",
    "quality.rank": "data det_or_folds",
    "evaluate.coco": "gt_json dt_json iou_type",
    "evaluate.voc": "gt dt use_07_metric",
    "evaluate.Evaluator": "iou_type",
    "models.mobilenetv3": "size",
    "models.repvgg": "",
}


@pytest.mark.parametrize("name", FACE)
def test_public_name_exists_with_its_arguments(name):
    thing = dd
    for part in name.split("."):
        thing = getattr(thing, part)
    have = [p for p in inspect.signature(thing).parameters if p != "self"]
    wanted = FACE[name].split()
    assert [p for p in have if p in wanted] == wanted


def test_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cmake = (ROOT / "CMakeLists.txt").read_text()
    assert dd.__version__ == project["version"]
    assert re.search(r"VERSION (\d+\.\d+\.\d+)\)", cmake)[1] == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_linters_of_hooks_are_those_of_ci():
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pin = next(r for r in lint["lint"] if r.startswith("ruff==")).removeprefix("ruff==")
    assert f"rev: v{pin}\n" in (ROOT / ".pre-commit-config.yaml").read_text()


# ---- documents ----------------------------------------------------------------------------------

DOCUMENTS = sorted(
    p.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "bench/*.md", "examples/*.md")
    for p in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def anchors_of(path: Path) -> set[str]:
    """The anchors that a Markdown page's headings make, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_document_lead_somewhere(document):
    path = ROOT / document
    broken = []
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text()))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        page = (path.parent / name) if name else path
        if not page.exists() or (anchor and anchor not in anchors_of(page)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sources_named_in_document_exist(document):
    named = re.findall(
        r"`((?:csrc|deepseek_det|tests|bench|docs|examples)/[\w./]+\.\w+)`",
        (ROOT / document).read_text(),
    )
    assert [n for n in named if not (ROOT / n).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_interactive_examples_of_document_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / document).read_text()
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    globs: dict[str, object] = {}
    for language, block in FENCE.findall(text):
        if language in ("python", "pycon") and ">>>" in block:
            test = parser.get_doctest(block, globs, document, document, 0)
            runner.run(test, clear_globs=False)
            globs = test.globs
    assert runner.failures == 0


# Modules that run something when imported.
SCRIPTS = ("deepseek_det.__main__",)


@pytest.mark.parametrize(
    "name",
    [m.name for m in pkgutil.walk_packages(dd.__path__, "deepseek_det.") if m.name not in SCRIPTS],
)
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.fixture
def readme_folder(tmp_path, monkeypatch):
    """A folder in which README's commands find data/ and photo.jpg."""
    dd.data.synthetic(tmp_path / "data", n=12, seed=0)
    picture = next((tmp_path / "data").rglob("*.jpg"))
    (tmp_path / "photo.jpg").write_bytes(picture.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(text: str) -> str:
    """README's example at a size that a test can wait for."""
    for long, short in (
        ("epochs=60", "epochs=1"),
        ("imgsz=320", "imgsz=64"),
        ("--epochs 60", "--epochs 1"),
        ("--imgsz 320", "--imgsz 64"),
        ("dsdet-s", "dsdet-n"),
    ):
        text = text.replace(long, short)
    return text


def test_readme_python_example_runs(readme_folder):
    blocks = [b for lang, b in FENCE.findall((ROOT / "README.md").read_text()) if lang == "python"]
    assert blocks
    for block in blocks:
        exec(compile(small(block), "README.md", "exec"), {})
    assert (readme_folder / "out.jpg").stat().st_size > 1000


def test_readme_commands_run(readme_folder):
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^deepseek-det [^#\n]*", text, re.MULTILINE)
    assert commands
    environment = os.environ | {"PYTHONPATH": str(Path(dd.__file__).parent.parent)}
    for command in commands:
        words = small(command).split()[1:]
        run = subprocess.run(
            [sys.executable, "-m", "deepseek_det", *words],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
