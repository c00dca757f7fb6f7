"""`lit-prune report`: write tables, verdicts and figures from the files in a study's folder."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from lit_prune.cli.failures import print_error
from lit_prune.cli.parser import CommandParser, check_path, one_sentence_errors
from lit_prune.errors import UnfinishedError, expected, one_line
from lit_prune.files.atomic import write_text
from lit_prune.study.report.document import report_text
from lit_prune.study.report.overview import describe_not_started, describe_runs
from lit_prune.study.report.tables import results_csv
from lit_prune.study.results.results import read_results
from lit_prune.study.results.verdicts import FAILS, HOLDS, INCONCLUSIVE, judge

if TYPE_CHECKING:
    from lit_prune.study.report.figures import Figure

_DESCRIPTION = """\
Write a report on the results of a study: report.md, report.html (one page with all figures), results.csv, figures and a
summary for TensorBoard. The study may be unfinished or still running; its runs are not changed."""


def main(argv: Sequence[str]) -> int:
    """Run `lit-prune report`.

    Returns:
        The exit status: 0 for success, 1 if the report could not be written.

    Raises:
        InputError: If the folder or an option cannot be used.
    """
    try:
        given = _parse(argv[1:])
    except SystemExit as leave:  # after --help
        return int(leave.code or 0)
    folder, output = Path(given.folder), None if given.output is None else Path(given.output)
    try:
        write_report(folder, output, figures=not given.no_figures)
    except OSError as error:
        # show only the folder, because the error may name a temporary file, or no file at all
        named = Path(error.filename).parent if isinstance(error.filename, str) else None
        where = named or (folder if output is None else output.parent)
        reason = (error.strerror or str(error)).lower()
        sentence = f"Cannot write to `{where}`: {reason}. Free some space or check the permissions, then try again."
        return print_error(UnfinishedError(sentence))
    return 0


def write_report(folder: str | Path, output: str | Path | None = None, *, figures: bool = True) -> Path:
    """Write the report of a study, and print a short summary.

    Args:
        folder: Folder of the study, to which `results.csv` is written. If it has a file `notes.md`, the report has the
            text of this file.
        output: File of the report; figures are written to `figures/` in the same folder. None means `report.md` in the
            study's folder; then the report is also written as `report.html`, and for TensorBoard, to `report/`.
        figures: Whether to draw figures.

    Returns:
        The path of the report.

    Raises:
        InputError: If `folder` is not the folder of a study, if its `notes.md` is not UTF-8 text, if a folder is where
            a file is to be written, or if a file is where a folder is needed.
        OSError: If a file cannot be written. Each existing file is either unchanged or completely replaced.
    """
    folder = Path(folder)
    path = folder / "report.md" if output is None else Path(output)
    if path.is_dir():
        raise expected("`--output` to be a file", f"the folder `{path}`", f"for example `{path / 'results.md'}`")
    results, notes = read_results(folder), _read_notes(folder / "notes.md")
    _check_places(folder, path, figures=figures, board=output is None)
    started = results.started()
    judgements = [judge(claim, started) for claim in started.plan.claims]
    write_text(folder / "results.csv", results_csv(results))
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn: Sequence[Figure] = []
    if figures:
        from lit_prune.study.report.figures import draw

        drawn = draw(started, path.parent / "figures")
    text = report_text(results, judgements, drawn, notes)
    write_text(path, text)
    if output is None:
        from lit_prune.study.report.html import html_page
        from lit_prune.study.report.tensorboard import write_board

        write_text(path.with_suffix(".html"), html_page(text, drawn))
        write_board(started, drawn, text)
    verdicts = [each.verdict for each in judgements]
    print(f"{describe_runs(started)}. {describe_not_started(results, started)}".rstrip())
    if verdicts:
        counts = [f"{verdict}: {verdicts.count(verdict)}" for verdict in (HOLDS, FAILS, INCONCLUSIVE)]
        print(f"Claims by verdict: {', '.join(counts)}.")
    print(f"Report: {path}" + (f" and {path.with_suffix('.html').name}" if output is None else ""))
    return path


def _read_notes(path: Path) -> str:
    """Return the text that the author of a study has written about its results; "" if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        hint = "save it as UTF-8, or move it away"
        raise expected(f"`{path}` to be UTF-8 text", one_line(error), hint) from error


def _check_places(folder: Path, path: Path, *, figures: bool, board: bool) -> None:
    """Raise an error, before anything is written, if an output file or folder cannot be written."""
    if (table := folder / "results.csv").is_dir():
        raise expected(f"`{table}` to be a file", "a folder", "move the folder away")
    folders = [path.parent] + [path.parent / "figures"] * figures + [folder / "report"] * board
    for place in folders:
        there = next(above for above in (place, *place.parents) if above.exists())
        if not there.is_dir():
            raise expected(f"`{there}` to be a folder", "a file", "move the file away, or use another `--output`")
        with tempfile.TemporaryFile(dir=there):  # writing a file is the only reliable check for permissions
            pass


def _parse(argv: Sequence[str]) -> Namespace:
    parser = CommandParser(prog="lit-prune report", description=_DESCRIPTION)
    parser.add_argument("folder", metavar="DIR", help="Folder that `lit-prune study` wrote.")
    parser.add_argument(
        "--output",
        metavar="FILE.md",
        help="File of the report (default: DIR/report.md). Figures are written to `figures/` in the same folder.",
    )
    parser.add_argument("--no-figures", action="store_true", help="Draw no figures.")
    with one_sentence_errors(argv):
        given: Namespace = parser.parse_args(argv)
    check_path("the study's folder", given.folder)
    if given.output is not None:
        check_path("`--output`", given.output)
    return given
