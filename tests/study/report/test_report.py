"""`lit-prune report`: its document, its summary and its errors."""

import base64
import errno
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lit_prune.errors import InputError
from lit_prune.files.atomic import write_text
from lit_prune.main import main as cli
from lit_prune.study.report import command as report
from lit_prune.study.report.command import main, write_report
from lit_prune.study.results.results import read_results
from lit_prune.study.results.tradeoff import baseline_values
from lit_prune.study.statistics import estimate
from tests.study.folders import SMALL, make_study, run_folder

ALL = {(experiment["name"], seed) for experiment in SMALL["experiments"] for seed in SMALL["seeds"]}
# drawing figures takes a second, so only the tests of figures do
OPTIONS = ["--no-figures"]


def text_of(folder: Path, *argv: str) -> str:
    assert main(["report", str(folder), *argv, *OPTIONS]) == 0
    return (folder / "report.md").read_text(encoding="utf-8")


def paragraph(text: str) -> str:
    """Return the first paragraph after the title."""
    return text.split("\n\n")[1]


def sentence(*argv) -> str:
    with pytest.raises(InputError) as caught:
        main(["report", *map(str, argv)])
    return str(caught.value)


def files(folder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_has_its_sections_and_overview(tmp_path, capsys):
    make_study(tmp_path)
    text = text_of(tmp_path)
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles == [
        "# Results of the study `small`",
        "## Summary",
        "## Task 1: losses",
        "## task3",
        "## task4",
        "## Task 5: unfrozen",
        "## Claims",
        "## Why sparsity stops falling",
    ]
    assert text.count("t distribution") == 1
    assert paragraph(text) == (
        "The study `small` has 5 experiments, each with 3 seeds (0, 1, 2). The initial weights are random "
        "(nothing is pre-trained). The data are synthetic images: 400 training images, 100 for "
        "validation, batches of 32. Each training took 4 epochs. Device: cpu (threads per run: 1). "
        "Versions: lit-prune 0.1.0, Lightning 2.6.6, torch 2.15.0, Python 3.11.4. 15 of 15 runs are complete."
    )
    assert (tmp_path / "results.csv").read_text(encoding="utf-8").count("complete") == 15
    assert capsys.readouterr().out.splitlines() == [
        "15 of 15 runs are complete.",
        "Claims by verdict: holds: 2, does not hold: 0, inconclusive: 0.",
        f"Report: {tmp_path / 'report.md'} and report.html",
    ]


def test_the_same_folder_gives_the_same_report(tmp_path):
    make_study(tmp_path)
    first = text_of(tmp_path), (tmp_path / "results.csv").read_bytes()
    assert (text_of(tmp_path), (tmp_path / "results.csv").read_bytes()) == first


def test_notes_of_the_author_follow_the_summary(tmp_path):
    make_study(tmp_path)
    before = text_of(tmp_path)
    notes = tmp_path / "notes.md"
    notes.write_text("\nWhy *this* is so: 7 \u00b1 1.\n", encoding="utf-8")
    text = text_of(tmp_path)
    assert text.replace("## Notes\n\nWhy *this* is so: 7 ± 1.\n\n", "", 1) == before
    assert text.index("## Summary") < text.index("## Notes") < text.index("\n## ", text.index("## Notes"))
    assert "Why <em>this</em> is so: 7 ± 1." in (tmp_path / "report.html").read_text(encoding="utf-8")
    notes.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"notes\.md` to be UTF-8 text"):
        main(["report", str(tmp_path), *OPTIONS])
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text


def test_a_report_changes_nothing_of_the_runs(tmp_path):
    make_study(tmp_path, unfinished={("task1/logits", 0)})
    before = files(tmp_path)
    text_of(tmp_path)
    after = files(tmp_path)
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("random", "random (nothing is pre-trained)."),
        ("IMAGENET1K_V1", "ImageNet's pre-trained weights (IMAGENET1K_V1)."),
        ("/some/where/weights.pt", "the weights in the file `weights.pt`."),
        (None, "those that the model class creates."),
    ],
)
def test_the_overview_names_the_initial_weights(tmp_path, weights, said):
    make_study(tmp_path, SMALL | {"initial_weights": weights})
    first = paragraph(text_of(tmp_path))
    assert f"The initial weights are {said}" in first
    assert "/some" not in first


