"""From a parser's message to one sentence: what was expected, what was found, what to do."""

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence

from lightning.pytorch import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_prune.cli.typed import last_typed, typed_value
from lit_prune.errors import InputError, expected, shorten

__all__ = ["explain"]

# the options whose value is the name of a class
_CLASS_OPTIONS = {
    "trainer.callbacks": (Callback, "a callback"),
    "model.optimizer": (Optimizer, "an optimizer"),
    "model.lr_scheduler": (LRScheduler, "a learning rate scheduler"),
}
# the options that somebody else's class may be given to
_MODULE_OPTIONS = {"model": "LightningModule", "data": "LightningDataModule"}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
    "list": "a list",
    "dict": "names and values",
    "collections.abc.Iterable": "a list",
}
_HELP = "`--help` lists the options"
_CALLABLE = r"expects a function or a callable class: Parser key \"([^\"]+)\":"


def explain(message: str, argv: Sequence[str], options: Sequence[str]) -> InputError:
    """Say in one sentence what a parser complains about.

    Args:
        message: The parser's message, of any length.
        argv: The words that were parsed.
        options: The options that would have been known, each with its leading dashes.

    Returns:
        The error to raise.
    """
    return _words(message, argv, options) or _classes(message, argv) or _values(message, argv, options)


def _words(message: str, argv: Sequence[str], options: Sequence[str]) -> InputError | None:
    """What is wrong with the words, whatever their values."""
    if match := re.match(r"unrecognized arguments: (\S*)", message):
        return _unknown_option(match[1].split("=")[0].rstrip("+"), options)
    if match := re.match(r"Subcommand '[^']*' does not accept option '([^']*)'", message):
        return _unknown_option(f"--{match[1]}", options)
    if match := re.match(r"the following arguments are required: ([\w-]+)", message):
        if (option := f"--{match[1]}") in options:
            return expected(f"`{option}`, which has no default", "none", f"add `{option} VALUE`")
        hint = "put it right after the command: an option that takes several values takes all words after it"
        return expected(f"a {match[1]}", "none", hint)
    if match := re.match(r"argument (\S+): expected (?:one|at least one) argument", message):
        # the arguments of a class are those of its option, for the parser
        whole = next((word for word in argv if word.startswith(f"{match[1]}.") and "=" not in word), match[1])
        return expected(f"a value after `{whole}`", "none", "give it as the next word")
    if match := re.match(r"argument (\S+): ignored explicit argument '(.*)'", message, re.DOTALL):
        return expected(f"`{match[1]}` without a value", f"`{shorten(match[2])}`", "leave the value out")
    if match := re.match(r"Invalid option \"(.*)\" for (\S+)", message, re.DOTALL):
        hint = f"`{match[2]}` alone prints all"
        return expected(f"`{match[2]}` to be comments, skip_default or skip_null", f"`{shorten(match[1])}`", hint)
    if match := re.match(r"Group '([^']+)' does not accept option '([^']+)'", message):  # under `--print_config`
        return _unknown_option(f"--{match[1]}.{match[2]}", options)
    if match := re.match(r"Option '([^']+)' is not accepted", message):
        return _unknown_option(f"--{match[1]}", options)
    return None


def _classes(message: str, argv: Sequence[str]) -> InputError | None:
    """What is wrong with the arguments of a class that an option chose."""
    if match := re.search(r"class_path '([^']+)':\s*the following arguments are required: ([\w, ]+)", message):
        return _missing_argument(match[1], match[2])
    if match := re.search(r"are required: ([\w, ]+).*class_path='([^']+)'", message, re.DOTALL):
        return _missing_argument(match[2], match[1])
    if match := re.search(r"class_path '([^']+)':\s*Parser key \"([^\"]+)\":(.*?)(?:\n    - |\Z)", message, re.DOTALL):
        return _bad_value(f"{_option_of(match[1])}.{match[2]}", match[3], argv)
    if match := re.search(rf"Parser key \"([^\"]+)\":.*{_CALLABLE}(.*)\. Got value: Namespace", message, re.DOTALL):
        return _bad_value(f"{match[1]}.{match[2]}", match[3], argv)
    if match := re.search(r"class_path '([^']+)':\s*Option '([^']+)' is not accepted", message):
        return _unknown_argument(match[1], match[2], argv)
    if match := re.search(r"Option '([^']+)' is not accepted.*class_path='([^']+)'", message, re.DOTALL):
        return _unknown_argument(match[2], match[1], argv)
    return None


