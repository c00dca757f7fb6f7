"""From a parser's message to one sentence: what was expected, what was found, what to do."""

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence

from lightning.pytorch import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_prune.errors import InputError, expected

__all__ = ["explain"]

# the options whose value is the name of a class
_CLASS_OPTIONS = {
    "trainer.callbacks": (Callback, "a callback"),
    "model.optimizer": (Optimizer, "an optimizer"),
    "model.lr_scheduler": (LRScheduler, "a learning rate scheduler"),
}
# the options that somebody else's class may be given to
_MODULE_OPTIONS = {"model": "LightningModule", "data": "LightningDataModule"}
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}
_HELP = "`--help` lists the options"


def explain(message: str, words: Sequence[str], options: Sequence[str]) -> InputError:
    """Say in one sentence what a parser complains about.

    Args:
        message: The parser's message, of any length.
        words: The words that were parsed.
        options: The options that would have been known, each with its leading dashes.

    Returns:
        The error to raise.
    """
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        return _unknown_option(match[1].split("=")[0].rstrip("+"), options)
    if match := re.match(r"Subcommand '[^']*' does not accept option '([^']*)'", message):
        return _unknown_option(f"--{match[1]}", options)
    if match := re.match(r"argument (\S+): expected one argument", message):
        return expected(f"a value after `{match[1]}`", "none", "give it as the next word")
    if match := re.search(r"class_path '([^']+)':\s*the following arguments are required: ([\w, ]+)", message):
        return _missing_argument(match[1], match[2])
    if match := re.search(r"are required: ([\w, ]+).*class_path='([^']+)'", message, re.DOTALL):
        return _missing_argument(match[2], match[1])
    if match := re.search(r"class_path '([^']+)':\s*Parser key \"([^\"]+)\":(.*?)(?:\n    - |\Z)", message, re.DOTALL):
        return _bad_value(f"{_option_of(match[1])}.{match[2]}", match[3])
    if match := re.search(r"class_path '([^']+)':\s*Option '([^']+)' is not accepted", message):
        return _unknown_argument(match[1], match[2], words)
    if match := re.search(r"Option '([^']+)' is not accepted.*class_path='([^']+)'", message, re.DOTALL):
        return _unknown_argument(match[2], match[1], words)
    if match := re.match(r"Group '([^']+)' does not accept option '([^']+)'", message):  # under `--print_config`
        return _unknown_option(f"--{match[1]}.{match[2]}", options)
    if match := re.match(r"Option '([^']+)' is not accepted", message):
        return _unknown_option(f"--{match[1]}", options)
    if match := re.match(r"Unexpected config: (.*)", message, re.DOTALL):
        found = _one_line(match[1]) or "an empty file"
        return expected("`--config` to hold options by name (`data: {...}`)", found, "check the file")
    if match := re.match(r"(?:Problems parsing config|Parser key \"config\"): (.*)", message, re.DOTALL):
        return expected("`--config` to hold YAML that can be read", _one_line(match[1]), "check its syntax")
    if match := re.match(r'Parser key "([^"]+)":', message):
        return _bad_value(match[1], message[match.end() :])
    return expected("arguments that can be parsed", _one_line(message), _HELP)


def _unknown_option(name: str, options: Sequence[str]) -> InputError:
    if not name.startswith("-"):
        return expected("an option, which starts with `--`", f"`{name}`", _HELP)
    near = _closest_option(name, options)
    return expected("a known option", f"`{name}`", f"did you mean `{near}`" if near else _HELP)


def _closest_option(name: str, options: Sequence[str]) -> str | None:
    """The whole name first; then the last part alone, because `--lr` means `--model.optimizer.lr`."""
    if near := difflib.get_close_matches(name, options, n=1, cutoff=0.75):
        return near[0]
    leaves = {_leaf(option.lstrip("-")): option for option in reversed(options)}
    near = difflib.get_close_matches(_leaf(name.lstrip("-")), leaves, n=1, cutoff=0.75)
    return leaves[near[0]] if near else None


