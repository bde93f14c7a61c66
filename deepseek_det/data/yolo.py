"""YOLO layout: a text file an image, a row a box: `class x_centre y_centre width height`, all four
as fractions of the image.

    root/data.yaml with path, train, val, test, names        (entries: folder, list, or .txt list)
    root/images/<split>/*  root/labels/<split>/*.txt          (or images/* beside labels/*)
    root/<split>/images/*  root/<split>/labels/*.txt

The label file of an image is found by putting `labels` for the last `images` in its path. An image
without label file is a background image, as everywhere with YOLO files (`check` says it); a label
file without image is a defect. Names come from the yaml, else from classes.txt or obj.names, else
they are the numbers that occur, as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from deepseek_det.data.records import (
    IMAGE_SUFFIXES,
    Classes,
    Found,
    Intake,
    Table,
    natural,
    number,
    outside_reason,
)
from deepseek_det.errors import Error

MAX_YAML_BYTES = 1 << 20
MAX_YAML_DEPTH = 64
MAX_LABEL_BYTES = 16 << 20
YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
COLUMNS = ("class", "x", "y", "w", "h")
NAME_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "classes.names")
SPLITS = ("train", "val", "test")
ALIASES = {"valid": "val", "validation": "val"}

# libyaml reads a data.yaml of 1 MB in a second, PyYAML's own parser in twenty.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = (None, "!", *(f"tag:yaml.org,2002:{t}" for t in ("str", "int", "float", "seq", "map")))


def read_yaml(file: Path) -> dict[str, Any]:
    """A data.yaml as a dictionary of text, lists and dictionaries. Raises `Error` with the line."""
    try:
        if file.stat().st_size > MAX_YAML_BYTES:
            raise Error(f"load: {file}: {file.stat().st_size} bytes; the limit is {MAX_YAML_BYTES}")
        return yaml_of(file.read_bytes(), file)
    except OSError as error:
        raise Error(f"load: {file}: {error.strerror or error}") from error


def yaml_of(data: bytes, file: Path) -> dict[str, Any]:
    """`read_yaml` on a file's bytes. file: for messages."""
    try:
        content = _document(yaml.parse(data.decode("utf-8-sig"), Loader=_LOADER))
    except UnicodeDecodeError as error:
        raise Error(f"load: {file}: not UTF-8 text: {error.reason}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise Error(f"load: {file}:{line}: YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise Error(f"load: {file}: YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise Error(f"load: {file}: a {type(content).__name__}, a mapping was needed")
    return content


def _document(events: Iterator[Any]) -> Any:
    """The one document of a stream of events, None where there is none."""
    next(events)  # the stream's start
    if isinstance(next(events), yaml.StreamEndEvent):
        return None
    content = _plain(events, next(events), 0)
    next(events)  # the document's end
    following = next(events)
    if not isinstance(following, yaml.StreamEndEvent):
        raise _refused("a second document", following)
    return content


def _plain(events: Iterator[Any], event: Any, depth: int) -> Any:
    """What begins with `event` as text, list or dictionary; scalars stay text, so that the class
    `no` isn't False.

    Refused is what YAML allows and a data.yaml does not need: a key that stands twice, of which the
    last would win in silence; aliases, by which a small file stands for a huge structure; tags,
    which ask for objects. Events and not nodes, whose marks would take hundreds of times the file.
    """
    if isinstance(event, yaml.AliasEvent):
        raise _refused("an alias; data.yaml needs none", event)
    if depth > MAX_YAML_DEPTH:
        raise _refused(f"nested deeper than {MAX_YAML_DEPTH}", event)
    if event.tag not in _TAGS:
        raise _refused(f"the tag {event.tag[:60]!r}; data.yaml needs none", event)
    if isinstance(event, yaml.ScalarEvent):
        return event.value
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_plain(events, event, depth + 1))
        return items
    content: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        name = _plain(events, event, depth + 1)
        if not isinstance(name, str):
            raise _refused("a key that is no text", event)
        if name in content:
            raise _refused(f"the key {name[:60]!r} stands twice", event)
        content[name] = _plain(events, next(events), depth + 1)
    return content


def _refused(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


class Layout:
    """A folder in YOLO layout; made by `find`. entries: split → folders and list files."""

    format = "yolo"

    def __init__(
        self, root: Path, entries: dict[str, list[Path]], names: dict[int, str] | None
    ) -> None:
        self.root, self.entries, self.names = root, entries, names

    @classmethod
    def find(cls, path: Path, images: Path | None = None) -> Layout | None:
        """The layout at `path` (a folder or a yaml file), None where it is not YOLO's."""
        if path.is_file():
            return cls._from_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else None
        for name in YAMLS:
            if (path / name).is_file():
                return cls._from_yaml(path / name)
        return cls._bare(path, images)

    def splits(self) -> list[str]:
        """Names of the splits, train first."""
        return sorted(self.entries, key=lambda n: (SPLITS.index(n) if n in SPLITS else 3, n))

    @classmethod
    def _from_yaml(cls, file: Path) -> Layout:
        content = read_yaml(file)
        root = _yaml_root(file, content.get("path"))
        entries: dict[str, list[Path]] = {}
        for key in (*SPLITS, *ALIASES):
            value = content.get(key)
            if value in (None, "", []):
                continue
            words = value if isinstance(value, list) else [value]
            paths = [_yaml_entry(file, root, key, word) for word in words]
            entries.setdefault(ALIASES.get(key, key), paths)
        if not entries:
            raise Error(
                f"load: {file}: none of the keys {', '.join(SPLITS)}; at least one was needed"
            )
        return cls(root, entries, _yaml_names(file, content))

    @classmethod
    def _bare(cls, root: Path, images: Path | None) -> Layout | None:
        entries: dict[str, list[Path]] = {}
        image_root, label_root = images or root / "images", root / "labels"
        if image_root.is_dir() and label_root.is_dir():
            folders = [p for p in sorted(image_root.iterdir()) if p.is_dir()]
            entries = {split_name(p.name): [p] for p in folders if (label_root / p.name).is_dir()}
            if not entries:
                entries = {"train": [image_root]}
        else:
            for folder in sorted(root.iterdir()) if root.is_dir() else []:
                if (folder / "images").is_dir() and (folder / "labels").is_dir():
                    entries[split_name(folder.name)] = [folder / "images"]
        if not entries:
            return None
        if not any(
            next(_label_folder(p).glob("*.txt"), None) for ps in entries.values() for p in ps
        ):
            return None
        return cls(root, entries, _names_file(root))

    def read(
        self,
        split: str,
        intake: Intake,
        chosen: list[str] | None = None,
        one_based: bool | None = None,
    ) -> Table:
        """Records of one split. chosen: class names; by name where the data names its classes."""
        names = self.names
        if names is None:
            numbers = range(len(chosen)) if chosen else range(self._largest_class() + 1)
            names = {i: chosen[i] if chosen else str(i) for i in numbers}
        classes = Classes(list(names.values()), list(names), chosen)
        records = []
        read: set[Path] = set()
        for image, file, line in self._images(split, intake):
            labels = self._labels(image)
            read.add(labels)
            picture = intake.picture(image, file, line)
            if picture is None:
                continue
            found: list[Found] = []
            if not intake.followed(labels, image, 0, "labels"):
                continue
            if labels.is_file():
                size = (picture.width, picture.height)
                rows = split_rows(labels, intake)
                found = list(boxes_of(rows, labels, size, classes, names, intake))
            else:
                text = f"no label file {intake.name(labels)}: taken as an image without objects"
                intake.note(image, 0, "labels_missing", "labels", labels.name, text)
            records.append(intake.record(image, self._id(image), picture, None, found, labels))
        self._orphans(split, read, intake)
        return Table(classes.names, classes.categories, records)

    def _images(self, split: str, intake: Intake) -> Iterator[tuple[Path, Path, int]]:
        """(image, file, line) of a split, sorted; the file and line that name it."""
        seen: set[Path] = set()
        for entry in self.entries[split]:
            if entry.is_dir():
                paths = [p for p in entry.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
                listed = [(p, p, 0) for p in sorted(paths, key=lambda p: natural(p.as_posix()))]
            else:
                listed = list(self._listed(entry, intake))
            for image, file, line in listed:
                if image in seen:
                    text = f"{intake.name(image)} is listed twice"
                    intake.reject(file, line, "image_duplicate", "image", image.name, text)
                    continue
                seen.add(image)
                yield image, file, line

    def _listed(self, file: Path, intake: Intake) -> Iterator[tuple[Path, Path, int]]:
        """Images of a .txt list; `./` means beside the list, anything else the root."""
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise Error(f"load: {file}: {error}") from error
        for line, text in enumerate(lines, 1):
            word = text.strip()
            folder = file.parent if word.startswith("./") else self.root
            if word and intake.inside(folder, word, file, line, "image") is not None:
                yield folder / word, file, line

    def _largest_class(self) -> int:
        """The largest class number of all splits, where no file names the classes."""
        silent = Intake(self.root)
        largest = 0
        for split in self.entries:
            for image, _, _ in self._images(split, silent):
                file = self._labels(image)
                for _, words in split_rows(file, silent) if file.is_file() else []:
                    value = number(words[0])
                    # Beyond this a class number is a slip, and names would fill the memory.
                    if value is not None and 0 <= value < 10_000 and value == int(value):
                        largest = max(largest, int(value))
        return largest

    def _orphans(self, split: str, read: set[Path], intake: Intake) -> None:
        """Label files of the split's folders that no image belongs to."""
        for entry in self.entries[split]:
            folder = _label_folder(entry)
            # Labels beside images may share their folder with lists and readmes: no orphans there.
            if not entry.is_dir() or not folder.is_dir() or folder == entry:
                continue
            for file in sorted(folder.rglob("*.txt"), key=lambda p: natural(p.as_posix())):
                if file not in read and file.name != "classes.txt":
                    rows = sum(1 for _ in split_rows(file, Intake(self.root)))
                    text = f"{rows} rows, but no image {file.stem}.* in {intake.name(entry)}"
                    intake.reject(file, 0, "image_missing", "image", file.stem, text)

    def _labels(self, image: Path) -> Path:
        """The label file of an image of this layout."""
        return label_path(image)

    def _id(self, image: Path) -> str:
        try:
            return image.relative_to(self.root).with_suffix("").as_posix()
        except ValueError:
            return image.stem


def boxes_of(
    rows: Iterable[tuple[int, list[str]]],
    file: Path,
    size: tuple[int, int],
    classes: Classes,
    names: dict[int, str],
    intake: Intake,
) -> Iterator[Found]:
    """The sound boxes of a label file's rows (line, words); the others become defects.

    size: (width, height) of the image in pixels.
    """
    for line, words in rows:
        row = " ".join(words)
        if len(words) != 5:
            more = "; polygons are not boxes" if len(words) >= 7 and len(words) % 2 else ""
            text = f"{len(words)} fields, 5 were needed (class x y w h){more}"
            intake.reject(file, line, "field_count", "row", row, text)
            continue
        values = [number(word) for word in words]
        numbers = [v for v in values if v is not None]
        if len(numbers) < 5:
            at = values.index(None)
            text = f"{words[at][:60]!r} is no number"
            intake.reject(file, line, "not_a_number", COLUMNS[at], row, text)
            continue
        id, (x, y, w, h) = numbers[0], numbers[1:]
        label = classes.label(int(id)) if id in names else None
        if label is None:
            text = f"class {words[0]}, known are {len(names)} ({_range(names)})"
            intake.reject(file, line, "class_unknown", "class", words[0], text)
            continue
        width, height = size
        corners = ((x - w / 2) * width, (y - h / 2) * height)
        ends = ((x + w / 2) * width, (y + h / 2) * height)
        yield Found((*corners, *ends), label, False, line, "x y w h", row)


def label_path(image: Path) -> Path:
    """The label file of an image.

    >>> label_path(Path("d/images/train/a.jpg")).as_posix()
    'd/labels/train/a.txt'
    """
    return _label_folder(image.parent) / f"{image.stem}.txt"


def _label_folder(images: Path) -> Path:
    parts = list(images.parts)
    for i in range(len(parts) - 1, -1, -1):
        if parts[i] == "images":
            return Path(*parts[:i], "labels", *parts[i + 1 :])
    return images


def split_name(folder: str) -> str:
    """`train2017` → train, `valid` → val; other names as they are."""
    name = folder.rstrip("0123456789").rstrip("_-") or folder
    name = ALIASES.get(name, name)
    return name if name in SPLITS else folder


def split_rows(file: Path, intake: Intake) -> Iterator[tuple[int, list[str]]]:
    """(line, words) of each row that is not blank."""
    try:
        if file.stat().st_size > MAX_LABEL_BYTES:
            text = f"{file.stat().st_size} bytes; the limit is {MAX_LABEL_BYTES}"
            intake.reject(file, 0, "encoding", "text", "", text)
            return
        data = file.read_bytes()
    except OSError as error:
        raise Error(f"load: {file}: {error.strerror or error}") from error
    yield from rows_of(data, file, intake)


def rows_of(data: bytes, file: Path, intake: Intake) -> Iterator[tuple[int, list[str]]]:
    """`split_rows` on a file's bytes. file: for messages."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 text: {error.reason} at byte {error.start}"
        intake.reject(file, data.count(b"\n", 0, error.start) + 1, "encoding", "text", "", reason)
        return
    for line, row in enumerate(text.split("\n"), 1):
        words = row.split()
        if words:
            yield line, words


def _range(names: dict[int, str]) -> str:
    if not names:
        return "none"
    low, high = min(names), max(names)
    return f"{low}..{high}" if len(names) == high - low + 1 else ", ".join(map(str, names))


def _yaml_root(file: Path, value: Any) -> Path:
    """The folder that `path:` means: relative to the yaml, never outside of its folder."""
    base = file.parent
    if value in (None, "", "."):
        return base
    if not isinstance(value, str):
        raise Error(f"load: {file}: path is {value!r}, a folder's name was needed")
    reason = outside_reason(base, base, value)
    if reason is None and (base / value).is_dir():
        return base / value
    # Published files name their own folder ("path: ../datasets/coco8") as seen from elsewhere.
    if Path(value).name == base.resolve().name:
        return base
    if reason is None:
        raise Error(f"load: {file}: path {value!r} is not a folder in {base}")
    raise Error(
        f"load: {file}: path {value!r} {reason}; put the yaml into that folder and write `path: .`"
    )


def _yaml_entry(file: Path, root: Path, key: str, value: Any) -> Path:
    """A split's folder or list file."""
    if not isinstance(value, str):
        raise Error(f"load: {file}: {key} holds {value!r}, a path was needed")
    # Roboflow's exports write "../train/images" for a folder beside the yaml.
    for word in (value, value.removeprefix("../")):
        if outside_reason(root, root, word) is None and (root / word).exists():
            return root / word
    reason = outside_reason(root, root, value) or f"does not exist in {root}"
    raise Error(f"load: {file}: {key}: path {value!r} {reason}")


def _yaml_names(file: Path, content: dict[str, Any]) -> dict[int, str] | None:
    """`names` as {class number: name}: a list, or a mapping whose numbers may have gaps."""
    value = content.get("names")
    if value is None:
        names = _names_file(file.parent)
    elif isinstance(value, list):
        names = dict(enumerate(value))
    elif isinstance(value, dict) and all(str(k).isdecimal() for k in value):
        names = {int(k): name for k, name in sorted(value.items(), key=lambda kv: int(kv[0]))}
    else:
        raise Error(f"load: {file}: names is no list and no mapping from numbers")
    if names is not None:
        texts = list(names.values())
        if not all(isinstance(n, str) and n for n in texts):
            raise Error(f"load: {file}: names has to hold non-empty texts, got {texts!r:.200}")
        if len(set(texts)) < len(texts):
            twice = sorted({n for n in texts if texts.count(n) > 1})
            raise Error(f"load: {file}: names holds {twice} more than once")
    count = content.get("nc")
    if count is not None and names is not None and str(count) != str(len(names)):
        raise Error(f"load: {file}: nc is {count}, names has {len(names)}")
    return names


def _names_file(root: Path) -> dict[int, str] | None:
    """Names from a file with one a line, None where there is none."""
    for name in NAME_FILES:
        if (root / name).is_file():
            return read_names(root / name)
    return None


def read_names(file: Path) -> dict[int, str]:
    """Class names of a file, one a line. Raises `Error` where they are not different names."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"load: {file}: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names or len(set(names)) < len(names):
        raise Error(f"load: {file}: different names, one a line, were needed")
    return dict(enumerate(names))
