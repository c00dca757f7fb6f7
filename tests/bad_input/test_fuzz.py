"""Random options, YAML and bytes are accepted, or refused with one line, in bounded time; no file is written.

`LIT_PRUNE_FUZZ=20 pytest tests/bad_input/test_fuzz.py` runs 20 times as many examples.
"""

import contextlib
import hashlib
import io
import os
import signal
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lit_prune.data import cifar10
from lit_prune.data.images import read_images
from lit_prune.errors import InputError
from lit_prune.files.checkpoint import read_checkpoint, read_state_dict
from lit_prune.files.compressed import load_compressed, write_compressed
from lit_prune.main import COMMANDS, main
from lit_prune.study.plan.loading import load_plan
from lit_prune.study.plan.stored import stored_plan
from lit_prune.study.results.results import read_results
from lit_prune.trained.network import load_network
from tests.bad_input.conftest import PLAN, listing
from tests.data.conftest import archive as archive  # fixtures
from tests.data.conftest import fake_cifar10 as fake_cifar10
from tests.study.folders import make_study

pytestmark = pytest.mark.gate

TIMES = int(os.environ.get("LIT_PRUNE_FUZZ", "1"))
SECONDS = 20  # limit for a single example, also on a busy machine


def bounded(examples: int) -> Callable[[Any], Any]:
    """Run this many random examples. Hypothesis prints an example that fails, and runs it first the next time."""
    return settings(
        max_examples=examples * TIMES,
        deadline=None,
        # examples share a folder, which no example may change
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Raise an error if the block takes longer than `SECONDS`."""

    def fail(*_: object) -> None:
        raise TimeoutError(f"no answer in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(argv: list[str]) -> tuple[int, str]:
    """Run a command; return its exit status and its output on stderr."""
    said = io.StringIO()
    with in_time(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        return main(argv), said.getvalue()


def assert_answered(argv: list[str], *statuses: int) -> None:
    """Check that a command exits with one of these statuses, prints one error if it fails, and changes no file."""
    before = listing(Path())
    status, said = answer(argv)
    complaints = [line for line in said.splitlines() if line.startswith("lit-prune: error: ")]
    assert status in statuses, (argv, said)
    assert "Traceback" not in said
    if status:
        assert len(complaints) == 1, said
        assert complaints[0].endswith(".")
        assert len(complaints[0]) < 6000
    assert listing(Path()) == before


# --- command lines


def words(text: str) -> list[str]:
    return text.split()


OPTIONS = words("""
    --name --seed_everything --threads --on_nan --resume --config --ckpt_path --init_from
    --model --model.output --model.softmax_scale --model.stem --model.weights --model.init_from
    --model.optimizer --model.optimizer.lr --model.lr_scheduler --data --data.source --data.data_dir
    --data.val_size --data.limit_train --data.batch_size --data.augment --data.predict_path
    --trainer --trainer.max_epochs --trainer.precision --trainer.logger --trainer.devices
    --trainer.callbacks --trainer.callbacks+ --trainer.callbacks.amount --trainer.callbacks.layers
    --preset --out --seeds --only --jobs --weights --ray --dry_run --output --no-figures
""")
VALUES = [
    "",
    *words("0 1 -1 1.5 1e9 nan .nan .inf true null [] {} [1 *a !!python/object:os.system Adam GlobalL1Pruning"),
    *words("SparsityMonitor logits quick synthetic ü ' /dev/null .. . 2024-13-45"),
    *("{a: 1}", "a: b: c", "{class_path: GlobalL1Pruning, init_args: {amount: x}}", "&a [*a]"),
]
TEXT = st.text(st.characters(codec=None), max_size=30)
VALUE = st.sampled_from(VALUES) | TEXT


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """An option with a character added, removed or replaced."""
    name = draw(st.sampled_from(OPTIONS))
    at = draw(st.integers(0, len(name)))
    cut = draw(st.integers(0, 2))
    return name[:at] + draw(st.text(string.printable, max_size=2)) + name[at + cut :]


NAME = st.sampled_from(OPTIONS) | mangled()
WORD = st.one_of(st.tuples(NAME, VALUE).map("=".join), NAME, VALUE)
# no command has this option, so every command fails
NEVER = "--never-an-option=1"


@bounded(60)
@given(
    command=st.sampled_from(["fit", "validate", "test", "predict"]),
    argv=st.lists(WORD, max_size=6),
    last=st.sampled_from([NEVER, "--print_config"]),
)
def test_random_arguments_of_a_training_are_answered(run, command, argv, last):
    # `--help` and `--print_config` succeed before the other arguments are parsed
    assert_answered([command, *argv, NEVER, last], 0, 2)


@bounded(200)
@given(command=st.sampled_from(["study", "report"]) | TEXT, argv=st.lists(WORD, max_size=6))
def test_random_arguments_of_other_commands_are_answered(run, command, argv):
    assert_answered([command if command not in COMMANDS or argv else "report", *argv, NEVER], 0, 2)


TRAINED = ("inspect", "prune", "sensitivity", "shrink", "export", "cost")
OPTIONS_OF_TRAINED = words("""
    --amount --amounts --ratio --format --output --layers --exclude --limit --input_size --batch
    --against --batches --rounds --crop --compress --criterion --structure --allocation --plot --model --help
""")


@bounded(60)
@given(
    command=st.sampled_from(TRAINED),
    argv=st.lists(st.one_of(WORD, st.tuples(st.sampled_from(OPTIONS_OF_TRAINED), VALUE).map("=".join)), max_size=6),
)
def test_random_arguments_about_a_trained_network_are_answered(run, command, argv):
    assert_answered([command, *argv, NEVER], 0, 2)


# --- YAML

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXT.filter(lambda text: text.isprintable()), st.dates()
)
KEYS = st.sampled_from(
    words("""
    model data trainer optimizer class_path init_args callbacks callbacks+ max_epochs source val_size
    name settings experiments seeds claims parent overrides base only said of contrasts between measure
    threads metrics groups initial_weights checkpoint train minus exact pretrained minus_measure
    """)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | SCALARS.filter(bool), inner, max_size=4),
    max_leaves=12,
)
MAPPINGS = st.dictionaries(KEYS, TREES, max_size=5)


def written(content: Any) -> bytes:
    text: str = yaml.safe_dump(content, allow_unicode=True)
    return text.encode("utf-8", errors="surrogatepass")


DOCUMENTS = st.one_of(
    MAPPINGS.map(written),
    TREES.map(written),
    TEXT.map(lambda text: text.encode("utf-8", "replace")),
    st.binary(max_size=60),
)


@bounded(40)
@given(content=DOCUMENTS)
def test_a_random_configuration_is_answered(run, content):
    Path("random.yaml").write_bytes(content)
    # `--print_config` prints the configuration and trains nothing
    assert_answered(["fit", "--config=random.yaml", "--print_config"], 0, 2)


@st.composite
def plans(draw: st.DrawFn) -> bytes:
    """A plan with a few of its values replaced."""
    content = yaml.safe_load(yaml.safe_dump(PLAN | {"name": "random"}))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = content
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place, key=str) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list) or draw(st.booleans()):
                place[key] = draw(TREES)
                break
            place = place[key]
    return written(content | draw(st.just({}) | MAPPINGS))


@bounded(60)
@given(content=plans() | DOCUMENTS)
def test_a_random_plan_is_answered(run, content):
    Path("random.yaml").write_bytes(content)
    assert_answered(["study", "random.yaml", "--dry_run"], 0, 2)


# --- bytes


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with bytes changed, removed or inserted, mostly near its ends, where file formats have their tables."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        near = min(len(content), 400)
        at = draw(
            st.one_of(
                st.integers(0, near), st.integers(len(content) - near, len(content)), st.integers(0, len(content))
            )
        )
        match draw(st.sampled_from(["flip", "cut", "insert", "end"])):
            case "flip" if at < len(content):
                content[at] ^= draw(st.integers(1, 255))
            case "cut":
                del content[at : at + draw(st.integers(1, 64))]
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=16))
            case "end":
                del content[at:]
    return bytes(content)


def reads(read: Callable[[], Any], *allowed: type[Exception]) -> None:
    """Call `read`, which may return a value or raise one of the documented errors, and must change no file."""
    before = listing(Path())
    with in_time(), contextlib.suppress(InputError, *allowed):
        read()
    assert listing(Path()) == before


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small files, each valid for its loader, by name."""
    folder = tmp_path_factory.mktemp("whole")
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}
    stored = {"settings": {"model": {"output": "logits"}}, "callbacks": ["SparsityMonitor"]}
    checkpoint = {"state_dict": state, "pytorch-lightning_version": "2.6.0", "lit_prune": stored, "loops": {}}
    torch.save(state, folder / "state.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(checkpoint, folder / "whole.ckpt")
    Image.new("RGB", (40, 30), "red").save(folder / "image.png")
    Image.new("RGBA", (9, 9)).save(folder / "clear.png")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900).save(folder / "deep.png")
    Image.new("RGB", (40, 30), "red").save(folder / "image.jpg")
    write_compressed(state, folder / "state.litprune", {})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@bounded(300)