def _missing_argument(owner: str, names: str) -> InputError:
    """A class that an option chose needs an argument that no option gave."""
    first = names.split(",")[0]
    hint = f"add `--{_option_of(owner)}.{first} VALUE`"
    return expected(f"`{first}` for {_leaf(owner)}", "no value for it", hint)


def _option_of(owner: str) -> str:
    """The option that a class can be a value of."""
    return next(key for key, (base, _) in _CLASS_OPTIONS.items() if _leaf(owner) in _subclasses(base))


def _unknown_argument(owner: str, name: str, words: Sequence[str]) -> InputError:
    """A class that an option chose does not take an argument."""
    known = _arguments_of(_leaf(owner))
    typed = next((word.split("=")[0] for word in words if _leaf(word.split("=")[0]) == name), name)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `{typed.removesuffix(name)}{near[0]}`" if near else f"it takes {', '.join(known)}"
    return expected(f"an argument of {_leaf(owner)}", f"`{typed}`", hint)


def _bad_value(key: str, rest: str) -> InputError:
    match = re.search(r"(?:Given value|Got value|path string): (.*)", rest)
    found = match[1].strip() if match else _one_line(rest)
    if "dot import path" in rest and key in _CLASS_OPTIONS:
        base, kind = _CLASS_OPTIONS[key]
        near = difflib.get_close_matches(found, sorted(_subclasses(base)), n=1)
        hint = f"did you mean `{near[0]}`" if near else "give a class name, or module.Class for your own"
        return expected(f"`--{key}` to name {kind}", f"`{found}`", hint)
    if match := re.search(r"Multiple subclasses with name (\w+).*ambiguity: (.*)\.", rest):
        return expected(f"`--{key}` to name one class", f"`{match[1]}`, the name of several", f"give one of {match[2]}")
    if match := re.search(r"File does not exist: '([^']*)'", rest):
        return expected(f"`--{key}` to name a file", f"`{match[1]}`, which does not exist", "check the path")
    if choices := [
        value for group in re.findall(r"Literal\[([^]]*)\]", rest) for value in re.findall(r"'(.*?)'", group)
    ]:
        choices = list(dict.fromkeys(choices))
        near = difflib.get_close_matches(found, choices, n=1)
        hint = f"did you mean `{near[0]}`" if near else "choose one of them"
        return expected(f"`--{key}` to be one of {', '.join(choices)}", f"`{found}`", hint)
    if key in _MODULE_OPTIONS:
        why = re.search(r"Problem with given class_path '([^']+)':\s*(.*)", rest)
        found = f"`{why[1]}` ({why[2].strip()})" if why else f"`{found}`"
        hint = "give module.Class, of an installed package or of this folder"
        return expected(f"`--{key}` to name a class of {_MODULE_OPTIONS[key]}", found, hint)
    if kinds := [_KINDS.get(name, name) for name in re.findall(r"Expected a <class '([^']+)'>", rest)]:
        return expected(f"`--{key}` to be {' or '.join(dict.fromkeys(kinds))}", f"`{found}`", "check the value")
    return expected(f"`--{key}` to have a value that it takes", _one_line(rest), _HELP)


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip(" .:-")


def _subclasses(base: type) -> dict[str, type]:
    return {child.__name__: child for child in _descend(base)}


def _descend(base: type) -> Iterator[type]:
    child: type
    for child in base.__subclasses__():
        yield child
        yield from _descend(child)


def _arguments_of(name: str) -> list[str]:
    found = next((classes[name] for base, _ in _CLASS_OPTIONS.values() if name in (classes := _subclasses(base))), None)
    skipped = {"params", "optimizer", "args", "kwargs"}
    return [] if found is None else [p for p in inspect.signature(found).parameters if p not in skipped]
