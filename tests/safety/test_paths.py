"""No name in a plan and no link in a study's folder leads out of the folder."""

import os
import re
from pathlib import Path

import pytest
import yaml

from lit_prune.errors import InputError
from lit_prune.study.plan.loading import load_plan
from lit_prune.study.plan.stored import check_links, store_plan, stored_plan
from lit_prune.study.plan.validation import read_plan
from lit_prune.study.run import worker
from tests.study.conftest import TINY

OUTSIDE = [
    "../evil", "a/../../evil", "a/..", "..", ".", "/srv/evil", "//evil", "a//b", "a/", "~/evil", "~root",
    "..\\evil", "a\\..\\evil", "C:\\evil", "C:/evil", "\\\\host\\share", "$HOME", "${HOME}", "a\x00b", "a\nb", "a b",
    ".hidden", "a/.hidden", "-rf", "", "\N{FULLWIDTH FULL STOP}\N{FULLWIDTH FULL STOP}/x", "a/\N{ONE DOT LEADER}./b",
]  # fmt: skip
# other names in a study's folder
TAKEN = ["seed=0", "a/seed=1", "report", "report/x", "REPORT.MD", "plan.yaml", "figures/x", "results.csv"]


@pytest.mark.parametrize("name", OUTSIDE + TAKEN)
def test_no_experiment_name_leads_out_of_its_folder(name):
    with pytest.raises(InputError, match=r"name of an experiment|experiment's name"):
        read_plan({"experiments": [{"name": name}]}, "evil.yaml")


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_study_name_leads_out_of_the_logs(name):
    with pytest.raises(InputError, match=r"`name` in `evil\.yaml` to .* folder below lightning_logs"):
        read_plan({"name": name, "experiments": [{"name": "a"}]}, "evil.yaml")


@pytest.mark.parametrize(
    "base", ["../secret.yaml", "a/../../secret.yaml", "{elsewhere}/secret.yaml", "link.yaml", "folder/secret.yaml"]
)
def test_no_base_leads_out_of_the_folder_of_its_plan(tmp_path, base):
    here, elsewhere = tmp_path / "here", tmp_path
    here.mkdir()
    (elsewhere / "secret.yaml").write_text("experiments: [{name: secret}]")
    (here / "link.yaml").symlink_to(elsewhere / "secret.yaml")
    (here / "folder").symlink_to(elsewhere)
    base = base.replace("{elsewhere}", str(elsewhere))
    path = here / "evil.yaml"
    path.write_text(yaml.safe_dump({"base": base}))
    with pytest.raises(InputError) as error:
        load_plan(path)
    assert f"`base` in `{path}`" in str(error.value)
    assert f"but got `{base}`" in str(error.value)


@pytest.mark.parametrize("base", ["below/fine.yaml", "./below/fine.yaml", "below/../below/fine.yaml", "link.yaml"])
def test_a_base_in_a_subfolder_is_read(tmp_path, base):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "fine.yaml").write_text("experiments: [{name: fine}]")
    (tmp_path / "link.yaml").symlink_to("below/fine.yaml")
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"base": base}))
    assert [experiment.name for experiment in load_plan(tmp_path / "plan.yaml").experiments] == ["fine"]


@pytest.mark.parametrize("base", ["x\x00y", "x" * 5000, "", "."])
def test_a_base_that_is_not_a_file_is_refused(tmp_path, base):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"base": base, "experiments": [{"name": "a"}]}))
    with pytest.raises(InputError, match="plan that ships"):
        load_plan(tmp_path / "plan.yaml")


def inventory(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Make files in a home folder that look like those of a run, which would be removed."""
    victim = tmp_path / "victim"
    (victim / "seed=0" / "checkpoints").mkdir(parents=True)
    for name in (
        "thesis.txt",
        "seed=0/thesis.txt",
        "seed=0/checkpoints/best-epoch=1.ckpt",
        "seed=0/checkpoints/x.part",
    ):
        (victim / name).write_text("years of work")
    return victim


# the link in the study's folder, and its target in the victim's folder
LINKS = [
    ("task1", "."),
    ("task1/fine", "."),
    ("task1/fine/seed=0", "seed=0"),
    ("task1/fine/seed=0/checkpoints", "seed=0/checkpoints"),
    ("task1/fine/seed=0/log.txt", "thesis.txt"),
    ("task1/fine/seed=0/metrics.csv", "not there yet"),
    ("figures", "."),
    ("report", "."),
    ("results.csv", "thesis.txt"),
]


@pytest.mark.parametrize("argv", [["study", "plan.yaml", "--out=study", "--jobs=1"], ["report", "study"]])
@pytest.mark.parametrize(("link", "target"), LINKS)
def test_nothing_is_written_or_deleted_through_a_link(run, tmp_path, victim, link, target, argv):
    content = {"name": "plan", "settings": TINY, "experiments": [{"name": "task1/fine"}]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
    study = tmp_path / "study"
    store_plan(load_plan(tmp_path / "plan.yaml"), study)
    (study / link).parent.mkdir(parents=True, exist_ok=True)
    (study / link).symlink_to(os.path.relpath(victim / target, (study / link).parent))
    before = inventory(victim)
    assert before
    answer = run(*argv)
    assert answer.status == 2
    assert "no link in `study` that leads out of it" in answer.complaint
    assert f"but got `{link}`, which leads to `{(victim / target).resolve()}`" in answer.complaint
    assert inventory(victim) == before
    assert {path.name for path in study.rglob("*")} <= {"plan.yaml", ".lock", *Path(link).parts}


@pytest.mark.parametrize(("link", "target"), LINKS)
def test_a_worker_checks_for_links_itself(tmp_path, capfd, victim, link, target):
    """Time passes after the study has checked, and the worker may be another machine."""
    study = tmp_path / "study"
    store_plan(read_plan({"experiments": [{"name": "task1/fine"}]}, "plan.yaml"), study)
    (study / link).parent.mkdir(parents=True, exist_ok=True)
    (study / link).symlink_to(victim / target)
    before = inventory(victim)
    assert worker.main([str(study), "task1/fine", "0"]) == 2
    assert capfd.readouterr().err.startswith(f"Expected no link in `{study}` that leads out of it, but got ")
    assert inventory(victim) == before


def test_a_study_may_be_a_link_itself(tmp_path):
    plan = read_plan({"experiments": [{"name": "a"}]}, "plan.yaml")
    (tmp_path / "disk").mkdir()
    (tmp_path / "study").symlink_to("disk")
    store_plan(plan, tmp_path / "study")
    (tmp_path / "disk" / "a").mkdir()
    (tmp_path / "disk" / "b").symlink_to("a")
    (tmp_path / "disk" / "itself").symlink_to("itself")
    assert stored_plan(tmp_path / "study") == plan
    check_links(tmp_path / "not there")


@pytest.mark.parametrize("change", [{"name": "../evil"}, {"experiments": [{"name": "../evil"}]}])
def test_the_plan_in_a_study_folder_is_checked(run, tmp_path, change):
    """The folder may come from somewhere else."""
    study = tmp_path / "study"
    study.mkdir()
    (study / "plan.yaml").write_text(yaml.safe_dump({"experiments": [{"name": "a"}], **change}))
    before = set(tmp_path.rglob("*"))
    answer = run("report", "study")
    assert answer.status == 2
    assert re.search(r"name.* to .*, but got `?\.\./evil", answer.complaint)
    assert set(tmp_path.rglob("*")) == before
