"""Pascal VOC layout: an XML file an image, streamed through expat.

    root/Annotations/*.xml  root/JPEGImages/*  root/ImageSets/Main/<split>.txt
    root/<split>/*.xml beside their images                 (Roboflow's Pascal VOC export)
    root/*.xml beside their images                         (labelImg)

Folder names match in any case, `images` serves as well as `JPEGImages`, and without ImageSets all
XML files are the split "train". The image of an id is `<id>` with any image suffix (the devkit's
rule); where there is none, the name in `<filename>`.

Coordinates: a file whose `<source><annotation>` says PASCAL VOC is 1-based and inclusive, so
(xmin-1, ymin-1, xmax, ymax) are its pixel edges; all other tools write edges, taken as they are.
Class names are those found over all splits, sorted by code point.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from deepseek_det.data.decode import Picture
from deepseek_det.data.records import (
    IMAGE_SUFFIXES,
    Classes,
    Found,
    Intake,
    Table,
    natural,
    number,
)
from deepseek_det.data.yolo import SPLITS, split_name

MAX_XML_BYTES = 16 << 20
MAX_DEPTH = 64
SIDES = ("xmin", "ymin", "xmax", "ymax")
_CLASS_LIST = re.compile(r".+_(?:train|val|trainval|test)")
_NAME = re.compile(rb"<name[^>]*>\s*([^<]*?)\s*</name")


@dataclass(slots=True)
class XmlObject:
    """One `<object>`: text and line of each element that was there."""

    line: int
    fields: dict[str, tuple[str, int]] = field(default_factory=dict)
    has_box: bool = False


@dataclass(slots=True)
class XmlFile:
    """What one annotation file says, unchecked."""

    fields: dict[str, tuple[str, int]] = field(default_factory=dict)
    objects: list[XmlObject] = field(default_factory=list)


class XmlRefused(Exception):
    """A file that is not read at all. code: a key of `records.CODES`."""

    def __init__(self, line: int, code: str, text: str) -> None:
        super().__init__(text)
        self.line, self.code, self.text = line, code, text


_FILE_PATHS = {
    ("annotation", "filename"): "filename",
    ("annotation", "size", "width"): "width",
    ("annotation", "size", "height"): "height",
    ("annotation", "source", "annotation"): "source",
}
_OBJECT_PATHS = {
    ("annotation", "object", "name"): "name",
    ("annotation", "object", "difficult"): "difficult",
} | {("annotation", "object", "bndbox", side): side for side in SIDES}


class _Stream:
    """expat's handlers: keeps the texts of the few paths that a detector needs."""

    def __init__(self) -> None:
        self.file = XmlFile()
        self.path: list[str] = []
        self.text: list[str] = []
        self.line = 0
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.text.append
        self.parser.StartDoctypeDeclHandler = self.doctype
        self.parser.EntityDeclHandler = self.doctype

    def doctype(self, *_: object) -> None:
        # A VOC file needs none; refusing them all ends entity bombs and external entities at once.
        text = "a DTD or entity declaration; VOC files have none"
        raise XmlRefused(self.parser.CurrentLineNumber, "xml_dtd", text)

    def start(self, name: str, _: dict[str, str]) -> None:
        self.line = self.parser.CurrentLineNumber
        if not self.path and name != "annotation":
            text = f"the root element is <{name[:60]}>, <annotation> was needed"
            raise XmlRefused(self.line, "xml_structure", text)
        self.path.append(name)
        self.text.clear()
        if len(self.path) > MAX_DEPTH:
            text = f"elements nested deeper than {MAX_DEPTH}"
            raise XmlRefused(self.line, "xml_structure", text)
        if self.path == ["annotation", "object"]:
            self.file.objects.append(XmlObject(self.line))
        elif self.path == ["annotation", "object", "bndbox"]:
            self.file.objects[-1].has_box = True

    def end(self, _: str) -> None:
        path = tuple(self.path)
        if path in _FILE_PATHS:
            self.file.fields[_FILE_PATHS[path]] = ("".join(self.text).strip(), self.line)
        elif path in _OBJECT_PATHS:
            fields = self.file.objects[-1].fields
            fields[_OBJECT_PATHS[path]] = ("".join(self.text).strip(), self.line)
        self.path.pop()
        self.text.clear()


