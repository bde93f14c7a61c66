"""Progress: a bar on a terminal and in Jupyter, a line an epoch elsewhere, nothing when quiet."""

from __future__ import annotations

import io
import sys
import types

import pytest

from deepseek_det import progress
from deepseek_det.progress import Progress

ROW = {
    **{"epoch": 3, "time_s": 12.5, "loss_cls": 1.25, "loss_box": 0.5},
    **{"ap": 0.5, "ap50": 0.75, "lr": 0.01},
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use(shown: Progress) -> None:
    with shown.bar(4, "epoch 3/9") as bar:
        for _ in range(4):
            bar.update("cls 1.2")
    shown.epoch(ROW, 9)


def test_terminal_has_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    use(Progress())
    text = err.getvalue()
    assert "epoch 3/9:" in text and "\r" in text
    assert text.rstrip().split("\r")[-1].startswith("epoch   3/9  cls 1.250")


def test_pipe_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    use(Progress())
    assert err.getvalue().count("\n") == 1 and "\r" not in err.getvalue()


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_quiet_has_nothing(kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    err = kind()
    monkeypatch.setattr(sys, "stderr", err)
    use(Progress(verbose=False))
    assert err.getvalue() == ""


@pytest.mark.parametrize(
    ("config", "expected"), [({"IPKernelApp": {}}, True), ({"TerminalIPythonApp": {}}, False)]
)
def test_a_notebook_is_told_from_a_shell(
    config: dict[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: types.SimpleNamespace(config=config)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    assert progress.in_notebook() is expected
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert Progress().live is expected
