"""`fit`, `validate`, `test` and `predict`, called as a user calls them, on a few synthetic images."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import Namespace
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lit_prune import LitResNet18
from lit_prune.cli.configs import shipped_configs
from lit_prune.files.checkpoint import KEY
from lit_prune.training.hyperparameters import _describe_callbacks
from tests.training.conftest import NARROW, TINY, Run

LOGS = Path("lightning_logs")
EVERY_THIRD_STEP = [
    "--trainer.callbacks+=ModelCheckpoint",
    "--trainer.callbacks.every_n_train_steps=3",
    "--trainer.callbacks.save_top_k=-1",
    "--trainer.callbacks.filename=step{step}",
    "--trainer.callbacks.auto_insert_metric_name=false",
]


def fit(run: Run, name: str, *argv: str) -> Path:
    """Train; return the run folder."""
    answer = run("fit", *TINY, f"--name={name}", *argv)
    assert answer.status == 0, answer.err
    return max((LOGS / name).iterdir(), key=lambda path: int(path.name.split("_")[1]))


def contents(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor that determines how training continues: weights, buffers, optimizer state."""
    loaded = torch.load(checkpoint, weights_only=True)
    tensors = dict(loaded["state_dict"])
    for index, state in loaded["optimizer_states"][0]["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    return tensors


def assert_same(one: Path, other: Path) -> None:
    first, second = contents(one), contents(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


def scalars(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def test_a_run_writes_everything_into_one_folder(run):
    answer = run("fit", *TINY, NARROW, "--name=first", "--trainer.max_epochs=2")
    assert answer.status == 0, answer.err
    folder = LOGS / "first" / "version_0"
    assert {path.name for path in LOGS.iterdir()} == {"first"}
    assert {path.name for path in (LOGS / "first").iterdir()} == {"version_0"}
    checkpoints = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert len(checkpoints) == 2
    assert checkpoints[0].startswith("best-epoch=00")
    assert checkpoints[1] == "last.ckpt"
    assert (folder / "config.yaml").is_file()

    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = {"train/loss", "train/acc", "val/loss", "val/acc", "lr"}
    assert logged <= set(rows[0])
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for name in logged:
        assert all(row[name] for row in rows)

    # the summary shows the logged numbers and where the files are
    best = max(float(row["val/acc"]) for row in rows if row["val/acc"])
    assert f"best        val/acc {best:.4f}" in answer.out
    assert f"checkpoint  {folder / 'checkpoints' / checkpoints[0]}" in answer.out
    assert "dashboard   tensorboard --logdir lightning_logs/first" in answer.out


@pytest.mark.parametrize(
    ("option", "name"), [("--model=tests.training.small.SmallNet", "SmallNet"), ("--config=own.yaml", "own")]
)
def test_a_run_is_named_after_its_configuration_or_its_network(run, option, name):
    Path("own.yaml").write_text("model: tests.training.small.SmallNet\n", encoding="utf-8")
    assert run("fit", *TINY, option, "--trainer.max_epochs=1").status == 0
    assert [path.name for path in LOGS.iterdir()] == [name]


def test_curves_are_logged_at_their_epoch(run):
    events = scalars(fit(run, "axis", "--trainer.max_epochs=3", NARROW))
    curves = ("train/loss", "train/acc", "train/lr", "train/time", "val/loss", "val/acc")
    for name in curves:
        assert [point.step for point in events.Scalars(name)] == [0, 1, 2], name
    assert {*curves, "val/best_acc", "val/best_loss"} == set(events.Tags()["scalars"])


def hparams(folder: Path) -> tuple[dict[str, Any], set[str]]:
    """The columns of a run in the HParams tab, and the tags of the metrics next to them."""
    events = EventAccumulator(str(folder)).Reload()
    read = HParamsPluginData.FromString
    started = read(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content).session_start_info
    values = {name: value.string_value or value.number_value for name, value in started.hparams.items()}
    metrics = read(events.SummaryMetadata("_hparams_/experiment").plugin_data.content).experiment.metric_infos
    return values, {metric.name.tag for metric in metrics}


def test_the_hparams_tab_shows_the_last_values_of_curves(run):
    folder = fit(run, "hparams", "--trainer.max_epochs=2", NARROW)
    events, (values, tags) = scalars(folder), hparams(folder)
    assert {"train/loss", "val/acc", "val/best_acc", "sparsity/global", "test/acc"} <= tags
    assert values["experiment"] == "hparams"
    assert values["parent"] == "none"
    (best,) = events.Scalars("val/best_acc")
    assert best.value == max(point.value for point in events.Scalars("val/acc"))
    assert best.step == events.Scalars("val/acc")[-1].step == 1  # where the curves end
    assert {tag for tag in events.Tags()["scalars"] if len(events.Scalars(tag)) == 1} == {
        "val/best_acc",
        "val/best_loss",
    }


def test_the_hparams_tab_has_the_arguments_of_callbacks_as_numbers(run):
    plain, _ = hparams(fit(run, "plain", "--trainer.max_epochs=1", NARROW))
    changed, _ = hparams(
        fit(
            run,
            "changed",
            "--trainer.max_epochs=5",
            "--trainer.limit_train_batches=1",
            "--trainer.callbacks+=GlobalL1Pruning",
            "--trainer.callbacks.amount=0.3",
            "--trainer.callbacks.start_epoch=1",
            "--trainer.callbacks.end_epoch=3",
            "--trainer.callbacks+=PruningRemoval",
            "--trainer.callbacks.epoch=end",
            "--trainer.callbacks+=LayerFreezing",
            "--trainer.callbacks.fraction=0.2",
            "--trainer.callbacks.unfreeze_epoch=1",
            "--model.init_from=lightning_logs/plain/version_0/checkpoints/last.ckpt",
        )
    )
    assert plain.keys() == changed.keys()
    columns = ("amount", "start_epoch", "end_epoch", "schedule", "removal_epoch", "fraction", "unfreeze_epoch")
    assert [plain[name] for name in columns] == [0, -1, -1, "none", -1, 0, -1]
    assert [changed[name] for name in columns] == [0.3, 1, 3, "cubic", 5, 0.2, 1]
    assert (plain["weights"], changed["weights"]) == ("random", "parent")
    assert changed["parent"] == "lightning_logs/plain/version_0/checkpoints/last.ckpt"


def test_hyperparameters_are_those_of_the_first_pruning_callback():
    def callback(name: str, **arguments: Any) -> Namespace:
        return Namespace(class_path=f"lit_prune.callbacks.{name}", init_args=Namespace(arguments))

    first = callback("LocalL1Pruning", amount=0.2, start_epoch=0, start_step=None, end_step=40, schedule="linear")
    others = callback("GlobalL1Pruning", amount=0.5, start_epoch=1), callback("LocalL1Pruning", amount=0.7)
    found = _describe_callbacks([callback("SparsityMonitor"), first, *others], max_epochs=3)
    assert (found["amount"], found["schedule"]) == (0.2, "linear")
    assert [found[name] for name in ("start_epoch", "end_epoch", "start_step", "end_step")] == [-1, -1, 0, 40]
    found = _describe_callbacks([callback("RigL", amount=0.9, end_step=500)], max_epochs=3)
    assert (found["start_epoch"], found["end_epoch"], found["end_step"], found["schedule"]) == (0, 0, -1, "at once")


def test_the_learning_rate_finder_sets_the_rate_of_optimizer_and_scheduler(run):
    folder = fit(
        run,
        "found",
        NARROW,
        "--trainer.max_epochs=2",
        "--data.limit_train=160",
        "--model.lr_scheduler=CosineAnnealingLR",
        "--model.lr_scheduler.T_max=2",
        "--trainer.callbacks+=LearningRateFinder",
        "--trainer.callbacks.num_training_steps=18",
        "--trainer.callbacks.early_stop_threshold=null",
    )
    first, second = [point.value for point in scalars(folder).Scalars("train/lr")]
    assert first != pytest.approx(1e-3)
    assert second == pytest.approx(first / 2)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(run):
    argv = ["--trainer.max_epochs=1", "--data.augment=standard", NARROW]
    first = fit(run, "a", "--seed_everything=3", *argv) / "checkpoints" / "last.ckpt"
    second = fit(run, "b", "--seed_everything=3", *argv) / "checkpoints" / "last.ckpt"
    third = fit(run, "c", "--seed_everything=4", *argv) / "checkpoints" / "last.ckpt"
    assert_same(first, second)
    one, other = contents(first), contents(third)
    assert not torch.equal(one["backbone.conv1.weight"], other["backbone.conv1.weight"])


def test_the_last_checkpoint_is_that_of_the_last_epoch_even_if_another_was_the_best(run):
    # nothing is learned, so the first epoch remains the best
    argv = [
        "--trainer.max_epochs=3",
        "--model.optimizer=SGD",
        "--model.optimizer.lr=0",
        "--model.batch_norm=frozen",
        NARROW,
    ]
    checkpoints = fit(run, "flat", *argv) / "checkpoints"
    epochs = {path.name[:4]: torch.load(path, weights_only=True)["epoch"] for path in checkpoints.iterdir()}
    assert epochs == {"best": 0, "last": 2}


def test_with_several_validations_per_epoch_the_last_one_counts(run, monkeypatch):
    """As for `ModelCheckpoint`: the best epoch is the first, with 0.5."""
    accuracies = iter([0.3, 0.5, 0.6, 0.4])

    def log(self, *_):
        self.log("val/acc", self.forced)
        self.log("val/loss", 1.0)

    monkeypatch.setattr(LitResNet18, "validation_step", log)
    monkeypatch.setattr(
        LitResNet18, "on_validation_epoch_start", lambda self: setattr(self, "forced", next(accuracies))
    )
    argv = ["--trainer.max_epochs=2", "--trainer.val_check_interval=0.5", "--trainer.num_sanity_val_steps=0", NARROW]
    checkpoints = fit(run, "often", *argv) / "checkpoints"
    assert [path.name for path in checkpoints.glob("best*")] == ["best-epoch=000-val_acc=0.5000.ckpt"]
    best = torch.load(checkpoints / "last.ckpt", weights_only=True)[KEY]["best"]
    assert (best["epoch"], best["val_acc"]) == (0, 0.5)


def test_a_run_can_be_repeated_from_its_own_config(run):
    argv = ["--trainer.max_epochs=1", "--model.optimizer=SGD", "--model.optimizer.lr=0.02", NARROW]
    folder = fit(run, "origin", *argv)
    answer = run("fit", "--config", str(folder / "config.yaml"))
    assert answer.status == 0, answer.err
    assert_same(folder / "checkpoints" / "last.ckpt", LOGS / "origin" / "version_1" / "checkpoints" / "last.ckpt")


# the additional checkpoints are not requested again
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.gate
def test_resuming_is_bit_identical(run):
    """A run resumes from the end of an epoch, from the middle of one, and from the last batch of one."""
    argv = ["--seed_everything=11", NARROW, "--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=1"]
    whole = fit(run, "whole", "--trainer.max_epochs=2", *argv, *EVERY_THIRD_STEP)
    # four batches an epoch: step 3 is inside the first epoch, step 6 inside the second
    assert {path.name for path in (whole / "checkpoints").glob("step*")} == {"step3.ckpt", "step6.ckpt"}
    stopped = fit(run, "stopped", "--trainer.max_epochs=1", *argv, "--trainer.callbacks+=ModelCheckpoint",
                  "--trainer.callbacks.every_n_train_steps=4", "--trainer.callbacks.filename=fourth")  # fmt: skip
    for source in (
        stopped / "checkpoints" / "last.ckpt",
        stopped / "checkpoints" / "fourth.ckpt",
        whole / "checkpoints" / "step3.ckpt",
        whole / "checkpoints" / "step6.ckpt",
    ):
        # the checkpoint holds the random seed and the settings of the model
        resumed = fit(run, "resumed", "--trainer.max_epochs=2", f"--ckpt_path={source}")
        assert_same(whole / "checkpoints" / "last.ckpt", resumed / "checkpoints" / "last.ckpt")


def test_a_checkpoint_is_scored_on_validation_and_test_images(run):
    folder = fit(run, "scored", "--trainer.max_epochs=2", "--model.stem=cifar", NARROW)
    best = next((folder / "checkpoints").glob("best*"))
    # the checkpoint holds the option `stem`
    argv = [f"--ckpt_path={best}", "--data.eval_batch_size=16", *TINY[4:]]
    answer = run("validate", *argv)
    assert answer.status == 0, answer.err
    logged = max(point.value for point in scalars(folder).Scalars("val/acc"))
    again = scalars(LOGS / "validate" / "version_0").Scalars("val/acc")
    assert [point.value for point in again] == [logged]

    answer = run("test", *argv, "--trainer.limit_test_batches=2")
    assert answer.status == 0, answer.err
    tags = scalars(LOGS / "test" / "version_0").Tags()["scalars"]
    assert {"test/loss", "test/acc"} <= set(tags)
    assert len([tag for tag in tags if tag.startswith("test/acc/")]) == 10


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.gate
def test_an_untrained_network_is_not_evaluated(run, command):
    without = run(command, *TINY, NARROW)
    assert without.status == 2
    assert without.complaint.startswith("Expected a trained network, but got no `--ckpt_path`.")
    assert not LOGS.exists()
    option = without.complaint.split("HINT: add `")[1].split("`")[0]
    assert option == "--ckpt_path lightning_logs/NAME/version_0/checkpoints/last.ckpt"
    folder = fit(run, "trained", "--trainer.max_epochs=1", NARROW)
    hint = run(command, *TINY).complaint.split("HINT: add `")[1].split("`")[0].split()
    assert hint == ["--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]
    assert run(command, *TINY[4:], *hint).status == 0
    assert run(command, *TINY, f"--model.init_from={hint[1]}").status == 0


def test_predict_prints_and_writes_the_class_of_each_image(run, tmp_path):
    folder = fit(run, "predicted", "--trainer.max_epochs=1", NARROW)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (64, 40), "red").save(pictures / "a.png")
    Image.new("L", (10, 300), 99).save(pictures / "b.jpg")
    answer = run(
        "predict", f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}", f"--data.predict_path={pictures}", *TINY[4:]
    )
    assert answer.status == 0, answer.err
    with (LOGS / "predict" / "version_0" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).name for row in rows] == ["a.png", "b.jpg"]
    for row in rows:
        assert 0.1 <= float(row["probability"]) <= 1
        line = next(line for line in answer.out.splitlines() if line.startswith(row["image"]))
        assert line.removeprefix(row["image"]).split("  ")[1:][0].strip() == row["class"]
        assert line.endswith(f"{float(row['probability']):.3f}")


def test_weights_can_start_a_new_run(run):
    folder = fit(run, "parent", "--trainer.max_epochs=1", NARROW)
    parent = folder / "checkpoints" / "last.ckpt"
    child = fit(run, "child", "--trainer.max_epochs=1", f"--model.init_from={parent}", "--model.optimizer=SGD",
                "--model.optimizer.lr=0")  # fmt: skip
    # the learning rate is zero, so the trained weights equal those that were read
    start, end = contents(parent), contents(child / "checkpoints" / "last.ckpt")
    assert torch.equal(start["head.0.weight"], end["head.0.weight"])
    assert torch.load(child / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_the_environment_and_several_configs_are_read_in_order(run, tmp_path, monkeypatch):
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"data": {"batch_size": 4}, "trainer": {"max_epochs": 7}}))
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({"trainer": {"max_epochs": 8}}))
    monkeypatch.setenv("LIT_PRUNE_FIT__DATA__AUGMENT", "standard")
    monkeypatch.setenv("LIT_PRUNE_FIT__DATA__BATCH_SIZE", "5")
    answer = run(
        "fit", "--config=quick", "--config=one.yaml", "--config=two.yaml", "--data.val_size=30", "--print_config"
    )
    assert answer.status == 0, answer.err
    config = yaml.safe_load(answer.out)
    assert config["data"]["source"] == "synthetic"  # quick
    assert config["data"]["augment"] == "standard"  # environment
    assert config["data"]["batch_size"] == 4  # a configuration beats the environment
    assert config["trainer"]["max_epochs"] == 8  # the later configuration beats the earlier one
    assert config["data"]["val_size"] == 30  # the command line beats all


def test_the_environment_can_name_a_shipped_configuration(run, monkeypatch):
    monkeypatch.setenv("LIT_PRUNE_FIT__CONFIG", "quick")
    answer = run("fit", "--print_config")
    assert answer.status == 0, answer.err
    assert yaml.safe_load(answer.out)["data"]["source"] == "synthetic"
    monkeypatch.setenv("LIT_PRUNE_FIT__CONFIG", "quik")
    complaint = run("fit", "--print_config").complaint
    assert "`--config`" in complaint
    assert "`quik`" in complaint
    assert "`--config quick`" in complaint


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_configuration_is_parsed_completely(run, name):
    answer = run("fit", "--config", name, "--print_config")
    assert answer.status == 0, answer.err
    printed = yaml.safe_load(answer.out)
    given = yaml.safe_load(shipped_configs()[name].read_text())

    def assert_inside(part, whole):
        for key, value in part.items():
            if isinstance(value, dict):
                assert_inside(value, whole[key])
            else:
                assert whole[key] == value

    assert_inside(given, printed)