def parse(data: bytes) -> XmlFile:
    """Parses one annotation file. Raises `XmlRefused` with the line.

    >>> file = parse(b"<annotation><object><name>cat</name></object></annotation>")
    >>> file.objects[0].fields
    {'name': ('cat', 1)}
    """
    if len(data) > MAX_XML_BYTES:
        raise XmlRefused(0, "xml_structure", f"{len(data)} bytes; the limit is {MAX_XML_BYTES}")
    stream = _Stream()
    try:
        stream.parser.Parse(data, True)
    except expat.ExpatError as error:
        text = expat.errors.messages.get(error.code, "not well-formed")
        raise XmlRefused(error.lineno, "xml_syntax", f"XML: {text}") from error
    except (LookupError, ValueError) as error:  # an encoding that Python or expat does not know
        line = stream.parser.CurrentLineNumber
        raise XmlRefused(line, "xml_syntax", f"XML: encoding: {error}"[:200]) from error
    return stream.file


class Layout:
    """A folder in VOC layout; made by `find`."""

    format = "voc"

    def __init__(self, root: Path, labels: Path, images: Path, sets: Path | None) -> None:
        self.root, self.labels, self.images, self.sets = root, labels, images, sets
        self._by_stem: dict[str, Path] | None = None

    @classmethod
    def find(cls, root: Path, images: Path | None = None) -> Layout | None:
        """The layout of `root`, None where it is not VOC's. images: overrides the image folder."""
        if not root.is_dir():
            return None
        folders = {p.name.lower(): p for p in sorted(root.iterdir()) if p.is_dir()}
        labels = folders.get("annotations")
        if labels is None or next(labels.glob("*.xml"), None) is None:
            return None
        image_folder = images or folders.get("jpegimages") or folders.get("images") or labels
        sets = folders.get("imagesets")
        if sets is not None:
            main = {p.name.lower(): p for p in sets.iterdir() if p.is_dir()}.get("main", sets)
            sets = main if next(main.glob("*.txt"), None) is not None else None
        return cls(root, labels, image_folder, sets)

    def splits(self) -> list[str]:
        """Names of the splits, in the usual order, others after them."""
        if self.sets is None:
            return ["train"]
        # VOC2007 and 2012 keep a list a class beside the splits ("cat_train.txt"): no splits.
        names = [p.stem for p in self.sets.glob("*.txt") if not _CLASS_LIST.fullmatch(p.stem)]
        if "default" in names and "train" not in names:
            names[names.index("default")] = "train"  # CVAT's name of the only split
        usual = ("train", "val", "trainval", "test")
        return sorted(names, key=lambda n: (usual.index(n) if n in usual else len(usual), n))

    def read(
        self,
        split: str,
        intake: Intake,
        chosen: list[str] | None = None,
        one_based: bool | None = None,
    ) -> Table:
        """Records of one split. chosen: class names that replace the found ones."""
        parsed: dict[Path, XmlFile] = {}
        listed = list(self._listed(split, intake))
        for id, file, line in listed:
            found = self._parse(id, file, line, intake)
            if found is not None:
                parsed[self.labels / f"{id}.xml"] = found
        names = chosen or self._names(parsed)
        classes = Classes(names, list(range(len(names))))
        records = []
        for id, _, _ in listed:
            path = self.labels / f"{id}.xml"
            if path not in parsed:
                continue
            xml = parsed[path]
            image = self._image(id, path, xml, intake)
            if image is None:
                continue
            boxes = self._boxes(path, xml, classes, intake, one_based)
            picture = image[1]
            size = _declared(xml)
            line = xml.fields.get("width", ("", 0))[1]
            records.append(intake.record(image[0], id, picture, size, boxes, path, line))
        return Table(names, classes.categories, records)

    def _listed(self, split: str, intake: Intake) -> Iterator[tuple[str, Path, int]]:
        """(id, file, line) of each image of a split; the file that names it."""
        if self.sets is None:
            for path in sorted(self.labels.glob("*.xml"), key=lambda p: natural(p.name)):
                yield path.stem, path, 0
            return
        file = self.sets / f"{split}.txt"
        if split == "train" and not file.is_file():
            file = self.sets / "default.txt"
        yield from listed_ids(file, self.labels, intake)

    def _parse(self, id: str, file: Path, line: int, intake: Intake) -> XmlFile | None:
        path = self.labels / f"{id}.xml"
        if not intake.followed(path, file, line, "id"):
            return None
        try:
            return parse(path.read_bytes())
        except FileNotFoundError:
            text = f"no annotation {intake.name(path)}"
            intake.reject(file, line, "annotation_missing", "id", id, text)
        except XmlRefused as refused:
            intake.reject(path, refused.line, refused.code, "xml", path.name, refused.text)
        return None

    def _names(self, parsed: dict[Path, XmlFile]) -> list[str]:
        """Sorted class names over all splits."""
        names = {n for file in parsed.values() for n in _object_names(file)}
        silent = Intake(self.root)
        for split in self.splits():
            for id, _, _ in self._listed(split, silent):
                path = self.labels / f"{id}.xml"
                if path in parsed or not path.is_file():
                    continue
                if not silent.followed(path, path, 0, ""):
                    continue
                data = path.read_bytes()
                # A scan costs a tenth of a parse: only a file with an unseen name is parsed.
                if all(n.decode("utf-8", "replace") in names for n in _NAME.findall(data)):
                    continue
                try:
                    names.update(_object_names(parse(data)))
                except XmlRefused:
                    continue  # told when that split is loaded
        return sorted(names)

    def _image(
        self, id: str, path: Path, xml: XmlFile, intake: Intake
    ) -> tuple[Path, Picture] | None:
        """The image of an id and its header; None and a defect."""
        filename, line = xml.fields.get("filename", ("", 0))
        if filename and not intake.inside(
            self.images, filename, path, line, "filename", self.images
        ):
            return None
        if self._by_stem is None:
            self._by_stem = images_by_stem(self.images)
        image = self._by_stem.get(id)
        named = self.images / filename if filename else None
        if image is None:
            image = named or self.images / f"{id}.jpg"
        elif named is not None and named != image and named.is_file():
            text = f"<filename> says {filename}, the image of this file's name is used"
            intake.note(path, line, "filename_differs", "filename", filename, text)
        picture = intake.picture(image, path, line, "filename")
        return None if picture is None else (image, picture)

    def _boxes(
        self, path: Path, xml: XmlFile, classes: Classes, intake: Intake, one_based: bool | None
    ) -> list[Found]:
        if one_based is None:
            one_based = "pascal voc" in xml.fields.get("source", ("", 0))[0].lower()
        found = []
        for item in xml.objects:
            box = _box(path, item, intake)
            name = item.fields.get("name", ("", item.line))
            if not name[0]:
                text = "object without a name"
                intake.reject(path, item.line, "field_missing", "name", "", text)
                continue
            label = classes.names.index(name[0]) if name[0] in classes.names else None
            if label is None:
                text = f"class {name[0]!r} is none of {classes.names}"
                intake.reject(path, name[1], "class_unknown", "name", name[0], text)
            elif box is not None:
                x0, y0, x1, y1 = box
                corners = (x0 - 1, y0 - 1, x1, y1) if one_based else box
                difficult = item.fields.get("difficult", ("0", 0))[0] not in ("", "0")
                line = item.fields["xmin"][1]
                written = " ".join(item.fields[side][0] for side in SIDES)
                found.append(Found(corners, label, difficult, line, "bndbox", written))
        return found