@given(data=st.data())
def test_damaged_compressed_weights_are_read_or_refused(run, whole, data):
    Path("file").write_bytes(data.draw(damaged(whole["state.litprune"]) | st.binary(max_size=200)))
    reads(lambda: load_compressed("file"))


@bounded(400)
@given(data=st.data(), name=st.sampled_from(["state.pt", "old.pt", "whole.ckpt"]))
def test_damaged_weights_are_read_or_refused(run, whole, data, name):
    Path("file").write_bytes(data.draw(damaged(whole[name]) | st.binary(max_size=200)))
    reads(lambda: read_checkpoint("file"))
    reads(lambda: read_state_dict("file"))
    reads(lambda: load_network("file"))


@bounded(300)
@given(data=st.data(), name=st.sampled_from(["image.png", "clear.png", "deep.png", "image.jpg"]))
def test_damaged_images_are_read_or_refused(run, whole, data, name):
    Path("file").write_bytes(data.draw(damaged(whole[name]) | st.binary(max_size=200)))
    reads(lambda: read_images(Path("file")))


@bounded(100)
@given(data=st.data(), name=st.sampled_from(["test_images.npy", "test_labels.npy"]))
def test_damaged_arrays_are_never_used(fake_cifar10, tmp_path_factory, monkeypatch, data, name):
    made = tmp_path_factory.getbasetemp() / "arrays"
    if not made.exists():
        cifar10.prepare(fake_cifar10.parent, ["test"])
        fake_cifar10.parent.joinpath(cifar10.FOLDER).rename(made)
    folder = tmp_path_factory.mktemp("cache")
    (folder / cifar10.FOLDER).mkdir()
    contents = {path.name: path.read_bytes() for path in made.iterdir()}
    changed = data.draw(damaged(contents[name]) | st.binary(max_size=200))
    for path, content in (contents | {name: changed}).items():
        (folder / cifar10.FOLDER / path).write_bytes(content)
    with in_time(), contextlib.suppress(InputError):
        # compare the arrays only, because headers may differ
        split = cifar10.open_split(folder, "test")
        for kind, array in split._asdict().items():
            assert hashlib.sha256(array.tobytes()).hexdigest() == cifar10.SHA256[f"test_{kind}"]


