"""What the README shows can be done."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lit_prune.cli.main import main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    """Each `lit-prune` command in the shell blocks, as words."""
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    lines = [line.split("&&")[-1].strip() for line in text.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("lit-prune ")]


def test_both_commands_come_early():
    head = "\n".join(README.splitlines()[:40])
    assert "pip install -e . && lit-prune study --preset quick" in head
    assert 'pip install -e ".[dev]" && pytest' in head


@pytest.mark.parametrize("code", blocks("python"))
def test_the_code_runs_as_it_stands(code, tmp_path):
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.pt").is_file()


@pytest.mark.parametrize("words", [words for words in commands() if words[0] not in ("study", "report")], ids=" ".join)
def test_each_command_is_one_that_parses(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # the checkpoints that some commands name are not there; everything else about them is looked at
    kept = [word for i, word in enumerate(words) if word != "--ckpt_path" and words[i - 1] != "--ckpt_path"]
    assert main([*kept, "--print_config"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", [words for words in commands() if words[0] == "study"], ids=" ".join)
def test_each_study_is_one_that_could_run(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # no download in a test
    assert main([*words, "--weights", "random", "--dry_run"]) == 0, capsys.readouterr().err
    assert "runs to do" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())


def test_there_are_commands_to_look_at():
    assert len(commands()) >= 6
    assert len(blocks("python")) == 1
