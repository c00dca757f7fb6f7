"""Translate an error message of jsonargparse into one sentence: "Expected ..., but got .... HINT: ...".

torch and Lightning are imported only for a message about one of their classes.
"""

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import permutations

import yaml

from lit_prune.errors import InputError, closest_hint, expected, shorten

# options whose value is a class: the module and name of its base class, and the noun for messages
_CLASS_OPTIONS = {
    "trainer.callbacks": ("lightning.pytorch", "Callback", "a callback"),
    "trainer.logger": ("lightning.pytorch.loggers", "Logger", "a logger"),
    "model.optimizer": ("torch.optim", "Optimizer", "an optimizer"),
    "model.lr_scheduler": ("torch.optim.lr_scheduler", "LRScheduler", "a learning rate scheduler"),
}
# options that accept a custom class, and the base class that it must have
_MODULE_OPTIONS = {"model": "LightningModule", "data": "LightningDataModule"}
_KINDS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
    "list": "a list",
    "dict": "a mapping from names to values",
    "collections.abc.Iterable": "a list",
}
_HELP = "`--help=all` lists all options"
_CALLABLE = r"expects a function or a callable class: Parser key \"([^\"]+)\":"


def explain(message: str, argv: Sequence[str], options: Sequence[str]) -> InputError:
    """Build an error that explains, in one sentence, what the parser's message about `argv` means.

    `options` are all options that the parser accepts, with their leading dashes.
    """
    return (
        _explain_option(message, argv, options)
        or _explain_class(message, argv)
        or _explain_config(message)
        or _explain_value(message, argv)
    )


def _explain_option(message: str, argv: Sequence[str], options: Sequence[str]) -> InputError | None:
    """Explain an unknown option, or one whose value is missing."""
    if match := re.match(r"unrecognized arguments: (\S*)", message):
        return _unknown_option(match[1].split("=")[0].rstrip("+"), options)
    if match := re.match(r"Subcommand .* does not accept option '([^']*)'|Option '([^']+)' is not accepted", message):
        return _unknown_option(f"--{match[1] or match[2]}", options)
    if match := re.match(r"Group '([^']+)' does not accept option '([^']+)'", message):  # under `--print_config`
        return _unknown_option(f"--{match[1]}.{match[2]}", options)
    if match := re.match(r"the following arguments are required: ([\w-]+)", message):
        if (option := f"--{match[1]}") in options:
            return expected(f"`{option}`, which has no default", "none", f"add `{option} VALUE`")
        return expected(f"a {match[1]}", "none", "give its path right after the command, before the options")
    if match := re.match(r"argument (\S+): expected (?:one|at least one) argument", message):
        # for `--model.optimizer.lr` without a value, the parser's message names `--model.optimizer`
        option = next((word for word in argv if word.startswith(f"{match[1]}.") and "=" not in word), match[1])
        return expected(f"a value after `{option}`", "none", f"write `{option} VALUE`")
    if match := re.match(r"argument (\S+): ignored explicit argument '(.*)'", message, re.DOTALL):
        hint = _HELP if match[1].endswith("--help") else "leave the value out"
        return expected(f"`{match[1]}` without a value", f"`{shorten(match[2])}`", hint)
    if match := re.match(r"Invalid option \"(.*)\" for (\S+)", message, re.DOTALL):
        what = f"`{match[2]}` alone, or with skip_default or skip_unset"
        return expected(what, f"`{shorten(match[1])}`", f"`{match[2]}` alone prints everything")
    return None


def _explain_class(message: str, argv: Sequence[str]) -> InputError | None:
    """Explain a missing, unknown or invalid argument of a class that an option names."""
    if match := re.search(r"class_path '([^']+)':\s*the following arguments are required: ([\w, ]+)", message):
        return _missing_argument(match[1], match[2], argv)
    if match := re.search(r"are required: ([\w, ]+).*class_path='([^']+)'", message, re.DOTALL):
        return _missing_argument(match[2], match[1], argv)
    if match := re.search(r"class_path '([^']+)':\s*Parser key \"([^\"]+)\":(.*?)(?:\n    - |\Z)", message, re.DOTALL):
        return _bad_value(f"{_option_of(match[1], argv)}.{match[2]}", match[3], argv)
    if match := re.search(rf"Parser key \"([^\"]+)\":.*{_CALLABLE}(.*)\. Got value: Namespace", message, re.DOTALL):
        return _bad_value(f"{match[1]}.{match[2]}", match[3], argv)
    if match := re.search(r"class_path '([^']+)':\s*Option '([^']+)' is not accepted", message):
        return _unknown_argument(match[1], match[2], argv)
    if match := re.search(r"Option '([^']+)' is not accepted.*class_path='([^']+)'", message, re.DOTALL):
        return _unknown_argument(match[2], match[1], argv)
    return None