@bounded(200)
@given(content=plans() | DOCUMENTS)
def test_damaged_plans_are_read_or_refused(run, content):
    Path("plan.yaml").write_bytes(content)
    reads(lambda: load_plan("plan.yaml"))
    reads(lambda: stored_plan(Path()))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one run."""
    folder = tmp_path_factory.mktemp("study") / "one"
    make_study(folder, PLAN | {"name": "one"})
    return folder


@bounded(500)
@given(data=st.data(), name=st.sampled_from(["metrics.csv", "result.json", "plan.yaml"]))
def test_a_damaged_study_is_read_or_refused(study, monkeypatch, data, name):
    monkeypatch.chdir(study)
    path = Path(name) if name == "plan.yaml" else Path("a/seed=0") / name
    sound = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(sound) | st.binary(max_size=200)))
        reads(lambda: read_results(Path()))
    finally:
        path.write_bytes(sound)


@bounded(15)
@given(data=st.data(), name=st.sampled_from(["metrics.csv", "result.json", "plan.yaml"]))
def test_a_damaged_study_is_reported_or_refused(study, tmp_path, monkeypatch, data, name):
    monkeypatch.chdir(study)
    path = Path(name) if name == "plan.yaml" else Path("a/seed=0") / name
    sound = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(sound)))
        status, said = answer(["report", ".", f"--output={tmp_path / 'report.md'}", "--no-figures"])
        assert status in (0, 2), said
        assert (tmp_path / "report.md").exists() or status == 2
    finally:
        path.write_bytes(sound)