def test_the_weights_of_the_runs_count_not_those_of_the_plan(tmp_path):
    make_study(tmp_path, SMALL | {"initial_weights": "IMAGENET1K_V1"}, missing=ALL - {("task1/logits", 0)})
    path = run_folder(tmp_path, "task1/logits", 0) / "result.json"
    path.write_text(path.read_text(encoding="utf-8").replace("IMAGENET1K_V1", "random"), encoding="utf-8")
    text = text_of(tmp_path)
    assert "The initial weights are random (nothing is pre-trained)." in paragraph(text)
    assert "IMAGENET" not in text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "The data are CIFAR-10: 45,000 training images, 5,000 for validation, batches of 128."),
        (
            {"limit_train": 10_000, "val_size": 2000, "batch_size": 64},
            "The data are CIFAR-10: 10,000 of 48,000 training images, 2,000 for validation, batches of 64.",
        ),
        (
            {"augment": "standard"},
            "45,000 training images, 5,000 for validation, batches of 128, augmentation: standard.",
        ),
        ({"class_path": "their.module.Digits"}, "The data come from `Digits`."),
        ("Digits", "The data come from `Digits`."),
        ({"val_size": "many", "source": ["x"]}, "The data are ['x']: all training images, many for validation"),
    ],
)
def test_the_overview_describes_the_data(tmp_path, data, said):
    make_study(tmp_path, SMALL | {"settings": {"data": data}})
    assert said in paragraph(text_of(tmp_path))


def test_the_overview_names_experiments_with_other_data_settings(tmp_path):
    own = {"name": "task1/small-batch", "overrides": {"data": {"batch_size": 8}}}
    make_study(tmp_path, SMALL | {"experiments": [*SMALL["experiments"], own]})
    assert "batches of 32 (other data settings in task1/small-batch)." in paragraph(text_of(tmp_path))


ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01, "fused": True}}
DECAY = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 3}}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"optimizer": ADAM, "lr_scheduler": DECAY}, "Optimizer: `Adam(lr=0.01, fused=True)`. "
         "Learning rate schedule: `StepLR(step_size=3)`. Device"),
        ({"class_path": "their.Net", "init_args": {"optimizer": "torch.optim.SGD"}}, "Optimizer: `SGD()`. Device"),
    ],
)  # fmt: skip
def test_the_overview_names_the_optimizer(tmp_path, model, said):
    make_study(tmp_path, SMALL | {"settings": {"model": model}})
    assert said in paragraph(text_of(tmp_path))


@pytest.mark.parametrize("model", [{}, None, "their.Net", {"class_path": "their.Net", "init_args": None}])
def test_a_plan_that_leaves_the_optimizer_to_the_model_does_not_guess_it(tmp_path, model):
    make_study(tmp_path, SMALL | {"settings": {"model": model}})
    assert "ptimizer" not in paragraph(text_of(tmp_path))


def test_the_overview_names_experiments_with_another_optimizer(tmp_path):
    own = {"name": "task1/sgd", "overrides": {"model": {"optimizer": {"class_path": "torch.optim.SGD"}}}}
    settings = {"settings": {"model": {"optimizer": ADAM}}}
    make_study(tmp_path, SMALL | settings | {"experiments": [*SMALL["experiments"], own]})
    assert "`Adam(lr=0.01, fused=True)` (another in task1/sgd)." in paragraph(text_of(tmp_path))


def test_the_summary_names_the_best_experiment_and_what_each_is_compared_with(tmp_path):
    make_study(tmp_path)
    results = read_results(tmp_path)
    section = text_of(tmp_path).split("## Summary")[1].split("\n## ")[0]
    values = {e.name: results.values(e.name, "final_val_acc") for e in results.plan.experiments}
    best = max(values, key=lambda name: sum(values[name].values()))
    assert f"Highest final validation accuracy of all experiments, however long they trained: **{best}**" in section
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in section.splitlines()[2:]
        if "|" in line
    }
    assert rows["Softmax fails"] == ["**holds**", "-"]
    assert rows["task1/logits"][:2] == ["baseline", "-"]
    assert rows["task1/softmax"][1] == "task1/logits"
    # far below the baseline: the interval excludes zero
    own, others = (results.values(name, "final_test_acc") for name in ("task1/softmax", "task1/logits"))
    difference = estimate(own[seed] - others[seed] for seed in own)
    assert difference is not None
    assert difference.high is not None
    assert difference.high < 0
    assert rows["task1/softmax"][3].startswith(f"**{100 * difference.mean:.2f} ")


