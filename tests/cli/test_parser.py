"""The parser of all commands, and the options that commands on trained networks share."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lit_prune.cli.parser import (
    CommandParser,
    check_output,
    check_path,
    check_picture,
    make_checkpoint_parser,
    one_sentence_errors,
    parse_checkpoint_command,
)
from lit_prune.errors import InputError


def parse(*argv: str) -> Any:
    parser = make_checkpoint_parser("inspect", "Show.", data="images")
    parser.add_argument("--amount", type=float, default=0.3)
    parser.add_argument("--flag", action="store_true")
    return parse_checkpoint_command(parser, ["inspect", *argv])


@pytest.mark.parametrize(
    "argv", [("a.ckpt", "--amount=0.5"), ("--amount", "0.5", "a.ckpt"), ("--flag", "a.ckpt", "--amount", "0.5")]
)
def test_the_checkpoint_may_be_anywhere_on_the_command_line(argv):
    options = parse(*argv)
    assert (options.checkpoint, options.amount, options.data.as_dict()) == ("a.ckpt", 0.5, {})


def test_data_holds_only_options_that_were_given(tmp_path, monkeypatch):
    assert parse("a", "--data.source", "synthetic").data.as_dict() == {"source": "synthetic"}
    monkeypatch.chdir(tmp_path)
    Path("some.yaml").write_text("data: {val_size: 7}\namount: 0.25\n")
    options = parse("a", "--config", "some.yaml", "--data.batch_size=8")
    assert options.data.as_dict() == {"val_size": 7, "batch_size": 8}
    assert options.amount == 0.25


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        ((), "a checkpoint, but got none"),
        (("--amount", "0.5"), "a checkpoint, but got none"),
        (("a", "b"), "an option, which starts with `--`, but got `b`"),
        (("a", "--amuont=1"), "`--amuont`. HINT: did you mean `--amount`"),
        (("a", "--amo=1"), "a known option, but got `--amo`"),
        (("a", "--limit=0"), "`--limit` to be a positive integer, but got 0"),
        (("a", "--limit=x"), "`--limit` to be an integer or null, but got `x`"),
        (("a", "--data.source=x"), "`--data.source` to be one of cifar10, synthetic, but got `x`"),
        (("a", "--amount"), "a value after `--amount`"),
        (("a", "--amount", "1e1000x"), "`--amount` to be a number, but got `1e1000x`"),
        (("a", "--flag=3"), "`--flag` without a value, but got `3`"),
        (("a", "--config", "nowhere.yaml"), "got `nowhere.yaml`"),
        (("a", "--config", "quikc"), "did you mean `--config quick`"),
    ],
)
def test_a_mistake_is_reported_in_one_sentence(argv, phrase):
    with pytest.raises(InputError) as error:
        parse(*argv)
    assert phrase in str(error.value)
    assert "\n" not in str(error.value)


def test_help_exits_with_status_0_and_hides_null_defaults(capsys):
    with pytest.raises(SystemExit) as leave:
        parse("--help")
    assert leave.value.code == 0
    printed = capsys.readouterr().out
    assert "--data.source" in printed
    assert "default: 0.3" in printed
    assert "default: null" not in printed


def test_the_parser_imports_neither_torch_nor_lightning():
    code = (
        "import sys; from lit_prune.cli.parser import CommandParser, one_sentence_errors\n"
        "parser = CommandParser(); parser.add_argument('--jobs', type=int)\n"
        "for argv in (['--jobs', 'x'], ['--jobs'], ['--jbos=1'], ['3']):\n"
        "    try:\n"
        "        with one_sentence_errors(argv): parser.parse_args(argv)\n"
        "    except ValueError as error: print(error)\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'lightning')))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout.count("Expected ")) == (0, 4), answer.stderr


def test_every_value_of_a_list_is_checked():
    parser = CommandParser()
    parser.add_argument("--seeds", type=int, nargs="+")
    argv = ["--seeds", "1", "x"]
    with pytest.raises(InputError, match="every value of `--seeds` to be an integer"), one_sentence_errors(argv):
        parser.parse_args(argv)


def test_an_output_is_checked_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.ckpt").touch()
    os.link("a.ckpt", "b.ckpt")
    Path("link").symlink_to("a.ckpt")
    assert check_output("out.ckpt", "a.ckpt") == Path("out.ckpt")
    for path, phrase in [
        ("", "`--output` to be a file, but got an empty value"),
        (".", "`--output` to be a file, but got the folder `.`"),
        (os.devnull, f"`--output` to be a file, but got the device `{os.devnull}`"),
        ("a.ckpt", "`--output` to differ from the checkpoint, but got `a.ckpt`"),
        ("link", "`--output` to differ from the checkpoint, but got `link`"),
        ("no/out.ckpt", "`--output` in an existing folder, but got `no/out.ckpt`"),
    ]:
        with pytest.raises(InputError) as error:
            check_output(path, "a.ckpt")
        assert phrase in str(error.value)
    assert check_picture("--plot", "out.PNG") == Path("out.PNG")
    with pytest.raises(InputError, match="`--plot` to be a PNG file"):
        check_picture("--plot", "out.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "b.ckpt", "link"]


@pytest.mark.parametrize(("path", "phrase"), [("", "an empty value"), ("a/" + "ü" * 128, "at most 255 bytes")])
def test_an_impossible_path_is_rejected(path, phrase):
    check_path("`--out`", "a/" + "ü" * 127)
    with pytest.raises(InputError, match="`--out` to be a path") as error:
        check_path("`--out`", path)
    assert phrase in str(error.value)
