"""COCO: a drop-in replacement for pycocotools' class on top of the C reader.

A file that is only evaluated never becomes Python objects: its columns go to the evaluator as the C
reader left them. The dictionaries (`dataset`, `anns`, `imgs`, ...) are made when somebody asks for
them, and from then on they are what is evaluated, since they may have been changed.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_det import _core, mask
from deepseek_det._coco_input import (
    Columns,
    array_columns,
    check_defects,
    file_columns,
    places,
)
from deepseek_det.errors import Error

_INDEXES = ("dataset", "anns", "cats", "imgs", "imgToAnns", "catToImgs")


def _list(value: Any) -> Any:
    """What is no list is a list of one, as pycocotools has it (a string is a list to it)."""
    return value if hasattr(value, "__iter__") and hasattr(value, "__len__") else [value]


class COCO:
    """A COCO data set, as pycocotools.coco.COCO has it.

    annotation_file: a path, a dictionary, or None for an empty one whose `dataset` the caller sets
    before `createIndex()`. Raises OSError where the file cannot be read, Error where it is broken.

    >>> gt = COCO()
    >>> gt.dataset = {"images": [{"id": 3}]}
    >>> gt.createIndex()
    creating index...
    index created!
    >>> gt.getImgIds()
    [3]
    """

    dataset: dict[str, Any]
    anns: dict[Any, Any]
    cats: dict[Any, Any]
    imgs: dict[Any, Any]
    imgToAnns: defaultdict[Any, list[Any]]
    catToImgs: defaultdict[Any, list[Any]]

    def __init__(self, annotation_file: Any = None) -> None:
        self._file: Any = None  # what the C reader gave, while no dictionary was made of it
        self._columns: Columns | None = None
        self._parent: COCO | None = None  # of results: the ground truth, whose images they share
        self._empty()
        if annotation_file is None:
            return
        if isinstance(annotation_file, Mapping):
            self.dataset = dict(annotation_file)
            self.createIndex()
            return
        print("loading annotations into memory...")
        start = time.time()
        self._read(annotation_file)
        print(f"Done (t={time.time() - start:0.2f}s)")
        if self._file is None:
            self.createIndex()
        else:
            print("creating index...")
            print("index created!")

    def _empty(self) -> None:
        self.dataset, self.anns, self.cats, self.imgs = {}, {}, {}, {}
        self.imgToAnns, self.catToImgs = defaultdict(list), defaultdict(list)

    def _read(self, path: Any) -> None:
        """Columns where the strict reader takes the file, else dictionaries."""
        file = _core.coco_read(os.fspath(path), False, None, True)
        name = os.fspath(path)
        try:
            check_defects(file, name, False)
            complete = {"images", "annotations", "categories"} <= set(file["sections"])
        except Error:
            complete = False
        if not complete:  # pycocotools reads such a file, and so does this class
            self.dataset = _loaded(file["text"])
            return
        self._file, self._columns = file, file_columns(file, name, False)
        for attribute in _INDEXES:
            delattr(self, attribute)

    def __getattr__(self, name: str) -> Any:
        """Makes the dictionaries of a file that was only read as columns so far."""
        if name not in _INDEXES or self.__dict__.get("_file") is None:
            raise AttributeError(f"COCO has no attribute {name!r}")
        file, self._file, self._columns = self._file, None, None
        self._empty()
        if self._parent is None:
            self.dataset = _loaded(file["text"])
        else:
            with contextlib.redirect_stdout(None):
                self._take_results(_loaded(file["text"]), self._parent)
        self._index()
        return self.__dict__[name]

    def createIndex(self) -> None:
        """Builds anns, imgs, cats, imgToAnns and catToImgs from `dataset`."""
        print("creating index...")
        self._index()
        print("index created!")

    def _index(self) -> None:
        data = self.dataset
        self.anns, self.imgs, self.cats = {}, {}, {}
        self.imgToAnns, self.catToImgs = defaultdict(list), defaultdict(list)
        for annotation in data.get("annotations", ()):
            self.imgToAnns[annotation["image_id"]].append(annotation)
            self.anns[annotation["id"]] = annotation
            if "categories" in data:
                self.catToImgs[annotation["category_id"]].append(annotation["image_id"])
        self.imgs = {image["id"]: image for image in data.get("images", ())}
        self.cats = {category["id"]: category for category in data.get("categories", ())}

    def info(self) -> None:
        """Prints the data set's info entries."""
        for key, value in self.dataset["info"].items():
            print(f"{key}: {value}")

    # ---- queries

    def getAnnIds(
        self, imgIds: Any = (), catIds: Any = (), areaRng: Any = (), iscrowd: bool | None = None
    ) -> list[Any]:
        """Ids of annotations: of these images and categories, of areas between (exclusive) the two
        of areaRng, of this iscrowd; an empty list leaves that filter out."""
        imgIds, catIds = _list(imgIds), _list(catIds)
        found: Iterable[Any] = self.dataset["annotations"]
        if len(imgIds):
            found = chain.from_iterable(self.imgToAnns[i] for i in imgIds if i in self.imgToAnns)
        if len(catIds):
            wanted = set(catIds)
            found = (a for a in found if a["category_id"] in wanted)
        if len(areaRng):
            found = (a for a in found if areaRng[0] < a["area"] < areaRng[1])
        if iscrowd is not None:
            found = (a for a in found if a["iscrowd"] == iscrowd)
        return [a["id"] for a in found]

    def getCatIds(self, catNms: Any = (), supNms: Any = (), catIds: Any = ()) -> list[Any]:
        """Ids of categories of these names, super-categories and ids; empty: no filter."""
        if self.__dict__.get("_file") is not None and not any(
            len(_list(x)) for x in (catNms, supNms, catIds)
        ):
            return list(self._category_ids())
        found = self.dataset["categories"]
        for key, wanted in (("name", catNms), ("supercategory", supNms), ("id", catIds)):
            if len(_list(wanted)):
                found = [c for c in found if c[key] in _list(wanted)]
        return [c["id"] for c in found]

    def getImgIds(self, imgIds: Any = (), catIds: Any = ()) -> list[Any]:
        """Ids of images, of these ids and with all of these categories; empty: no filter."""
        imgIds, catIds = _list(imgIds), _list(catIds)
        if not len(imgIds) and not len(catIds):
            return list(self._image_ids())
        ids = set(imgIds)
        for i, category in enumerate(catIds):
            images = set(self.catToImgs[category])
            ids = images if i == 0 and not ids else ids & images
        return list(ids)

    def _image_ids(self) -> list[Any]:
        if self.__dict__.get("_file") is not None:
            source = self if self._parent is None else self._parent
            if source.__dict__.get("_file") is not None:
                ids: list[Any] = source._file["images"]["id"].tolist()
                return ids
            return list(source.imgs)
        return list(self.imgs)

    def _category_ids(self) -> list[Any]:
        if self.__dict__.get("_file") is None:
            return [c["id"] for c in self.dataset["categories"]]
        if self._parent is not None:
            return self._parent._category_ids()
        ids: list[Any] = self._file["categories"]["id"].tolist()
        return ids

    def loadAnns(self, ids: Any = ()) -> list[Any]:
        """The annotations of these ids."""
        return [self.anns[i] for i in _list(ids)]

    def loadCats(self, ids: Any = ()) -> list[Any]:
        """The categories of these ids."""
        return [self.cats[i] for i in _list(ids)]

    def loadImgs(self, ids: Any = ()) -> list[Any]:
        """The images' entries of these ids."""
        return [self.imgs[i] for i in _list(ids)]

    # ---- results

    def loadRes(self, resFile: Any) -> COCO:
        """Results as a data set of their own: a file, a list of dictionaries, or an (n, 7) array
        image_id, x, y, w, h, score, category_id.

        A list's dictionaries get ids and areas in place, as in pycocotools. Raises AssertionError
        where a result's image is not in this data set.
        """
        res = COCO()
        res._parent = self
        print("Loading and preparing results...")
        start = time.time()
        if isinstance(resFile, np.ndarray):
            columns = array_columns(resFile)
            file: Any = {"text": np.frombuffer(_rows_json(columns) + b"\0", np.uint8)}
            self._adopt(res, file, columns)
        elif isinstance(resFile, str | os.PathLike):
            self._load_file(res, os.fspath(resFile))
        else:
            res._take_results(resFile, self)
        print(f"DONE (t={time.time() - start:0.2f}s)")
        if res._file is None:
            res.createIndex()
        else:
            print("creating index...")
            print("index created!")
        return res

    def _load_file(self, res: COCO, path: str) -> None:
        file = _core.coco_read(path, True, None, True)
        try:
            check_defects(file, path, True)
        except Error:
            res._take_results(_loaded(file["text"]), self)
            return
        self._adopt(res, file, file_columns(file, path, True))

    def _adopt(self, res: COCO, file: Any, columns: Columns) -> None:
        """Results that stay columns."""
        ids = np.array(self._image_ids())
        known = places(columns.image_id, ids) >= 0
        assert known.all(), "Results do not correspond to current coco set"
        res._file, res._columns = file, columns
        for attribute in _INDEXES:
            delattr(res, attribute)

    def _take_results(self, results: Any, parent: COCO) -> None:
        """Fills in what results lack: ids, areas, boxes, masks; the first one says of what kind."""
        assert isinstance(results, list), "results in not an array of objects"
        images = set(parent.getImgIds())
        assert all(r["image_id"] in images for r in results), (
            "Results do not correspond to current coco set"
        )
        data = parent.dataset
        self.dataset = {"info": copy.deepcopy(data.get("info", {})), "images": [*data["images"]]}
        first = results[0] if results else {}
        if "caption" not in first and results:
            self.dataset["categories"] = copy.deepcopy(data["categories"])
        boxed = len(first.get("bbox", ())) > 0
        for i, r in enumerate(results):
            r["id"] = i + 1
            if "caption" in first:
                continue
            if boxed:
                x, y, w, h = r["bbox"]
                r.setdefault("segmentation", [[x, y, x, y + h, x + w, y + h, x + w, y]])
                r["area"], r["iscrowd"] = w * h, 0
            elif "segmentation" in first:
                r["area"], r["iscrowd"] = mask.area(r["segmentation"]), 0
                if "bbox" not in r:
                    r["bbox"] = mask.toBbox(r["segmentation"])
            elif "keypoints" in first:
                x, y = np.array(r["keypoints"][0::3]), np.array(r["keypoints"][1::3])
                box = [x.min(), y.min(), x.max() - x.min(), y.max() - y.min()]
                r["area"], r["bbox"] = box[2] * box[3], box
        if "caption" in first:
            named = {r["image_id"] for r in results}
            self.dataset["images"] = [i for i in self.dataset["images"] if i["id"] in named]
        self.dataset["annotations"] = results

    def loadNumpyAnnotations(self, data: Any) -> list[dict[str, Any]]:
        """An (n, 7) array of results as dictionaries."""
        rows: list[dict[str, Any]] = json.loads(_rows_json(array_columns(np.asarray(data))))
        return rows

    # ---- masks and pictures

    def annToRLE(self, ann: Mapping[str, Any]) -> dict[str, Any]:
        """The mask of an annotation, whatever form its segmentation has."""
        image, segm = self.imgs[ann["image_id"]], ann["segmentation"]
        h, w = image["height"], image["width"]
        if isinstance(segm, list):
            return mask.merge(mask.frPyObjects(segm, h, w))
        if isinstance(segm["counts"], list):
            out: dict[str, Any] = mask.frPyObjects(segm, h, w)
            return out
        return dict(segm)

    def annToMask(self, ann: Mapping[str, Any]) -> Any:
        """Pixels (h, w) of an annotation's mask, 0 and 1."""
        return mask.decode(self.annToRLE(ann))

    def showAnns(self, anns: Any, draw_bbox: bool = False) -> None:
        """Draws annotations into matplotlib's present axes, or prints captions."""
        from deepseek_det._coco_show import show

        show(self, anns, draw_bbox)

    def download(self, tarDir: str | None = None, imgIds: Any = ()) -> Any:
        """Fetches images from their coco_url into a folder; those that are there are kept."""
        if tarDir is None:
            print("Please specify target directory")
            return -1
        images = self.loadImgs(imgIds) if len(imgIds) else list(self.imgs.values())
        Path(tarDir).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            start = time.time()
            target = Path(tarDir) / Path(image["file_name"]).name
            if not target.exists():
                urllib.request.urlretrieve(image["coco_url"], target)
            print(f"downloaded {i}/{len(images)} images (t={time.time() - start:0.1f}s)")
        return None


def _loaded(text: Any) -> Any:
    return json.loads(bytes(text[:-1]))


def _rows_json(columns: Columns) -> bytes:
    """Results of columns as JSON, for those who ask for the dictionaries."""
    assert columns.score is not None
    rows = zip(
        columns.image_id.tolist(),
        columns.box.tolist(),
        columns.score.tolist(),
        columns.category_id.tolist(),
        strict=True,
    )
    keys = ("image_id", "bbox", "score", "category_id")
    return json.dumps([dict(zip(keys, row, strict=True)) for row in rows]).encode()
