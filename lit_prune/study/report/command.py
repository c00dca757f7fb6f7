"""`lit-prune report`: from a study's folder to tables, verdicts and figures."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_prune.cli.failures import print_error
from lit_prune.errors import InputError, expected
from lit_prune.files.atomic import write_text
from lit_prune.study.arguments import SentenceParser, check_path
from lit_prune.study.report.document import report_text
from lit_prune.study.report.tables import results_csv
from lit_prune.study.results.results import Results, read_results
from lit_prune.study.results.verdicts import FAILS, HOLDS, OPEN, Judgement, judge

if TYPE_CHECKING:
    from lit_prune.study.report.figures import Figure

__all__ = ["main", "write_report"]

_DESCRIPTION = """\
Turn the folder of a study, complete or not, into report.md, results.csv and figures, and into a summary for
TensorBoard. It may be called while the study runs; nothing of its runs is changed."""


def main(argv: Sequence[str]) -> int:
    """Run `lit-prune report`.

    Args:
        argv: The command and its options.

    Returns:
        The exit status: 0, or 1 if the report could not be written.

    Raises:
        InputError: If the folder or an option cannot be used.
    """
    try:
        given = _parse(argv[1:])
    except SystemExit as leave:  # --help ends here
        return int(leave.code or 0)
    folder, output = Path(given.folder), None if given.output is None else Path(given.output)
    try:
        write_report(folder, output, figures=not given.no_figures)
    except OSError as error:
        return print_error(_unwritten(error, folder, output), 1)
    return 0


def write_report(folder: str | Path, output: str | Path | None = None, *, figures: bool = True) -> Path:
    """Report a study, and print a summary of a few lines.

    Args:
        folder: The study's folder. `results.csv` is written there.
        output: The report; figures go to `figures/` beside it. None is `report.md` in the study's folder, with a
            summary for TensorBoard in `report/`.
        figures: False draws none.

    Returns:
        Where the report is.

    Raises:
        InputError: If it is not a study's folder, or the output cannot be a file.
        OSError: If something could not be written. What was there before stays whole.
    """
    folder = Path(folder)
    path = folder / "report.md" if output is None else Path(output)
    if path.is_dir():
        raise expected("`--output` to be a file", f"the folder `{path}`", f"for example `{path / 'results.md'}`")
    results = read_results(folder)
    _check_places(folder, path, figures=figures, board=output is None)
    judgements = [judge(claim, results) for claim in results.plan.claims]
    write_text(folder / "results.csv", results_csv(results))
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn: Sequence[Figure] = _draw(results, path.parent / "figures") if figures else []
    text = report_text(results, judgements, drawn, path.parent)
    write_text(path, text)
    if output is None:
        from lit_prune.study.report.tensorboard import write_board

        write_board(results, drawn, text)
    print(_summary(results, judgements, path))
    return path


def _check_places(folder: Path, path: Path, *, figures: bool, board: bool) -> None:
    """Refuse, before anything is written, places that are taken by something else or cannot be written to."""
    if (table := folder / "results.csv").is_dir():
        raise expected(f"a file or nothing at `{table}`", "a folder", "move it away")
    folders = [path.parent] + [path.parent / "figures"] * figures + [folder / "report"] * board
    for place in folders:
        there = next(above for above in (place, *place.parents) if above.exists())
        if not there.is_dir():
            raise expected(f"a folder or nothing at `{there}`", "a file", "move it away, or give another `--output`")
        with tempfile.TemporaryFile(dir=there):  # whether it may be written to is best asked by trying
            pass


def _draw(results: Results, folder: Path) -> "Sequence[Figure]":
    from lit_prune.study.report.figures import draw

    return draw(results, folder)


def _summary(results: Results, judgements: Sequence[Judgement], path: Path) -> str:
    complete = sum(run.status == "complete" for run in results.runs)
    lines = [f"{complete} of {len(results.runs)} runs are complete."]
    if judgements:
        verdicts = [judgement.verdict for judgement in judgements]
        counts = [f"{verdict}: {verdicts.count(verdict)}" for verdict in (HOLDS, FAILS, OPEN)]
        lines.append(f"Claims by verdict: {', '.join(counts)}.")
    lines.append(f"Report: {path}")
    return "\n".join(lines)


def _unwritten(error: OSError, folder: Path, output: Path | None) -> InputError:
    # the name is that of a temporary file, if there is one at all
    named = Path(error.filename).parent if isinstance(error.filename, str) else None
    where = named or (folder if output is None else output.parent)
    found = (error.strerror or str(error)).lower()
    return expected(f"to be able to write into `{where}`", found, "free some space, or check whose folder it is")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    hint = "`lit-prune report --help` lists the options"
    parser = SentenceParser("lit-prune report", "`lit-prune report DIR`", hint, description=_DESCRIPTION)
    parser.add_argument("folder", metavar="DIR", help="The study's folder, as `lit-prune study` wrote it.")
    parser.add_argument(
        "--output",
        metavar="FILE.md",
        help="Where to write the report, with its figures in `figures/` beside it (default: DIR/report.md).",
    )
    parser.add_argument("--no-figures", action="store_true", help="Draw no figures.")
    given, unknown = parser.parse_known_args(list(argv))
    if unknown:
        name = unknown[0].split("=")[0]
        what = "a known option" if name.startswith("-") else "one folder"
        raise parser.unknown(name, what, hint)
    check_path("the study's folder", given.folder)
    if given.output is not None:
        check_path("`--output`", given.output)
    return given
