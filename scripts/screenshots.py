"""Take screenshots of a study in TensorBoard: open its tabs in headless Chromium and write PNG files.

    python scripts/screenshots.py lightning_logs/full docs/

Needs Chromium or Chrome on the PATH, and no network. If pictures are taken too early, increase `--seconds`.
"""

import argparse
import base64
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import quote

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_ADDRESS = re.compile(r"at http://127\.0\.0\.1:(\d+)/")


def main() -> None:
    """Write a PNG file for each tab."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logdir", type=Path, help="the folder of a study")
    parser.add_argument("out", type=Path, help="the folder for the PNG files")
    parser.add_argument("--runs", default=r"^task[12]/.*seed=0$", help="regex of the runs on the Scalars tab")
    parser.add_argument("--seconds", type=int, default=30, help="seconds to wait for each page, in the browser's time")
    given = parser.parse_args()
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("No Chromium or Chrome was found on the PATH. Install Chromium.")
    given.out.mkdir(parents=True, exist_ok=True)
    with tensorboard(given.logdir) as port:
        runs = wait_for_runs(port, given.logdir)
        shown = [run for run in runs if re.search(given.runs, run)] or runs
        for name, height, anchor in tabs(shown):
            path = given.out / f"tensorboard-{name}.png"
            take_screenshot(browser, f"http://127.0.0.1:{port}/#{anchor}", path, height, given.seconds)
            print(path)


def tabs(runs: Sequence[str]) -> list[tuple[str, int, str]]:
    """Name, height in pixels and address of each tab; `runs` are those of the Scalars tab."""
    # no smoothing, which distorts curves of few epochs; with more than 40 runs, these tabs select none by default
    tags = quote("^(train|val)/", safe="")
    return [
        ("scalars", 1000, f"scalars&tagFilter={tags}&runSelectionState={_state(runs)}&_smoothingWeight=0"),
        ("custom-scalars", 1400, f"custom_scalars&runSelectionState={_state(['report'])}&_smoothingWeight=0"),
        ("images", 1400, f"images&runSelectionState={_state(['report'])}"),
        ("hparams", 1000, "hparams"),
    ]


def _state(runs: Sequence[str]) -> str:
    """Encode a selection of runs as TensorBoard does in its address."""
    content = json.dumps(dict.fromkeys(runs, True), separators=(",", ":")).encode()
    # padded with blanks: the address would be cut at the = signs of base64
    return quote(base64.b64encode(content + b" " * (-len(content) % 3)).decode(), safe="")


@contextmanager
def tensorboard(logdir: Path) -> Iterator[int]:
    """Run TensorBoard on a free port of this machine; yield the port."""
    logdir = logdir.resolve()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir.name, "--host", "127.0.0.1", "--port", "0"]
    # a relative path, because TensorBoard shows it on its pages
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
    """Wait until TensorBoard has read every folder with an event file; return its runs."""
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
            continue  # it is still starting
        finally:
            connection.close()
    if not runs:
        sys.exit(f"TensorBoard found no event files in `{logdir}`. Give the folder of a study.")
    return runs


def take_screenshot(browser: str, address: str, path: Path, height: int, seconds: int) -> None:
    """Open a page and write a screenshot."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser,
            "--headless=new",
            "--no-sandbox",  # not available in many containers, and the page is TensorBoard's own
            "--hide-scrollbars",
            "--disable-background-networking",
            "--use-angle=swiftshader",  # charts need WebGL, also without a graphics card
            "--enable-unsafe-swiftshader",
            f"--user-data-dir={profile}",
            f"--window-size=1600,{height}",
            f"--virtual-time-budget={1000 * seconds}",
            f"--screenshot={path.resolve()}",
            address,
        ]
        path.unlink(missing_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 10 * seconds, check=False)
    if not path.is_file():
        sys.exit(f"{browser} did not write `{path}`: {done.stderr.strip()[-500:]}")


if __name__ == "__main__":
    main()