def _explain_config(message: str) -> InputError | None:
    """Explain an error in the file of `--config`."""
    if match := re.match(r"Unexpected config: (.*)", message, re.DOTALL):
        found = _one_line(match[1]) or "an empty file"
        return expected("`--config` to hold options by name (`data: {...}`)", found, "check the file")
    if match := re.match(r"Key must be a string, got: (.*)", message, re.DOTALL):
        return expected("options by name (`data: {...}`)", f"{_one_line(match[1])} as a name", "check `--config`")
    if match := re.match(r"(?:Problems parsing config|Parser key \"config\"): (.*)", message, re.DOTALL):
        hint = "check the path" if "does not exist" in match[1] else "check its syntax"
        return expected("`--config` to be a readable YAML file", _one_line(match[1]), hint)
    return None


def _explain_value(message: str, argv: Sequence[str]) -> InputError:
    element = r"Parser key \"([^\"]+)\" element \d+:\s*Expected a <class '(\w+)'>\. Got value: (.*)"
    if match := re.match(element, message, re.DOTALL):
        what = f"every value of `--{match[1]}` to be {_KINDS.get(match[2], match[2])}"
        hint = f"separate values by spaces, and write other arguments before `--{match[1]}`"
        return expected(what, f"`{shorten(match[3].strip())}`", hint)
    if match := re.match(r'Parser key "([^"]+)":', message):
        return _bad_value(match[1], message[match.end() :], argv)
    return expected("arguments that can be parsed", _one_line(message), _HELP)


def _unknown_option(name: str, options: Sequence[str]) -> InputError:
    if not name.startswith("-"):
        found = f"`{shorten(name)}`" if name else "an empty argument"
        return expected("an option, which starts with `--`", found, _HELP)
    near = _closest_option(name, options)
    return expected("a known option", f"`{shorten(name)}`", f"did you mean `{near}`" if near else _HELP)


def _closest_option(name: str, options: Sequence[str]) -> str | None:
    """Find the most similar option: one with the same last part, as `--model.optimizer.lr` for `--model.lr`, or any."""
    same = [option for option in options if _leaf(option.lstrip("-")) == _leaf(name.lstrip("-"))]
    if near := difflib.get_close_matches(name, same, n=1, cutoff=0.0):
        return near[0]
    if near := difflib.get_close_matches(name, options, n=1, cutoff=0.75):
        return near[0]
    leaves = {_leaf(option.lstrip("-")): option for option in reversed(options)}
    near = difflib.get_close_matches(_leaf(name.lstrip("-")), leaves, n=1, cutoff=0.75)
    return leaves[near[0]] if near else None


def _missing_argument(owner: str, names: str, argv: Sequence[str]) -> InputError:
    first = names.split(",")[0]
    hint = f"add `--{_option_of(owner, argv)}.{first} VALUE`"
    return expected(f"a value for the argument `{first}` of {_leaf(owner)}", "none", hint)


