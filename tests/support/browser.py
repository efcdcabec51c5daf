"""Chromium without a screen, spoken to over a pipe (the DevTools protocol).

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = "chromium-headless-shell"
PATIENCE = 60.0
# Tests may run as root, for whom Chromium has no sandbox; nothing but our own page is opened.
OPTIONS = ("--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")


class Browser:
    """One page, and what it did since it was last opened.

    requests are the addresses that it asked for, blocked those of them that its own policy did not
    let it ask; complaints are what the console said.
    """

    def __init__(self, to_fd: int, from_fd: int) -> None:
        self._to, self._from = to_fd, from_fd
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._loaded = False
        self.requests: dict[str, str] = {}
        self.blocked: list[str] = []
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, url: str, width: int, *, dark: bool = False) -> None:
        """Load a page into a window so many pixels wide."""
        self._loaded = False
        for noted in (self.requests, self.blocked, self.complaints):
            noted.clear()
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=url)
        until = time.monotonic() + PATIENCE
        while not self._loaded:
            self._take(until)

    def value_of(self, expression: str) -> Any:
        """Return what an expression in JavaScript gives, in the page."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def table(self, name: str) -> list[list[str]]:
        """Return the texts of a table's body, by the table's id."""
        rows = f"[...document.querySelectorAll('#{name} tbody tr')]"
        found: list[list[str]] = self.value_of(
            f"{rows}.map(row => [...row.cells].map(cell => cell.textContent.trim()))"
        )
        return found

    def text(self, selector: str) -> str:
        """Return the text of the one element that a selector names."""
        return str(self.value_of(f"document.querySelector({json.dumps(selector)}).textContent"))

    def picture(self, path: Path) -> None:
        """Save what the whole page looks like, as PNG."""
        made = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(made["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            answer = self._take(until)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    def _take(self, until: float) -> dict[str, Any]:
        """Return the next message, having noted what it tells; AssertionError where none comes."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser says nothing"
            octets = os.read(self._from, 1 << 20)
            assert octets, "the browser has ended"
            self._buffer += octets
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests[told["requestId"]] = told["request"]["url"]
        elif method == "Network.loadingFailed" and told.get("blockedReason") == "csp":
            self.blocked.append(self.requests[told["requestId"]])
        elif method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Log.entryAdded":
            self.complaints.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(told["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))


@contextmanager
def browser(directory: Path) -> Iterator[Browser]:
    """Yield a browser that keeps its files in directory, and ends afterwards."""
    # It reads at 3 and writes at 4.
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    words = [PROGRAM, *OPTIONS, f"--user-data-dir={directory}/profile", "about:blank"]
    shell = f'exec "$@" 3<&{read_in} 4>&{write_out}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", *words],
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "LC_ALL": "C.UTF-8"},
        pass_fds=(read_in, write_out),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read_in)
    os.close(write_out)
    try:
        yield Browser(write_in, read_out)
    finally:
        for fd in (write_in, read_out):
            os.close(fd)
        # Without its pipe the browser ends by itself, and the shell script around it with it.
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
