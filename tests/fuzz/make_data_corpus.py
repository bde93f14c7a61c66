"""Makes the corpus of data_replay: small label files of every format, sound ones and odd ones.

Run from the project's root: python tests/fuzz/make_data_corpus.py. The JSON files of LVIS go to
fuzz_json's corpus, which reads them in C.
"""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "corpus"

OBJECT = (
    "<object><name>cat</name><difficult>1</difficult><bndbox><xmin>4</xmin><ymin>5.5</ymin>"
    "<xmax>30</xmax><ymax>4e1</ymax></bndbox><part><name>head</name></part></object>"
)
HEAD = "<filename>a.jpg</filename><size><width>64</width><height>48</height></size>"
SOURCE = "<source><annotation>PASCAL VOC2007</annotation></source>"
HEAD_CSV = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
KITTI = "Car 0.00 0 -1.57 4 5.5 30 40 1.5 1.6 3.9 1.0 1.5 20.0 -1.6"
LVIS = {
    "info": {"version": "v1"},
    "images": [
        {
            "id": 1,
            "coco_url": "http://images.cocodataset.org/val2017/000000000001.jpg",
            "width": 64,
            "height": 48,
            "neg_category_ids": [2],
            "not_exhaustive_category_ids": [],
        }
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 2, 30, 40],
            "area": 9.5,
            "segmentation": [[1, 2, 30, 2, 30, 40]],
        }
    ],
    "categories": [
        {"id": 1, "name": "cat", "frequency": "f", "synset": "cat.n.01", "image_count": 1},
        {"id": 2, "name": "käse", "frequency": "r"},
    ],
}

FILES: dict[str, str] = {
    "voc/plain.xml": f"<annotation>{HEAD}{OBJECT}</annotation>",
    "voc/devkit.xml": f"<annotation>\n{HEAD}\n{SOURCE}\n{OBJECT}\n{OBJECT}\n</annotation>\n",
    "voc/empty.xml": "<annotation/>",
    "voc/latin.xml": f"<?xml version='1.0' encoding='latin1'?><annotation>{OBJECT}</annotation>",
    "voc/dtd.xml": f'<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;{OBJECT}</annotation>',
    "voc/deep.xml": "<annotation>" + "<a>" * 70 + "</a>" * 70 + "</annotation>",
    "voc/cdata.xml": "<annotation><object><name><![CDATA[<cat>]]></name></object></annotation>",
    "yolo/plain.txt": "0 0.5 0.5 0.25 0.25\n1 .25 .75 .5 .5\n",
    "yolo/odd.txt": "\n  0\t0.5 0.5 1 1\r\n0 nan inf -1 1e400\n1 .1 .1 .2 .2 .3 .3\n",
    "yolo/bom.txt": "\ufeff0 .5 .5 .1 .1",
    "yaml/list.yaml": "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n",
    "yaml/map.yaml": "train:\n- images/a\n- images/b\nnames:\n  0: cat\n  1: 'no'\n",
    "yaml/alias.yaml": "a: &a [x]\nb: *a\ntrain: t\n",
    "yaml/tag.yaml": "train: !!python/object/apply:os.system ['true']\n",
    "yaml/flow.yaml": '{train: "i\\u00e4", names: {0: a}, x: [[[]]], y: |\n  text\n}\n',
    "kitti/plain.txt": f"{KITTI}\n{KITTI} 0.9\n",
    "kitti/dont_care.txt": "DontCare -1 -1 -10 8.5 16 32 40 -1 -1 -1 -1000 -1000 -1000 -10\n",
    "kitti/short.txt": "Car 0.00 0 -1.57 4 5 30\n",
    "csv/tensorflow.csv": HEAD_CSV + "a.jpg,64,48,cat,4,5,30,40\nb.jpg,64,48,,,,,\n",
    "csv/retinanet.csv": "a.jpg,4,5,30,40,cat\nb.jpg,,,,,\n",
    "csv/openimages.csv": (
        "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n"
        'a,cat,"0,1",0.5,0.25,0.75,1\na,dog,0,1,0,1,0\n'
    ),
    "csv/semicolons.csv": 'image;label;x1;y1;x2;y2\n"a;b.jpg";"c ""d""";1;2;3;4\n',
    "csv/paths.csv": HEAD_CSV + "../x.jpg,,,cat,1,2,3,4\n/etc/x.jpg,,,cat,1,2,3,4\n",
    "json/lvis.json": json.dumps(LVIS, ensure_ascii=False),
    "json/lvis_lines.json": json.dumps(LVIS, indent=1),
}

if __name__ == "__main__":
    for name, text in FILES.items():
        file = FOLDER / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="")
        print(f"{name}: {file.stat().st_size} bytes")
