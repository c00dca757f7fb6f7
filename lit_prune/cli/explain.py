"""From a parser's message to one sentence: what was expected, what was found, what to do."""

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from lightning.pytorch import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_prune.errors import InputError, expected

__all__ = ["explain"]

# the options whose value is the name of a class
_CLASS_OPTIONS = {
    "trainer.callbacks": (Callback, "callback"),
    "model.optimizer": (Optimizer, "optimizer"),
    "model.lr_scheduler": (LRScheduler, "learning rate scheduler"),
}


def explain(message: str, args: Sequence[str], options: Sequence[str]) -> InputError:
    """Say in one sentence what a parser complains about.

    Args:
        message: The parser's message, of any length.
        args: The words that were parsed.
        options: The options that would have been known, each with its leading dashes.

    Returns:
        The error to raise.
    """
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        return _unknown_option(match[1], options)
    if match := re.match(r"Option '([^']+)' is not accepted", message):
        return _unknown_argument(match[1], args, options)
    if match := re.match(r'(?:Problem with given class_path|Parser key) ["\']([^"\']+)["\']:?', message):
        return _bad_value(match[1], message[match.end() :], args)
    if match := re.match(r"the following arguments are required: (.*)", message):
        return expected(
            f"`{match[1]}`, which has no default",
            "no value for it",
            f"`{_last_class(args) or 'the command'}` needs it: add it to the command",
        )
    return expected("arguments that can be parsed", _one_line(message), "`--help` lists the options")


def _unknown_option(word: str, options: Sequence[str]) -> InputError:
    name = word.split("=")[0].rstrip("+")
    if not name.startswith("-"):
        return expected("an option, which starts with `--`", f"`{word}`", "`--help` lists the options")
    near = _closest_option(name, options)
    hint = f"did you mean `{near}`" if near else "`--help` lists the options"
    return expected("a known option", f"`{name}`", hint)


def _closest_option(name: str, options: Sequence[str]) -> str | None:
    """The whole name first; then the last part alone, because `--lr` means `--model.optimizer.lr`."""
    if near := difflib.get_close_matches(name, options, n=1, cutoff=0.75):
        return near[0]
    leaves = {option.lstrip("-").rsplit(".", 1)[-1]: option for option in reversed(options)}
    near = difflib.get_close_matches(name.lstrip("-").rsplit(".", 1)[-1], leaves, n=1, cutoff=0.75)
    return leaves[near[0]] if near else None


def _unknown_argument(leaf: str, args: Sequence[str], options: Sequence[str]) -> InputError:
    """An argument that the class chosen by an earlier option does not take."""
    typed = next((word.split("=")[0] for word in args if word.split("=")[0].endswith(f".{leaf}")), None)
    if typed is None:
        near = _closest_option(leaf, options)
        hint = f"did you mean `{near.lstrip('-')}`" if near else "`--help` lists the options"
        return expected("only known keys in the configuration", f"`{leaf}`", hint)
    owner = _last_class(args[: [word.split("=")[0] for word in args].index(typed)])
    known = _arguments_of(owner) if owner else []
    near = difflib.get_close_matches(leaf, known, n=1)
    hint = f"did you mean `{typed.removesuffix(leaf)}{near[0]}`" if near else f"it takes {', '.join(known)}"
    return expected(f"an argument of {owner or 'the class'}", f"`{typed}`", hint)


def _bad_value(key: str, rest: str, args: Sequence[str]) -> InputError:
    found = _found(rest)
    for option, (base, kind) in _CLASS_OPTIONS.items():
        if key.endswith(option) and "dot import path" in rest:
            names = sorted(_subclasses(base))
            near = difflib.get_close_matches(found, names, n=1)
            hint = f"did you mean `{near[0]}`" if near else "give a class name, or module.Class for your own"
            return expected(f"`--{key}` to name a {kind}", f"`{found}`", hint)
    if match := re.search(r"File does not exist: '([^']*)'", rest):
        return expected(f"`--{key}` to name a file", f"`{match[1]}`, which does not exist", "check the path")
    if key == "config":
        return expected("`--config` to hold YAML that can be read", _one_line(rest), "check its syntax")
    choices = re.search(r"Literal\[([^]]*)\]", rest)
    if choices:
        values = re.findall(r"'([^']*)'", choices[1])
        near = difflib.get_close_matches(found, values, n=1)
        hint = f"did you mean `{near[0]}`" if near else "choose one of them"
        return expected(f"`--{key}` to be one of {', '.join(values)}", f"`{found}`", hint)
    kinds = [_KINDS.get(name, name) for name in re.findall(r"Expected a <class '([^']+)'>", rest)]
    if kinds:
        return expected(f"`--{key}` to be {' or '.join(dict.fromkeys(kinds))}", f"`{found}`", "check the value")
    return expected(f"a valid `--{key}`", _one_line(rest), "`--help` shows what it takes")


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
}


def _found(text: str) -> str:
    """The value that a message ends with."""
    match = re.search(r"(?:Given value|Got value): (.*)", text) or re.search(r"path string: (.*)", text)
    return match[1].strip() if match else _one_line(text)


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip(" .:-")


def _subclasses(base: type) -> Iterator[str]:
    for child in base.__subclasses__():
        if not child.__name__.startswith("_"):
            yield child.__name__
        yield from _subclasses(child)


def _find_class(name: str) -> type | None:
    leaf = name.rsplit(".", 1)[-1]
    return next((c for base, _ in _CLASS_OPTIONS.values() for c in _descend(base) if c.__name__ == leaf), None)


def _descend(base: type) -> Iterator[type]:
    for child in base.__subclasses__():
        yield child
        yield from _descend(child)


def _arguments_of(name: str) -> list[str]:
    found = _find_class(name)
    if found is None:
        return []
    skipped = {"self", "params", "optimizer", "args", "kwargs"}
    return [p for p in inspect.signature(found).parameters if p not in skipped]


def _last_class(args: Iterable[str]) -> str | None:
    """The class that the last class option before an argument names."""
    last = None
    words = [part for word in args for part in word.split("=", 1)]
    for name, value in pairwise(words):
        if name.rstrip("+").lstrip("-") in _CLASS_OPTIONS:
            last = value
    return last
