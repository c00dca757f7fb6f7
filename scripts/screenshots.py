"""Take screenshots of TensorBoard's tabs for a study, with headless Chromium, and write them as PNG files.

    python scripts/screenshots.py lightning_logs/full docs/

Needs Chromium or Chrome on the PATH, but no network. If a page is captured before it is complete, increase `--seconds`.
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
from collections.abc import Iterator, Mapping, Sequence
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
    parser.add_argument(
        "--runs",
        default=r"^report/(task|vs)",
        help="regular expression for the names of the runs to select on the tabs Time Series and Custom Scalars",
    )
    parser.add_argument(
        "--seconds", type=int, default=30, help="seconds of the browser's virtual time to wait for each page"
    )
    given = parser.parse_args()
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("No Chromium or Chrome was found on the PATH. Install Chromium.")
    given.out.mkdir(parents=True, exist_ok=True)
    with tensorboard(given.logdir) as port:
        runs = wait_for_runs(port, given.logdir)
        for name, height, address in tabs(runs, given.runs):
            path = given.out / f"tensorboard-{name}.png"
            take_screenshot(browser, f"http://127.0.0.1:{port}/{address}", path, height, given.seconds)
            print(path)


def tabs(runs: Sequence[str], pattern: str) -> list[tuple[str, int, str]]:
    """Return the name, the height in pixels, and the query and fragment of the URL of each tab.

    Args:
        runs: All runs.
        pattern: Regular expression for the names of the runs to select on the tabs Time Series and Custom Scalars.
    """
    # switch off smoothing, which distorts short curves
    chosen = _state({run: bool(re.search(pattern, run)) for run in runs})
    figures = _state({run: run == "report" for run in runs})
    tags = quote("^(train|val)/", safe="")
    series = f"?smoothing=0&tagFilter={tags}&runFilter={quote(pattern, safe='')}"
    return [
        ("time-series", 1100, f"{series}#timeseries"),
        ("custom-scalars", 900, f"#custom_scalars&runSelectionState={chosen}&_smoothingWeight=0"),
        ("images", 1400, f"#images&runSelectionState={figures}"),
        ("hparams", 1000, "#hparams"),
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
        sys.exit(f"TensorBoard found no event files in `{logdir}`. Give the folder of a study.")
    return runs


def take_screenshot(browser: str, address: str, path: Path, height: int, seconds: int) -> None:
    """Open a page and write a screenshot."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser,
            "--headless=new",
            "--no-sandbox",  # many containers do not support the sandbox, and the only page is local
            "--hide-scrollbars",
            "--disable-background-networking",
            "--use-angle=swiftshader",  # software rendering: charts need WebGL even without a GPU
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