class Beside:
    """XML files that lie beside their images, a folder a split or one in all; made by `find`."""

    format = "voc"

    def __init__(self, root: Path, folders: dict[str, Path], images: Path | None) -> None:
        self.root, self.folders, self.images = root, folders, images

    @classmethod
    def find(cls, root: Path, images: Path | None = None) -> Beside | None:
        """The layout of `root`, None where no VOC annotations lie in it or in its folders."""
        if not root.is_dir():
            return None
        if _holds_annotations(root):
            return cls(root, {"train": root}, images)
        inner = [p for p in sorted(root.iterdir()) if p.is_dir() and _holds_annotations(p)]
        return cls(root, {split_name(p.name): p for p in inner}, images) if inner else None

    def splits(self) -> list[str]:
        """Names of the splits, train first."""
        return sorted(self.folders, key=lambda n: (SPLITS.index(n) if n in SPLITS else 3, n))

    def read(
        self,
        split: str,
        intake: Intake,
        chosen: list[str] | None = None,
        one_based: bool | None = None,
    ) -> Table:
        """Records of one split; names are those of all splits."""
        layouts = {s: Layout(self.root, p, self.images or p, None) for s, p in self.folders.items()}
        names = chosen or sorted({n for each in layouts.values() for n in each._names({})})
        return layouts[split].read("train", intake, names, one_based)


