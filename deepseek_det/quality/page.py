"""The page on which a person goes through disputes: one HTML file, nothing to load, no server.

Its parts lie beside this file: page.html (the frame), page.css and page.js (what it does). What a
person decides stays in the browser's local storage until it is exported as the file that `resolve`
reads.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from deepseek_det import draw
from deepseek_det.checkpoint import write_bytes
from deepseek_det.data.decode import decode, header
from deepseek_det.errors import Error
from deepseek_det.quality.disputes import REASONS, Agreed, CrossCheck
from deepseek_det.quality.resolve import DECISIONS, DECISIONS_VERSION
from deepseek_det.quality.sets import Image

if TYPE_CHECKING:
    import numpy.typing as npt

HERE = Path(__file__).parent
BROWSER_KINDS = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"RIFF": "webp",
}
"""What every browser shows, by the file's first bytes."""
LARGEST_BYTES = 3_000_000
LARGEST_PX = 2000
"""Beyond these an image is held in the page scaled down; boxes keep the original's pixels."""
MOST_BYTES = 1_500_000_000
"""What browsers still open; beyond, images have to be linked."""


def write_page(
    q: CrossCheck, path: str | os.PathLike[str], images: str = "embed", title: str = ""
) -> Path:
    """Writes the page for a comparison's disputes; returns its path.

    images: "embed" puts those with disputes into the page, "link" refers to their files relative
    to the page (a turned photo, or one that browsers can't show, is embedded nevertheless). title:
    by default says how many disputes there are.
    Raises ValueError on `images`, Error where an image can't be read or all would be too much for a
    browser, OSError where the page can't be written.
    """
    if images not in ("embed", "link"):
        raise ValueError(f'page: images is {images!r}, "embed" or "link" was needed')
    target = Path(path)
    wanted = {d.image for d in q.disputes}
    agreed: dict[str, list[Agreed]] = {}
    for label in q.agreed:
        agreed.setdefault(label.image, []).append(label)
    shown: dict[str, Any] = {}
    total = 0
    for image in q.images:
        if image.name not in wanted:
            continue
        source = _source(image, None if images == "embed" else target.resolve().parent)
        total += len(source)
        if total > MOST_BYTES:
            raise Error(
                f"page: the images are more than {MOST_BYTES / 1e9:g} GB, which no browser opens; "
                'images="link" refers to their files'
            )
        boxes = [[round(v, 2) for v in a.xyxy] for a in agreed.get(image.name, [])]
        shown[image.name] = {
            "src": source,
            "width": image.width,
            "height": image.height,
            "agreed": boxes,
        }
    heading = title or f"{len(q.disputes)} disputes, {' against '.join(q.annotators)}"
    page = _fill(
        (HERE / "page.html").read_text(encoding="utf-8"),
        {
            "title": escape(heading),
            "style": (HERE / "page.css").read_text(encoding="utf-8"),
            "script": (HERE / "page.js").read_text(encoding="utf-8"),
            "data": _script_json(_data(q, shown)),
        },
    )
    write_bytes(target, page.encode("utf-8"))
    return target


def _fill(template: str, parts: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], template)


def _script_json(value: Any) -> str:
    """JSON that can't end the script element it stands in."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _data(q: CrossCheck, images: dict[str, Any]) -> dict[str, Any]:
    return {
        "digest": q.digest(),
        "decisions_format": DECISIONS,
        "decisions_version": DECISIONS_VERSION,
        "annotators": q.annotators,
        "names": q.names,
        "reasons": REASONS,
        "images": images,
        "disputes": [
            {
                "id": d.id,
                "image": d.image,
                "reason": d.reason,
                "text": d.text,
                "score": d.score,
                "suggestion": d.suggestion,
                "candidates": [
                    {"xyxy": c.xyxy, "name": c.name, "annotator": c.annotator, "conf": c.conf}
                    for c in d.candidates
                ],
            }
            for d in q.disputes
        ],
    }


def _source(image: Image, folder: Path | None) -> str:
    """What stands in the page for an image: a data URL, or its address relative to `folder`."""
    try:
        content = image.path.read_bytes()
    except OSError as error:
        raise Error(f"page: {image.path}: {error.strerror or error}") from error
    kind = next((k for start, k in BROWSER_KINDS.items() if content.startswith(start)), None)
    seen = header(content)
    upright = seen.orientation == 1  # how browsers turn images inside of drawings differs
    if folder is not None and kind and upright:
        return quote(Path(os.path.relpath(image.path.resolve(), folder)).as_posix())
    if not kind or not upright or len(content) > LARGEST_BYTES:
        content, kind = draw.encode(_shrunk(decode(image.path, say_frames=False))), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _shrunk(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    from PIL import Image as Pillow

    scale = LARGEST_PX / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size: Sequence[int] = [max(1, round(s * scale)) for s in (pixels.shape[1], pixels.shape[0])]
    return np.asarray(Pillow.fromarray(pixels).resize((size[0], size[1])))
