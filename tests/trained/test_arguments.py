"""What is typed after a command on a trained network."""

import os
from pathlib import Path

import pytest

from lit_prune.errors import InputError
from lit_prune.trained.arguments import check_output, make_parser, parse


def given(*argv: str):
    parser = make_parser("inspect", "Look.", data=True)
    parser.add_argument("--amount", type=float, default=0.3)
    parser.add_argument("--flag", action="store_true")
    return parse(parser, ["inspect", *argv])


@pytest.mark.parametrize(
    "words", [("a.ckpt", "--amount=0.5"), ("--amount", "0.5", "a.ckpt"), ("--flag", "a.ckpt", "--amount", "0.5")]
)
def test_the_checkpoint_may_stand_anywhere(argv):
    options = given(*argv)
    assert (options.checkpoint, options.amount, options.data.as_dict()) == ("a.ckpt", 0.5, {})


def test_only_typed_options_of_the_data_are_there(tmp_path, monkeypatch):
    assert given("a", "--data.source", "synthetic").data.as_dict() == {"source": "synthetic"}
    monkeypatch.chdir(tmp_path)
    Path("some.yaml").write_text("data: {val_size: 7}\namount: 0.25\n")
    options = given("a", "--config", "some.yaml", "--data.batch_size=8")
    assert options.data.as_dict() == {"val_size": 7, "batch_size": 8}
    assert options.amount == 0.25


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "Expected the path of a checkpoint after the command, but got none. "),
        (("--amount", "0.5"), "Expected the path of a checkpoint after the command, but got none. "),
        (("a", "b"), "Expected an option, which starts with `--`, but got `b`. "),
        (("a", "--amuont=1"), "Expected a known option, but got `--amuont`. HINT: did you mean `--amount`."),
        (("a", "--limit=0"), "Expected `--limit` to be at least 1, but got 0. "),
        (("a", "--data.source=x"), "Expected `--data.source` to be one of cifar10, synthetic, but got `x`. "),
        (("a", "--amount"), "Expected a value after `--amount`, but got none. "),
    ],
)
def test_a_mistake_is_one_sentence(argv, sentence):
    with pytest.raises(InputError) as error:
        given(*argv)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_help_ends_the_command(capsys):
    with pytest.raises(SystemExit) as leave:
        given("--help")
    assert leave.value.code == 0
    assert "--data.source" in capsys.readouterr().out


def test_an_output_is_checked_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.ckpt").touch()
    os.link("a.ckpt", "b.ckpt")
    Path("link").symlink_to("a.ckpt")
    assert check_output("out.ckpt", "a.ckpt") == Path("out.ckpt")
    for path, sentence in [
        ("", "Expected `--output` to be a file, but got nothing. "),
        (".", "Expected `--output` to be a file, but got the folder `.`. "),
        ("a.ckpt", "Expected `--output` beside the checkpoint, but got `a.ckpt`, the same file. "),
        ("link", "Expected `--output` beside the checkpoint, but got `link`, the same file. "),
        ("no/out.ckpt", "Expected `--output` in a folder that is there, but got `no/out.ckpt`. "),
    ]:
        with pytest.raises(InputError) as error:
            check_output(path, "a.ckpt")
        assert str(error.value).startswith(sentence)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "b.ckpt", "link"]