def _option_of(owner: str, argv: Sequence[str]) -> str:
    """Find the option that accepts the class `owner`: "model.optimizer" for "torch.optim.SGD"."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        option = name.lstrip("-").rstrip("+")
        if _leaf(value if equals else following) == _leaf(owner) and ("." in option or option in _MODULE_OPTIONS):
            return option.removesuffix(".class_path")
    chosen = (key for key in _CLASS_OPTIONS if _leaf(owner) in _subclasses(key))
    modules = (key for key, base in _MODULE_OPTIONS.items() if _leaf(owner).endswith(base.removeprefix("Lightning")))
    return next(chosen, None) or next(modules, _leaf(owner))


def _unknown_argument(owner: str, name: str, argv: Sequence[str]) -> InputError:
    """Explain that the class `owner`, which an option names, has no argument `name`."""
    owner = _leaf(owner)
    option = next((word.split("=")[0] for word in argv if _leaf(word.split("=")[0]) == name), name)
    if owner == "Callback":
        if next(_given_values("trainer.callbacks", argv), None) in _subclasses("trainer.callbacks"):
            # the class exists, so its `__init__` rejected this value
            value = next(_given_values(option.lstrip("-"), argv), "")
            return expected(f"a valid value for `{option}`", f"`{shorten(value)}`", "check the value")
        hint = "name the callback first, for example `--trainer.callbacks+=GlobalL1Pruning`"
        return expected("a callback before its arguments", f"`{shorten(option)}`", hint)
    for group, base in _MODULE_OPTIONS.items():
        if owner == base:
            return _bad_module(group, f"`{shorten(next(_given_values(group, argv), option))}`")
    found = next((classes[owner] for classes in map(_subclasses, _CLASS_OPTIONS) if owner in classes), None)
    inner = {"params", "optimizer", "args", "kwargs"}
    known = [] if found is None else [name for name in inspect.signature(found).parameters if name not in inner]
    accepts = f"{owner} accepts {', '.join(known)}" if known else _HELP
    hint = closest_hint(name, known, accepts, option.removesuffix(name))
    return expected(f"an argument of {owner}", f"`{shorten(option)}`", hint)


def _bad_module(group: str, found: str) -> InputError:
    hint = "give module.Class, from an installed package or the current folder"
    return expected(f"`--{group}` to name a subclass of {_MODULE_OPTIONS[group]}", found, hint)


def _bad_value(key: str, details: str, argv: Sequence[str]) -> InputError:
    """Explain that the value of an option is invalid; `key` is the option without its dashes."""
    match = re.search(r"(?:Given value|Got value|path string): (.*)", details)
    found = match[1].strip() if match else _one_line(details)
    if match:  # show the value as in `argv`, such as "1e3"; the parser shows "1000.0"
        found = next((value for value in _given_values(key, argv) if _means(value, found)), found)
    if match := re.search(r"value has (\d+) digits", details):
        return expected(f"`--{key}` to be a shorter number", f"a number of {match[1]} digits", "check the value")
    if (match := re.search(r"NestedArg\(key='([^']+)'", details)) and re.search(r"is abstract|import path", details):
        hint = f"name the class first, with `--{key} CLASS`"
        return expected("a class before its arguments", f"`--{key}.{match[1]}`", hint)
    if key in _CLASS_OPTIONS and (error := _bad_class(key, details, found)) is not None:
        return error
    if match := re.search(r"Expected a tuple with (\d+) elements", details):
        return expected(f"`--{key}` to be a list of {match[1]} values", f"`{shorten(found)}`", "write [a, b]")
    kinds = dict.fromkeys(_KINDS.get(name, name) for name in re.findall(r"Expected (?:a )?<class '([^']+)'>", details))
    groups = re.findall(r"Literal\[([^]]*)\]", details)
    if choices := list(dict.fromkeys(value for group in groups for value in re.findall(r"'(.*?)'", group))):
        hint = closest_hint(found, choices, "choose one of these")
        other = "".join(f", or {kind}" for kind in kinds if kind != "null")
        return expected(f"`--{key}` to be one of {', '.join(choices)}{other}", f"`{shorten(found)}`", hint)
    if key in _MODULE_OPTIONS:
        why = re.search(r"Problem with given class_path '([^']+)':\s*(.*)", details)
        return _bad_module(key, f"`{shorten(why[1])}` ({shorten(why[2].strip())})" if why else f"`{shorten(found)}`")
    if match := re.search(r"Unable to load config '(.*?)'", details):
        hint = f"give options one by one, as `--{key}.NAME VALUE`"
        what = f"`--{key}` to be the path of a YAML file with the options of `{key}`"
        return expected(what, f"`{shorten(match[1])}`", hint)
    if kinds:
        return expected(f"`--{key}` to be {' or '.join(kinds)}", f"`{shorten(found)}`", "check the value")
    return expected(f"a valid value for `--{key}`", _one_line(details), _HELP)


def _bad_class(key: str, details: str, found: str) -> InputError | None:
    kind = _CLASS_OPTIONS[key][2]
    if match := re.search(r"Multiple subclasses with name (\w+).*ambiguity: (.*)\.", details):
        return expected(f"`--{key}` to name one class", f"`{match[1]}` in several modules", f"give one of {match[2]}")
    plain = set(re.findall(r"Expected a <class '([^']+)'>", details)) <= {"list", "NoneType"}
    if not plain and not re.search(r"import path|subclass", details):
        return None
    if match := re.search(r"Expected '([^']+)' to be a subclass", details):
        found = match[1]
    known = sorted(name for name in _subclasses(key) if not name.startswith("_"))
    hint = closest_hint(found, known, "give a class name, or module.Class for your own class")
    for package, other in permutations(("lightning.pytorch.", "pytorch_lightning.")):
        if found.startswith(package) and _leaf(found) in _subclasses(key):
            hint = f"did you mean `{other}{found.removeprefix(package)}`, of the same package as the model"
    return expected(f"`--{key}` to name {kind}", f"`{shorten(found)}`", hint)


def _given_values(key: str, argv: Sequence[str]) -> Iterator[str]:
    """Yield the values of an option on the command line, the last one first."""
    for word, following in reversed([*zip(argv, [*argv[1:], ""], strict=True)]):
        name, equals, value = word.partition("=")
        if name.startswith("--") and name[2:].rstrip("+").replace(".init_args.", ".") == key:
            yield value if equals else following


def _means(value: str, parsed: str) -> bool:
    if value.startswith(parsed) or value.lower() == parsed.lower():
        return True
    try:
        return str(yaml.safe_load(value)) == parsed or float(value) == float(parsed)
    except (ValueError, RecursionError, yaml.YAMLError):
        return False


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _one_line(text: str) -> str:
    return shorten(re.sub(r"\s+", " ", text).strip(" .:-"), 300)


def _subclasses(key: str) -> dict[str, type]:
    """Map the names of the classes that an option accepts to the classes."""
    module, name, _ = _CLASS_OPTIONS[key]
    return {child.__name__: child for child in _descend(getattr(import_module(module), name))}


def _descend(base: type) -> Iterator[type]:
    child: type
    for child in base.__subclasses__():
        if not inspect.isabstract(child):
            yield child
        yield from _descend(child)
