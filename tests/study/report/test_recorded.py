"""Recorded studies: `lit-prune report` reproduces the documents from their files."""

import re
import shutil
from pathlib import Path

import pytest

from lit_prune.cli.figures import styled
from lit_prune.study.report.command import write_report
from lit_prune.study.report.figures.tradeoff import tradeoff_figure
from lit_prune.study.results.results import Results, read_results
from lit_prune.study.results.tradeoff import tradeoff
from lit_prune.study.statistics import estimate

ROOT = Path(__file__).parents[3]
RECORDED = ROOT / "lightning_logs" / "medium"
DOCUMENT = ROOT / "docs" / "results.md"
# the folder of each study, its document, and the number of its runs
STUDIES = {
    "medium": ("lightning_logs/medium", "docs/results.md", 30 * 3),
    "sparse-training": ("lightning_logs/sparse-training", "docs/sparse-training/results.md", 7 * 3),
    "criteria": ("lightning_logs/criteria", "docs/criteria/results.md", 40 * 3),
}
pytestmark = pytest.mark.gate
every_study = pytest.mark.parametrize(("study", "document", "runs"), STUDIES.values(), ids=STUDIES)


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the recorded files with new reports."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # commands in the report name the study's folder as it was given
        for study, document, _ in STUDIES.values():
            shutil.copytree(ROOT / study, folder / study)
            write_report(study, document)
    return folder


@pytest.fixture(scope="module")
def results() -> Results:
    return read_results(RECORDED)


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+\.\d+", text))


@every_study
def test_every_run_of_the_plan_is_recorded(study, document, runs):
    found = read_results(ROOT / study).runs
    assert len(found) == runs
    assert {run.status for run in found} == {"complete"}
    assert {run.environment["device"] for run in found} == {"cpu"}


@every_study
def test_the_report_reproduces_the_document(again, study, document, runs):
    assert (again / document).read_text(encoding="utf-8") == (ROOT / document).read_text(encoding="utf-8")
    figures = Path(document).parent / "figures"
    drawn = {path.name for path in (again / figures).iterdir()}
    assert drawn == {path.name for path in (ROOT / figures).iterdir()}
    assert len(drawn) >= {"medium": 10, "sparse-training": 6, "criteria": 7}[Path(study).name]


@every_study
def test_the_report_reproduces_results_csv(again, study, document, runs):
    written = (again / study / "results.csv").read_text(encoding="utf-8")
    assert written == (ROOT / study / "results.csv").read_text(encoding="utf-8")
    assert len(written.splitlines()) == runs + 1


def test_every_number_in_the_readme_is_in_the_document():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("### What came out")[1].split("\n## ")[0]
    found = numbers(section)
    assert len(found) >= 10
    assert found <= numbers(DOCUMENT.read_text(encoding="utf-8"))


def test_sparsity_stops_at_the_pruned_weights_without_a_gradient(results):
    """Pruned by 10, 20 and 30% and unfrozen, a Task 1 model keeps about 8, 16 and 24% zeros."""
    for amount, plateau in ((10, 0.0806), (20, 0.1609), (30, 0.2404)):
        for run in results.of(f"task5/finetuned-{amount}"):
            assert run.measures["sparsity_start"] == pytest.approx(amount / 100, abs=1e-6)
            assert run.measures["sparsity_end"] == pytest.approx(plateau, abs=0.001)
            assert run.measures["sparsity_end"] == pytest.approx(run.measures["untouched_pruned"], abs=1e-3)


@pytest.mark.parametrize(
    ("measure", "of", "minus", "said"),
    [
        ("first_val_acc", "task1/logits", "control/frozen-batch-norm", "8.17 ± 5.02"),
        ("test_acc_at_best", "task5/finetuned-10", "task4/finetuned-10", "0.26 ± 1.78"),
        ("test_acc_at_best", "task5/finetuned-20", "task4/finetuned-20", "-0.90 ± 0.54"),
        ("test_acc_at_best", "task5/finetuned-30", "task4/finetuned-30", "-0.08 ± 2.13"),
        ("final_test_acc", "task4/finetuned-30", "control/random-30", "0.10 ± 0.47"),
        ("final_test_acc", "control/l1-80", "control/random-80", "7.23 ± 2.11"),
        ("final_test_acc", "control/l1-90", "control/random-90", "13.54 ± 1.26"),
        ("final_test_acc", "control/l1-95", "control/random-95", "15.71 ± 1.97"),
        ("final_test_acc", "control/l1-95", "control/random-80", "6.68 ± 2.56"),
    ],
)
def test_differences_in_the_notes_are_those_of_the_runs(results, measure, of, minus, said):
    others = results.values(minus, measure)
    found = estimate(value - others[seed] for seed, value in results.values(of, measure).items())
    assert found is not None
    assert found.half_width is not None
    assert f"{100 * found.mean:.2f} ± {100 * found.half_width:.2f}" == said
    assert said in " ".join(DOCUMENT.read_text(encoding="utf-8").split())


@pytest.mark.parametrize(("of", "said"), [("l1-80", "16.8%"), ("random-80", "7.6%"), ("l1-95", "5.0%")])
def test_shares_in_the_notes_are_those_of_the_runs(results, of, said):
    found = estimate(results.values(f"control/{of}", "untouched").values())
    assert found is not None
    assert f"{100 * (1 - found.mean):.1f}%" == said
    assert said in DOCUMENT.read_text(encoding="utf-8")


def test_one_low_accuracy_does_not_flatten_the_others(results):
    with styled():
        drawing = tradeoff_figure(results)
    assert drawing is not None
    upper, lower = (axes.get_ylim() for axes in drawing.canvas.axes)
    means = [100 * point.difference.mean for one in tradeoff(results) for point in one.points if point.difference]
    far, near = [mean for mean in means if mean < -5], [mean for mean in means if mean > -5]
    assert len(far) == 3  # random pruning of 80, 90 and 95%
    assert lower[0] < min(far) < max(far) < lower[1] <= upper[0]
    assert upper[0] < min(near) < max(near) < upper[1]
    assert upper[1] - upper[0] < 25  # percentage points
    assert "broken" in drawing.caption


def test_the_original_study_stands_next_to_this_one():
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.split("## Next to the original study")[1].split("\n## ")[0]
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in section.splitlines()
        if "|" in line
    }
    assert rows["task5/initial-10: original"][-1] == "6.8637"
    assert rows["task5/initial-10: here"][:3] == ["7.3523", "7.3423", "7.3410"]
    assert rows["task1/logits"][:3:2] == ["97.0", "81.0"]
    assert rows["task3/prune-10"][0] == "-"  # the original study reported no accuracy


@every_study
def test_recorded_files_hold_no_paths_of_a_machine(study, document, runs):
    texts = [path for path in (ROOT / study).rglob("*") if path.suffix in (".yaml", ".csv", ".json", ".md")]
    assert len(texts) > runs * 3
    for path in texts:
        assert not re.search(r"(?<![\w.])/(tmp|home|root|work|Users)/", path.read_text(encoding="utf-8")), path