def test_means_over_some_of_the_seeds_are_marked_and_are_never_the_highest(tmp_path):
    make_study(tmp_path, unfinished={("task5/finetuned-10", 0), ("task5/finetuned-10", 1)})
    result = tmp_path / "task5/finetuned-10/seed=2/metrics.csv"
    result.write_text(re.sub(r"(?<=,)0\.\d+$", "0.99", result.read_text(), flags=re.MULTILINE))
    section = text_of(tmp_path).split("## Summary")[1].split("\n## ")[0]
    assert "they trained: **task5/finetuned-10**" not in section
    (row,) = (line for line in section.splitlines() if line.startswith("| task5/finetuned-10"))
    assert row.count("(n = 1)") == 2  # accuracy and sparsity; it has no baseline
    differences = [row for row in section.splitlines() if row.count("|") == 7 and " ± " in row.split("|")[5]]
    assert f"of {len(differences)} differences" in section


def test_a_pruned_best_checkpoint_is_compared_with_the_parent_at_its_best_epoch(tmp_path):
    best = {"name": "task3/best", "parent": "task1/logits", "train": False, "checkpoint": "best"}
    make_study(tmp_path, SMALL | {"experiments": [*SMALL["experiments"], best]})
    results = read_results(tmp_path)
    parent = results.values("task1/logits", "test_acc_at_best")
    assert parent != results.values("task1/logits", "final_test_acc")
    assert baseline_values(results, results.plan["task3/best"], "final_test_acc") == parent
    assert baseline_values(results, results.plan["task3/prune-10"], "final_test_acc") != parent
    own = results.values("task3/best", "final_test_acc")
    difference = estimate(own[seed] - parent[seed] for seed in own)
    assert difference is not None
    section = text_of(tmp_path).split("## Summary")[1].split("\n## ")[0]
    (row,) = (line for line in section.splitlines() if line.startswith("| task3/best "))
    assert f"{100 * difference.mean:.2f}".replace("-0.00", "0.00") in row


def test_experiments_that_have_not_been_started_are_counted_and_left_out(tmp_path, capsys):
    rest = {(name, seed) for name in ("task4/finetuned-10", "task5/finetuned-10") for seed in SMALL["seeds"]}
    make_study(tmp_path, missing=rest)
    text = text_of(tmp_path)
    assert paragraph(text).endswith("9 of 9 runs are complete. 2 other experiments of the plan have not been started.")
    assert "No run has finished yet." not in text
    assert "## task4" not in text
    assert "inconclusive**" not in text
    assert "Softmax fails" in text
    assert "Sparsity stays constant" not in text  # a claim about an experiment that has not been started
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "9 of 9 runs are complete. 2 other experiments of the plan have not been started."
    assert out[1] == "Claims by verdict: holds: 1, does not hold: 0, inconclusive: 0."


def test_an_undecided_claim_has_a_command_that_decides_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    claim = SMALL["claims"][0]["contrasts"][0]
    near = {"said": "Nearly as good", "contrasts": [claim | {"of": "task4/finetuned-10", "between": [0.0001, None]}]}
    make_study(tmp_path / "logs" / "small", SMALL | {"seeds": [4], "claims": [SMALL["claims"][0], near]})
    text = text_of(Path("logs/small"))
    section = text.split("### What would decide the inconclusive claims")[1].split("\n## ")[0]
    # one run of each experiment takes 12.5 s for each of 4 epochs
    assert "**Softmax fails**: at least 3 seeds, about 5 min." in section
    command = section.split("```text\n")[1].split("\n")[0]
    assert command == (
        "lit-prune study logs/small/plan.yaml --only task1/logits task1/softmax --seeds 0 1 2 --out logs/small-claim-1"
    )
    capsys.readouterr()
    assert cli([*shlex.split(command)[1:], "--dry_run"]) == 0
    assert "6 runs to do, 24 epochs" in capsys.readouterr().out


