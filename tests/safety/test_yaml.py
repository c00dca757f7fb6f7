"""Untrusted YAML is loaded as plain values within limits, or refused in one sentence."""

import resource
import time
from pathlib import Path

import pytest
import yaml

from lit_prune.errors import InputError
from lit_prune.files.yaml import load_yaml, load_yaml_text
from tests.training.conftest import TINY

CYCLE = "values in {source} that do not contain themselves, but got the alias `*a` inside the value of `&a`. HINT: "
DEEP = "values in {source} nested at most 100 levels deep, but got more. HINT: "
MANY = "at most 100,000 values in {source} once its aliases are expanded, but got more. HINT: "
TAG = "plain values in {source}, but got the tag `!!python/TAG`, which is unsafe. HINT: "
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
# by kind: the YAML, and what the refusal says
DANGERS = {
    "billion laughs": (LAUGHS, MANY),
    "billion laughs in keys": (LAUGHS.replace("a: &a [x", "a: &a ['x'"), MANY),
    "billion laughs by merging": (
        "a: &a {x: 1}\n"
        + "".join(f"{n}: &{n} {{<<: [{', '.join([f'*{o}'] * 99)}]}}\n" for o, n in zip("abc", "bcd", strict=True)),
        MANY,
    ),
    "many values": ("- 1\n" * 100_001, MANY),
    "list in itself": ("data: &a [*a]", CYCLE),
    "mapping in itself": ("data: &a {source: *a}", CYCLE),
    "mapping deep in itself": ("data: &a {x: [1, {y: [*a]}]}", CYCLE),
    "deep lists": ("data: " + "[1, " * 200, DEEP),
    "deep mappings": ("{a: " * 200, DEEP),
    "deep blocks": ("- " * 50_000 + "1", DEEP),
    "deep keys": ("? " * 50_000, DEEP),
    "a call": ("data: !!python/object/apply:os.system ['touch canary']", TAG.replace("TAG", "object/apply:os.system")),
    "a call with new": ("!!python/object/new:os.system ['touch canary']", TAG.replace("TAG", "object/new:os.system")),
    "a name": ("data: !!python/name:os.system", TAG.replace("TAG", "name:os.system")),
    "a module": ("data: !!python/module:antigravity", TAG.replace("TAG", "module:antigravity")),
    "a tag in full": ("data: !<tag:yaml.org,2002:python/name:os.system>", TAG.replace("TAG", "name:os.system")),
    "a tag by another name": (
        "%TAG !p! tag:yaml.org,2002:python/\n---\ndata: !p!object/apply:os.system ['touch canary']",
        TAG.replace("TAG", "object/apply:os.system"),
    ),
}  # fmt: skip


def phrase(name: str, source: str) -> str:
    return DANGERS[name][1].replace("{source}", source)


@pytest.mark.parametrize("name", DANGERS)
def test_dangers_are_refused_before_they_are_built(tmp_path, name):
    path = tmp_path / "evil.yaml"
    path.write_text(DANGERS[name][0])
    began, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as error:
        load_yaml(path)
    assert phrase(name, f"`{path}`") in str(error.value)
    assert time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # KiB


@pytest.mark.parametrize("name", DANGERS)
@pytest.mark.parametrize(
    "argv",
    [
        ["fit", *TINY, "--config=evil.yaml"],
        ["fit", *TINY, "-c", "evil.yaml"],
        ["validate", "--config", "evil.yaml"],
        ["study", "evil.yaml", "--dry_run"],
        ["study", "base.yaml", "--dry_run"],
        ["report", "study"],
    ],
    ids=lambda argv: " ".join([argv[0], argv[-1]]),
)
def test_dangers_are_refused_by_every_command(run, tmp_path, name, argv):
    study = tmp_path / "study"
    study.mkdir()
    for path in (tmp_path / "evil.yaml", study / "plan.yaml"):
        path.write_text(DANGERS[name][0])
    (tmp_path / "base.yaml").write_text("base: evil.yaml")
    before = set(tmp_path.rglob("*"))
    answer = run(*argv)
    assert answer.status == 2
    path = {"report": "study/plan.yaml", "study": tmp_path / "evil.yaml"}.get(argv[0], "evil.yaml")
    assert phrase(name, f"`{path}`") in answer.complaint
    assert set(tmp_path.rglob("*")) == before


def test_a_configuration_named_in_the_environment_is_checked(run, tmp_path, monkeypatch):
    (tmp_path / "evil.yaml").write_text(LAUGHS)
    monkeypatch.setenv("LIT_PRUNE_FIT__CONFIG", "evil.yaml")
    assert phrase("billion laughs", "`evil.yaml`") in run("fit", *TINY).complaint


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("a: {x: 1, y: [{z: 2}]}\nb:\n  - callbacks+: 1\n    other: 2\n    callbacks+: 3\n")
    with pytest.raises(InputError, match=r"different keys in each mapping of .* `callbacks\+` twice \(line 5\)"):
        load_yaml(path)
    path.write_text('a: &a {x: 1}\nb: {<<: *a, x: 2}\nc: {1: a, "1": b}\nd: [*a, *a]\n')
    assert load_yaml(path)["b"] == {"x": 2}


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"YAML of at most 10 MB in `.*huge\.yaml`, but got more"):
        load_yaml(path)


def test_brackets_without_end_are_one_sentence(run, tmp_path):
    """Parsers fail in different ways; none may crash the interpreter."""
    (tmp_path / "evil.yaml").write_text("[" * 1_000_000)
    for argv in (["fit", *TINY, "--config=evil.yaml"], ["study", "evil.yaml", "--dry_run"]):
        answer = run(*argv)
        assert answer.status == 2
        assert answer.complaint.startswith("Expected ")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}",
        "- &a [1, 2]\n" + "- *a\n" * 1000,
        "a: !!set {x, y}\nb: !!binary aGVsbG8=\nc: 2020-01-01",
        "[" * 100 + "]" * 100,
        "",
    ],
)
def test_harmless_yaml_is_loaded_as_by_yaml(tmp_path, text):
    path = tmp_path / "fine.yaml"
    path.write_text(text)
    assert load_yaml(path) == yaml.safe_load(text)


@pytest.mark.gate
def test_a_large_harmless_file_is_accepted(tmp_path):
    path = tmp_path / "fine.yaml"
    path.write_text("- 1\n" * 99_998)
    assert len(load_yaml(path)) == 99_998


@pytest.mark.parametrize("text", ["a: [1", "a: *b", "a: !unknown 1", "\tx: 1"])
def test_files_that_are_not_yaml_are_left_to_the_caller(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(yaml.YAMLError):
        load_yaml(path)
    with pytest.raises(yaml.YAMLError):
        load_yaml_text(text, "an option")


def test_the_dangers_are_real(tmp_path: Path):
    """Loaded unsafely, the calls make their canary."""
    canary = tmp_path / "canary"
    for name in ("a call", "a call with new", "a tag by another name"):
        yaml.unsafe_load(DANGERS[name][0].replace("canary", str(canary)))
        assert canary.exists()
        canary.unlink()
