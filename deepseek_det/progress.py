"""Progress on stderr: a bar on a terminal and in Jupyter, a line an epoch elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    try:
        from IPython import get_ipython  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return False
    shell = get_ipython()  # type: ignore[no-untyped-call,unused-ignore]
    return shell is not None and "IPKernelApp" in shell.config


class Bar:
    """A tqdm bar, or nothing."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar

    def update(self, text: str = "") -> None:
        """One step further; `text` stands behind the bar."""
        if self._bar is not None:
            if text:
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(1)


class Progress:
    """Where a long call tells how far it is; silent unless `verbose`."""

    def __init__(self, verbose: bool = True) -> None:
        self.verbose = verbose
        self.live = verbose and (sys.stderr.isatty() or in_notebook())

    def say(self, text: str) -> None:
        """A message of its own."""
        if self.verbose:
            print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def bar(self, total: int, title: str) -> Iterator[Bar]:
        """A bar of `total` steps that goes away when it is done."""
        if not self.live:
            yield Bar()
            return
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=title, leave=False, file=sys.stderr, dynamic_ncols=True) as bar:
            yield Bar(bar)

    def epoch(self, row: dict[str, float], epochs: int) -> None:
        """One line with the figures of a finished epoch."""
        self.say(
            f"epoch {int(row['epoch']):>3}/{epochs}  cls {row['loss_cls']:.3f}  "
            f"box {row['loss_box']:.3f}  AP {row['ap']:.3f}  AP50 {row['ap50']:.3f}  "
            f"lr {row['lr']:.2g}  {row['time_s']:.0f} s"
        )