def test_a_run_that_was_paused_does_not_change_the_time_that_a_claim_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim = SMALL["claims"][0]["contrasts"][0]
    near = {"said": "Nearly as good", "contrasts": [claim | {"of": "task4/finetuned-10", "between": [0.03, None]}]}
    make_study(tmp_path / "small", SMALL | {"seeds": [0, 1, 2], "claims": [near]})
    before = [line for line in text_of(Path("small")).splitlines() if line.startswith("**Nearly as good**: about")]
    assert before
    path = Path("small/task1/logits/seed=1/result.json")
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"seconds": 36000.0}), encoding="utf-8")
    assert before[0] in text_of(Path("small"))


def test_the_page_embeds_everything_and_shows_html_as_text(tmp_path):
    claim = {"said": "<script>alert(1)</script> [x](javascript:alert(2))", "contrasts": SMALL["claims"][0]["contrasts"]}
    make_study(tmp_path, SMALL | {"claims": [claim], "seeds": [0]})
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page  # no script runs, and nothing is loaded
    drawn = list((tmp_path / "figures").iterdir())
    assert page.count('src="data:image/png;base64,') == len(drawn) > 3
    assert page.count("src=") == len(drawn)
    assert base64.b64encode(drawn[0].read_bytes()).decode() in page
    assert page.count("<table>") == page.count("</table>") > 5
    assert '<a href="#summary">Summary</a>' in page


def test_one_seed_gives_no_interval_and_the_report_says_so(tmp_path):
    make_study(tmp_path, SMALL | {"seeds": [4]})
    text = text_of(tmp_path)
    assert text.count("One seed gives no interval") == 1
    assert "±" not in text
    assert "with 1 seed (4)." in paragraph(text)


def test_a_report_lists_incomplete_runs_with_reasons(tmp_path, capsys):
    make_study(
        tmp_path,
        diverged={("task1/softmax", 1)},
        unfinished={("task1/logits", 0)},
        failed={("task5/finetuned-10", 2)},
        missing={("task4/finetuned-10", 0), ("task4/finetuned-10", 1)},
    )
    (run_folder(tmp_path, "task3/prune-10", 2) / "result.json").write_text('{"format": 1, ', encoding="utf-8")
    text = text_of(tmp_path)
    assert paragraph(text).endswith(" 9 of 15 runs are complete; all numbers are from complete runs.")
    reasons = text.split("\n\n")[2].splitlines()
    assert len(reasons) == 5
    assert reasons[:2] == [
        "- Unfinished after 2 epochs: task1/logits (seed 0)",
        "- Diverged (`train/loss` is nan in epoch 1): task1/softmax (seed 1)",
    ]
    assert re.fullmatch(r"- Failed \(result.json cannot be read \(.*\)\): task3/prune-10 \(seed 2\)", reasons[2])
    assert reasons[3:] == [
        "- Not started: task4/finetuned-10 (seeds 0, 1)",
        "- Failed (The optimizer ran out of memory): task5/finetuned-10 (seed 2)",
    ]
    out = capsys.readouterr().out
    assert "9 of 15 runs are complete." in out
    assert "inconclusive: 2." in out


def test_missing_columns_are_listed_once(tmp_path):
    make_study(tmp_path, without={"val/acc"})
    text = text_of(tmp_path)
    assert text.count("Complete (but metrics.csv has no column `val/acc`): task1/logits (seeds 0, 1, 2);") == 1
    assert "final val loss" in text
    assert not re.search(r"\| +(best|final) val \|", text)


def test_a_study_that_has_not_started_is_reported(tmp_path):
    make_study(tmp_path, missing=ALL)
    text = text_of(tmp_path)
    assert "The initial weights are random" in paragraph(text)
    assert paragraph(text).endswith(" 0 of 15 runs are complete.")
    assert "There are no results yet." in text
    assert text.count("No run has finished yet.") == 4
    assert text.count("**inconclusive**") == 2