def _values(message: str, argv: Sequence[str], options: Sequence[str]) -> InputError:
    """What is wrong with a value or a file."""
    if match := re.match(r"Unexpected config: (.*)", message, re.DOTALL):
        found = _one_line(match[1]) or "an empty file"
        return expected("`--config` to hold options by name (`data: {...}`)", found, "check the file")
    if match := re.match(r"Key must be a string, got: (.*)", message, re.DOTALL):
        return expected("options by name (`data: {...}`)", f"the name {_one_line(match[1])}", "check `--config`")
    if match := re.match(r"(?:Problems parsing config|Parser key \"config\"): (.*)", message, re.DOTALL):
        hint = "check the path" if "does not exist" in match[1] else "check its syntax"
        return expected("`--config` to hold YAML that can be read", _one_line(match[1]), hint)
    element = r"Parser key \"([^\"]+)\" element \d+:\s*Expected a <class '(\w+)'>\. Got value: (.*)"
    if match := re.match(element, message, re.DOTALL):
        what = f"every value of `--{match[1]}` to be {_KINDS.get(match[2], match[2])}"
        return expected(what, f"`{shorten(match[3].strip())}`", "separate them by spaces")
    if match := re.match(r'Parser key "([^"]+)":', message):
        return _bad_value(match[1], message[match.end() :], argv)
    return expected("arguments that can be parsed", _one_line(message), _HELP)


def _unknown_option(name: str, options: Sequence[str]) -> InputError:
    if not name.startswith("-"):
        return expected("an option, which starts with `--`", f"`{shorten(name)}`" if name else "an empty word", _HELP)
    near = _closest_option(name, options)
    return expected("a known option", f"`{shorten(name)}`", f"did you mean `{near}`" if near else _HELP)


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
    chosen = (key for key, (base, _) in _CLASS_OPTIONS.items() if _leaf(owner) in _subclasses(base))
    modules = (key for key, base in _MODULE_OPTIONS.items() if _leaf(owner).endswith(base.removeprefix("Lightning")))
    return next(chosen, None) or next(modules, _leaf(owner))


def _unknown_argument(owner: str, name: str, argv: Sequence[str]) -> InputError:
    """A class that an option chose does not take an argument."""
    typed = next((word.split("=")[0] for word in argv if _leaf(word.split("=")[0]) == name), name)
    if _leaf(owner) == "Callback" and last_typed("trainer.callbacks", argv) in _subclasses(Callback):
        value = last_typed(typed.lstrip("-"), argv) or ""  # what a class made of it was worse than a mistake
        return expected(f"`{typed}` to have a value that can be used", f"`{shorten(value)}`", "check the value")
    if _leaf(owner) == "Callback":  # no callback was named, or by something that is no class
        hint = "name it first, for example `--trainer.callbacks+=GlobalL1Pruning`"
        return expected("a callback before its arguments", f"`{shorten(typed)}`", hint)
    for group, base in _MODULE_OPTIONS.items():
        if _leaf(owner) == base:
            found = last_typed(group, argv)
            return _bad_module(group, f"`{shorten(typed if found is None else found)}`")
    known = _arguments_of(_leaf(owner))
    near = difflib.get_close_matches(name, known, n=1)
    takes = f"it takes {', '.join(known)}" if known else _HELP
    hint = f"did you mean `{typed.removesuffix(name)}{near[0]}`" if near else takes
    return expected(f"an argument of {_leaf(owner)}", f"`{shorten(typed)}`", hint)


def _bad_module(group: str, found: str) -> InputError:
    hint = "give module.Class, of an installed package or of this folder"
    return expected(f"`--{group}` to name a class of {_MODULE_OPTIONS[group]}", found, hint)


