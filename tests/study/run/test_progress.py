"""The progress of a study, on a terminal and piped, and the work that it counts."""

from pathlib import Path

import pytest

from lit_prune.study.plan.validation import read_plan
from lit_prune.study.run.pool import Job, Pool
from lit_prune.study.run.progress import Progress
from lit_prune.study.run.scheduler import _logged_epochs, count_work, list_jobs, run_jobs
from tests.docs import ROOT

PLAN = read_plan(
    {
        "name": "x",
        "settings": {"trainer": {"max_epochs": 4}},
        "experiments": [{"name": "a"}, {"name": "b", "parent": "a", "train": False}],
    },
    "a test",
)


class SlowTests(Pool):
    """A pool whose runs have logged all epochs, and are tested while `collect` returns nothing."""

    polls = 0

    def start(self, job: Job) -> None:
        job.folder.mkdir(parents=True)
        (job.folder / "metrics.csv").write_text("epoch\n" + "0\n" * 4)
        self._running[job] = job

    def collect(self) -> list[tuple[Job, int]]:
        self.polls += 1
        if self.polls % 8:  # about a second
            return []
        ended, self._running = list(self._running), {}
        for job in ended:
            (job.folder / "result.json").write_text("{}")
        return [(job, 0) for job in ended]

    def close(self) -> None:
        pass


def test_finished_epochs_of_a_running_run_are_counted(tmp_path):
    job = Job(tmp_path, "a", 0, 1)
    assert _logged_epochs(job) == 0
    job.folder.mkdir(parents=True)
    recorded = ROOT / "lightning_logs" / "criteria" / "dense" / "first" / "seed=0" / "metrics.csv"
    (job.folder / "metrics.csv").write_text(recorded.read_text())
    assert _logged_epochs(job) == 4


def test_tests_are_work_that_remains_after_the_last_epoch(tmp_path):
    jobs = list_jobs(PLAN, PLAN.experiments, tmp_path)
    assert [count_work(PLAN, job) for job in jobs] == [5, 1]
    told: list[tuple[int, int]] = []
    run_jobs(PLAN, jobs, SlowTests(1), lambda done, finished, running, sentence: told.append((done, finished)))
    assert told[0] == (0, 0)
    assert told[-1] == (6, 2)
    assert (4, 0) in told  # all epochs of the first run, but not its tests
    assert all(done < 6 for done, finished in told if finished < 2)


def test_a_piped_study_tells_runs_and_time_from_the_start(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lit_prune.study.run.progress.time.monotonic", lambda: now[0])
    jobs = [Job(Path("out"), "a", seed, 1) for seed in range(2)]
    with Progress("mine", total=100, done=0, runs=20, unit=60.0, parallel=2) as shown:
        shown.update(0, 0, jobs)
        for now[0] in (30.0, 60.0):
            shown.update(1, 0, jobs)  # too early for another line
        now[0] = 300.0
        shown.update(5, 1, jobs, "Run `a`, seed 0, is complete.")
        now[0] = 430.0
        shown.update(5, 1, jobs[:1])
        shown.update(100, 20, [])
        shown.update(100, 20, [], "Run `b`, seed 9, is complete.")
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "mine: 0 of 20 runs, 0%, about 1 h 40 min left.",
        "Run `a`, seed 0, is complete. mine: 1 of 20 runs, 5%, about 1 h 35 min left.",
        "mine: 1 of 20 runs, 5%, about 2 h 4 min left.",
        "Run `b`, seed 9, is complete. mine: 20 of 20 runs, 100%, finished.",
    ]
    assert captured.err == ""


@pytest.mark.parametrize(("done", "shown"), [(0, "0%, time left not known yet"), (99, "99%, less than a minute left")])
def test_without_an_estimate_the_time_is_measured(capsys, monkeypatch, done, shown):
    now = [0.0]
    monkeypatch.setattr("lit_prune.study.run.progress.time.monotonic", lambda: now[0])
    with Progress("mine", total=100, done=0, runs=20, unit=None, parallel=2) as bar:
        now[0] = 500.0
        bar.update(done, 0, [], "Run `a`, seed 0, is complete.")
    assert shown in capsys.readouterr().out