def test_output_has_its_figures_next_to_it(tmp_path, monkeypatch):
    make_study(tmp_path / "logs" / "study")
    monkeypatch.chdir(tmp_path)
    assert main(["report", "logs/study", "--output", "docs/results.md"]) == 0
    text = (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert len(links) >= 3
    for link in links:
        assert link.startswith("figures/")
        assert (tmp_path / "docs" / link).is_file()
    left = {path.name for path in (tmp_path / "logs" / "study").iterdir()}
    assert left == {"plan.yaml", "results.csv", "task1", "task3", "task4", "task5"}


def test_the_default_output_has_figures_and_tensorboard_events(tmp_path):
    make_study(tmp_path)
    assert write_report(tmp_path) == tmp_path / "report.md"
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    sections = dict(zip(re.findall(r"^## (.*)$", text, re.M), re.split(r"^## .*$", text, flags=re.M)[1:], strict=True))
    links = {title: re.findall(r"\]\((figures/[^)]+)\)", part) for title, part in sections.items()}
    assert links["Task 1: losses"]
    for link in (link for found in links.values() for link in found):
        assert (tmp_path / link).is_file()
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(
        Path(link).name for found in links.values() for link in found
    )
    assert list((tmp_path / "report").rglob("events.out.tfevents*"))


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"sun")
    assert sentence(tmp_path).startswith("Expected the folder of a study, but got")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "Expected a folder, but got none"),
        (["d", "--ouput", "x.md"], "but got `--ouput`. HINT: did you mean `--output`."),
        (["d", "--no-figure"], "but got `--no-figure`. HINT: did you mean `--no-figures`."),
        (["d", "--zzz=3"], "Expected a known option, but got `--zzz`."),
        (["d", "e"], "but got `e`."),
        (["d", "--output"], "Expected a value after `--output`, but got none."),
    ],
)
def test_a_wrong_option_is_one_sentence(argv, complaint):
    text = sentence(*argv)
    assert complaint in text
    assert "\n" not in text


def test_a_folder_as_output_is_refused(tmp_path):
    make_study(tmp_path)
    before = files(tmp_path)
    assert sentence(tmp_path, "--output", tmp_path / "task1").startswith("Expected `--output` to be a file, but got")
    assert files(tmp_path) == before


def test_help_is_printed(capsys):
    assert main(["report", "--help"]) == 0
    assert "--output FILE.md" in capsys.readouterr().out


def complaint_of(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line.removeprefix("lit-prune: error: ")


@pytest.mark.parametrize("name", ["results.csv", "report.md"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_failed_write_is_reported_and_keeps_the_old_report(tmp_path, monkeypatch, capsys, name, code):
    make_study(tmp_path)
    text_of(tmp_path)
    before = files(tmp_path)
    make_study(tmp_path / "other", seed=1)  # other numbers change the next report
    for path in (tmp_path / "other").rglob("metrics.csv"):
        (tmp_path / path.relative_to(tmp_path / "other")).write_bytes(path.read_bytes())

    def fail(path, text):
        if path.name == name:
            raise OSError(code, os.strerror(code), f"{path}.part")
        write_text(path, text)

    monkeypatch.setattr(report, "write_text", fail)
    capsys.readouterr()
    assert main(["report", str(tmp_path), *OPTIONS]) == 1
    assert f"Cannot write to `{tmp_path}`: {os.strerror(code).lower()}." in complaint_of(capsys)
    assert (tmp_path / "report.md").read_bytes() == before[tmp_path / "report.md"]
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - `umount` from the path


def leave(folder, size):
    """Fill a disk until at most `size` bytes are free."""
    free = os.statvfs(folder)
    (folder / "filler").write_bytes(b"x" * (free.f_bavail * free.f_frsize - size))


@pytest.mark.parametrize("room", [0, 8 << 10, 24 << 10, 200 << 10])
def test_a_full_disk_loses_nothing(small_disk, capsys, room):
    make_study(small_disk, SMALL | {"seeds": [0]})
    text_of(small_disk)
    (small_disk / "figures").mkdir()
    before = files(small_disk)
    capsys.readouterr()
    leave(small_disk, room)
    assert main(["report", str(small_disk)]) == 1
    assert "no space left on device" in complaint_of(capsys)
    (small_disk / "filler").unlink()
    after = files(small_disk)
    assert {path: after[path] for path in before} == before
    assert not [path for path in after if path.name.startswith(".")]
    # with free space, the same command succeeds
    assert main(["report", str(small_disk), *OPTIONS]) == 0


@pytest.mark.gate
def test_a_report_imports_no_framework(tmp_path):
    make_study(tmp_path)
    code = (
        "import sys\n"
        "from lit_prune.study.report.command import main\n"
        f"assert main(['report', {str(tmp_path)!r}]) == 0\n"
        "slow = {'torch', 'lightning', 'pytorch_lightning', 'torchvision', 'torchmetrics', 'scipy.stats'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "report.md").is_file()