def _bad_value(key: str, rest: str, argv: Sequence[str]) -> InputError:
    match = re.search(r"(?:Given value|Got value|path string): (.*)", rest)
    # what the parser made of it, "1000.0", is not always what was typed, "1e3"
    found = typed_value(key, match[1].strip(), argv) if match else _one_line(rest)
    if match := re.search(r"value has (\d+) digits", rest):
        return expected(f"`--{key}` to have a value of a few digits", f"one of {match[1]}", "check the value")
    if match := re.search(r"File does not exist: '([^']*)'", rest):
        return expected(f"`--{key}` to name a file", f"`{shorten(match[1])}`, which does not exist", "check the path")
    if key in _CLASS_OPTIONS and (error := _bad_class(key, rest, found)) is not None:
        return error
    if match := re.search(r"Expected a tuple with (\d+) elements", rest):
        return expected(f"`--{key}` to be a list of {match[1]} values", f"`{shorten(found)}`", "write [a, b]")
    kinds = dict.fromkeys(_KINDS.get(name, name) for name in re.findall(r"Expected (?:a )?<class '([^']+)'>", rest))
    groups = re.findall(r"Literal\[([^]]*)\]", rest)
    if choices := list(dict.fromkeys(value for group in groups for value in re.findall(r"'(.*?)'", group))):
        near = difflib.get_close_matches(found, choices, n=1)
        hint = f"did you mean `{near[0]}`" if near else "choose one of them"
        other = "".join(f", or {kind}" for kind in kinds if kind != "null")
        return expected(f"`--{key}` to be one of {', '.join(choices)}{other}", f"`{shorten(found)}`", hint)
    if key in _MODULE_OPTIONS:
        why = re.search(r"Problem with given class_path '([^']+)':\s*(.*)", rest)
        return _bad_module(key, f"`{shorten(why[1])}` ({shorten(why[2].strip())})" if why else f"`{shorten(found)}`")
    if match := re.search(r"Unable to load config '(.*?)'", rest):
        found = match[1]
        hint = f"give them one by one, as `--{key}.NAME VALUE`"
        return expected(f"`--{key}` to name a YAML file with its options", f"`{shorten(found)}`", hint)
    if kinds:
        return expected(f"`--{key}` to be {' or '.join(kinds)}", f"`{shorten(found)}`", "check the value")
    return expected(f"`--{key}` to have a value that it takes", _one_line(rest), _HELP)


def _bad_class(key: str, rest: str, found: str) -> InputError | None:
    base, kind = _CLASS_OPTIONS[key]
    if match := re.search(r"Multiple subclasses with name (\w+).*ambiguity: (.*)\.", rest):
        return expected(f"`--{key}` to name one class", f"`{match[1]}`, the name of several", f"give one of {match[2]}")
    plain = set(re.findall(r"Expected a <class '([^']+)'>", rest)) <= {"list", "NoneType"}
    if not plain and not re.search(r"import path|subclass", rest):
        return None
    if match := re.search(r"Expected '([^']+)' to be a subclass", rest):
        found = match[1]
    near = difflib.get_close_matches(found, sorted(_subclasses(base)), n=1)
    hint = f"did you mean `{near[0]}`" if near else "give a class name, or module.Class for your own"
    return expected(f"`--{key}` to name {kind}", f"`{shorten(found)}`", hint)


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _one_line(text: str) -> str:
    return shorten(re.sub(r"\s+", " ", text).strip(" .:-"), 300)


def _subclasses(base: type) -> dict[str, type]:
    return {child.__name__: child for child in _descend(base) if not inspect.isabstract(child)}


def _descend(base: type) -> Iterator[type]:
    child: type
    for child in base.__subclasses__():
        yield child
        yield from _descend(child)


def _arguments_of(name: str) -> list[str]:
    found = next((classes[name] for base, _ in _CLASS_OPTIONS.values() if name in (classes := _subclasses(base))), None)
    skipped = {"params", "optimizer", "args", "kwargs"}
    return [] if found is None else [p for p in inspect.signature(found).parameters if p not in skipped]
