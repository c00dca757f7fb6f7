"""Take screenshots of TensorBoard's tabs for a study, with headless Chromium, and write them as PNG files.

    python scripts/screenshots.py lightning_logs/full docs/

Needs Chromium or Chrome on the PATH, but no network. If a page is captured before it is complete, increase `--seconds`.
"""

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# TensorBoard first shows images in a size at which they cannot be read; checkboxes are inside shadow roots
_ACTUAL_SIZE = """
const all = (root) => [...root.querySelectorAll("*")].flatMap((e) => [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])]);
all(document).find((e) => e.localName === "paper-checkbox" && e.textContent.includes("actual image size")).click();
"""
_ADDRESS = re.compile(r"at http://127\.0\.0\.1:(\d+)/")


def main() -> None:
    """Write a PNG file for each tab."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logdir", type=Path, help="the folder of a study")
    parser.add_argument("out", type=Path, help="the folder for the PNG files")
    parser.add_argument(
        "--runs",
        default=r"^report/(task[15]|vs)",
        help="regular expression for the names of the runs to select on the tabs Time Series and Custom Scalars",
    )
    parser.add_argument("--seconds", type=float, default=15, help="seconds to wait until a page is complete")
    given = parser.parse_args()
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("No Chromium or Chrome was found on the PATH. Install Chromium.")
    given.out.mkdir(parents=True, exist_ok=True)
    with tensorboard(given.logdir) as port:
        runs = wait_for_runs(port, given.logdir)
        for name, height, address, script in tabs(runs, given.runs):
            path = given.out / f"tensorboard-{name}.png"
            take_screenshot(browser, f"http://127.0.0.1:{port}/{address}", path, (1600, height), given.seconds, script)
            print(path)


def tabs(runs: Sequence[str], pattern: str) -> list[tuple[str, int, str, str]]:
    """Return the name, the height in pixels, the query and fragment of the URL, and a script to run, of each tab.

    Args:
        runs: All runs.
        pattern: Regular expression for the names of the runs to select on the tabs Time Series and Custom Scalars.
    """
    chosen = _state({run: bool(re.search(pattern, run)) for run in runs})
    figures = _state({run: run == "report" for run in runs})
    tags = quote("^(train|val)/", safe="")
    # `smoothing=0` and `_smoothingWeight=0` switch off smoothing, which distorts short curves
    series = f"?smoothing=0&tagFilter={tags}&runFilter={quote(pattern, safe='')}"
    return [
        ("time-series", 1100, f"{series}#timeseries", ""),
        ("custom-scalars", 850, f"#custom_scalars&runSelectionState={chosen}&_smoothingWeight=0", ""),
        ("images", 1400, f"#images&runSelectionState={figures}", _ACTUAL_SIZE),
        ("hparams", 1000, "#hparams", ""),
    ]


def _state(runs: Mapping[str, bool]) -> str:
    """Encode a selection of runs as in TensorBoard's URLs."""
    content = json.dumps(runs, separators=(",", ":")).encode()
    # pad with spaces, so that base64 adds no `=`, at which TensorBoard would cut the URL
    return quote(base64.b64encode(content + b" " * (-len(content) % 3)).decode(), safe="")


@contextmanager
def tensorboard(logdir: Path) -> Iterator[int]:
    """Run TensorBoard on a free local port, and yield the port."""
    logdir = logdir.resolve()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir.name, "--host", "127.0.0.1", "--port", "0"]
    # run in the parent folder: TensorBoard shows `--logdir` on its pages, so the path should be short
    process = subprocess.Popen(command, cwd=logdir.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stderr or ():
            lines.append(line)
            if found := _ADDRESS.search(line):
                yield int(found[1])
                return
        sys.exit(f"TensorBoard did not start: {''.join(lines)}")
    finally:
        process.terminate()
        process.wait(30)


def wait_for_runs(port: int, logdir: Path, patience: float = 60) -> list[str]:
    """Wait until TensorBoard lists a run for every folder with an event file; return the names of the runs."""
    wanted = {path.parent for path in logdir.rglob("events.out.tfevents.*")}
    end = time.monotonic() + patience
    runs: list[str] = []
    while time.monotonic() < end and len(runs) < len(wanted):
        time.sleep(0.5)
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/data/runs")
            runs = json.loads(connection.getresponse().read())
        except (OSError, HTTPException, ValueError):
            continue  # TensorBoard is still starting
        finally:
            connection.close()
    if not runs:
        sys.exit(f"TensorBoard listed no runs in `{logdir}`. Check that this is the folder of a study.")
    return runs


class Page:
    """A page in headless Chromium, which is controlled through its DevTools protocol, without a network.

    Args:
        browser: Path of Chromium.
        profile: Empty folder.
        width: Width of the page in pixels.
        height: Height of the page in pixels.
    """

    def __init__(self, browser: str, profile: str, width: int, height: int) -> None:
        options = [
            "--headless=new",
            "--no-sandbox",  # many containers do not support the sandbox, and the only page is local
            "--disable-background-networking",
            "--use-angle=swiftshader",  # software rendering: charts need WebGL even without a GPU
            "--enable-unsafe-swiftshader",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        # Chromium reads commands from file descriptor 3, and writes answers to 4
        shell = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["sh", "-c", shell, browser, *options]
        self._process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self._received = b""
        self._session: dict[str, str] = {}
        self._count = 0
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command, and return the answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters} | self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self._count:
                if "error" in answer:
                    sys.exit(f"The browser refused `{method}`: {answer['error']}")
                found: dict[str, Any] = answer["result"]
                return found

    def close(self) -> None:
        """Stop the browser."""
        os.close(self._out)  # Chromium exits when its pipe is closed
        os.close(self._in)
        self._process.wait(30)

    def _read(self) -> bytes:
        """Return the next message, without the zero byte at its end."""
        while b"\0" not in self._received:
            if not (part := os.read(self._in, 1 << 16)):
                sys.exit("The browser stopped.")
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return message


def take_screenshot(
    browser: str, address: str, path: Path, size: tuple[int, int], seconds: float, script: str = ""
) -> None:
    """Open a page, wait, run a script in the page, wait again, and write a screenshot.

    Args:
        browser: Path of Chromium.
        address: URL of the page.
        path: PNG file to write.
        size: Width and height of the page in pixels.
        seconds: Seconds to wait.
        script: JavaScript to run; "" for none.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        page = Page(browser, profile, *size)
        page.send("Page.navigate", url=address)
        time.sleep(seconds)
        if script:
            page.send("Runtime.evaluate", expression=script)
            time.sleep(seconds / 2)
        image = page.send("Page.captureScreenshot", format="png")["data"]
        page.close()
    path.write_bytes(base64.b64decode(image))


if __name__ == "__main__":
    main()
