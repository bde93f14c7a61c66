"""Drives a headless Chromium by the DevTools protocol over a pair of pipes: no package needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0


def find() -> str | None:
    """The browser's program, None where there is none (CHROMIUM names another one)."""
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    return next((p for p in (shutil.which(n) for n in names if n) if p), None)


class Browser:
    """One page of a headless browser; use it with `with`. downloads: where its files go."""

    def __init__(self, program: str, folder: Path, size: tuple[int, int] = (1280, 800)) -> None:
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        arguments = [
            "--headless",
            "--no-sandbox",  # CI runs as root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={size[0]},{size[1]}",
            "about:blank",
        ]
        # The browser reads descriptor 3 and writes 4.
        command = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, program, *arguments],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._last = 0
        self._session: str | None = None
        self.errors: list[str] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(t for t in targets if t["type"] == "page")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        self.send("Runtime.enable")
        self.send("Page.enable")
        place = str(self.downloads)
        self.send("Page.setDownloadBehavior", behavior="allow", downloadPath=place)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def send(self, method: str, **params: Any) -> Any:
        """One command; returns its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(answer["params"])[:2000])
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _receive(self) -> Any:
        end = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(end - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        text, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(text)

    def open(self, path: Path) -> None:
        """Opens a file and waits until its script has run."""
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait(
            f"location.href.startsWith({path.resolve().as_uri()!r}) && typeof go == 'function'"
        )

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        out = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in out, out["exceptionDetails"]
        return out["result"].get("value")

    def wait(self, script: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            try:
                if self.run(script):
                    return
            except AssertionError:  # between two pages
                pass
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}")

    def key(self, key: str, control: bool = False) -> None:
        """Presses a key, by its name ("a", "Enter", "ArrowLeft")."""
        text = {"text": key} if len(key) == 1 and not control else {}
        modifiers = 2 if control else 0
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=modifiers, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Presses the mouse at one point of the window and lets it go at another."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        for kind, (x, y) in (
            ("mouseMoved", start),
            ("mousePressed", start),
            ("mouseMoved", middle),
            ("mouseMoved", end),
            ("mouseReleased", end),
        ):
            pressed = kind != "mouseMoved"
            held = 0 if kind == "mouseReleased" or ((x, y) == start and not pressed) else 1
            self.send(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button="left" if pressed else "none",
                buttons=held,
                clickCount=int(pressed),
            )

    def choose_file(self, selector: str, path: Path) -> None:
        """Puts a file into an input element."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def downloaded(self, name: str) -> Path:
        """A file that the page saved, when it is whole; it is moved away for the next one."""
        end = time.monotonic() + TIMEOUT_S
        path = self.downloads / name
        while time.monotonic() < end:
            if path.exists() and not list(self.downloads.glob("*.crdownload")):
                return path.rename(path.with_name(f"{time.monotonic_ns()}-{name}"))
            time.sleep(0.05)
        raise AssertionError(f"{name} was not downloaded")

    def screenshot(self, path: Path) -> None:
        """A picture of the window, as PNG."""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