def _holds_annotations(folder: Path) -> bool:
    """Whether the first XML file of a folder, if any, begins as a VOC annotation."""
    first = min(folder.glob("*.xml"), default=None)
    if first is None or not first.is_file():
        return False
    with first.open("rb") as stream:
        return re.search(rb"<annotation[\s>]", stream.read(4096)) is not None


def listed_ids(file: Path, labels: Path, intake: Intake) -> Iterator[tuple[str, Path, int]]:
    """(id, file, line) of each image that a split's list names, the first word of a line.

    labels: the folder that an id may not leave.
    """
    seen: dict[str, int] = {}
    for line, text in enumerate(_lines(file, intake), 1):
        words = text.split()
        if not words:
            continue
        if words[0] in seen:
            again = f"{words[0]} stands in line {seen[words[0]]} already"
            intake.reject(file, line, "image_duplicate", "id", words[0], again)
        elif intake.inside(labels, words[0], file, line, "id", labels) is not None:
            seen[words[0]] = line
            yield words[0], file, line


def images_by_stem(folder: Path) -> dict[str, Path]:
    """The image files of one folder by name without suffix; of two, the first by name counts."""
    result: dict[str, Path] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                result.setdefault(path.stem, path)
    return result


def _lines(file: Path, intake: Intake) -> list[str]:
    """Lines of a split's list; an empty list and a defect where it is no text."""
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        intake.reject(file, 0, "encoding", "text", "", f"not UTF-8 text: {error.reason}")
    return []


def _object_names(file: XmlFile) -> set[str]:
    return {o.fields["name"][0] for o in file.objects if "name" in o.fields} - {""}


def _declared(xml: XmlFile) -> tuple[int, int] | None:
    """`<size>`; None where it is absent, no number, or zero (some tools write 0 for unknown)."""
    sides = [number(xml.fields.get(key, ("", 0))[0]) for key in ("width", "height")]
    if any(side is None or not 1 <= side < 1e6 for side in sides):
        return None
    return int(sides[0] or 0), int(sides[1] or 0)


def _box(path: Path, item: XmlObject, intake: Intake) -> tuple[float, float, float, float] | None:
    """The four numbers as written, or None and a defect."""
    if not item.has_box:
        intake.reject(path, item.line, "box_missing", "bndbox", "", "object without bndbox")
        return None
    values = []
    for side in SIDES:
        text, line = item.fields.get(side, ("", item.line))
        value = number(text)
        if side not in item.fields:
            intake.reject(path, item.line, "field_missing", side, "", f"bndbox without {side}")
            return None
        if value is None:
            intake.reject(path, line, "not_a_number", side, text, f"{side} is {text[:60]!r}")
            return None
        values.append(value)
    return values[0], values[1], values[2], values[3]
