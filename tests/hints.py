"""Find the commands and options that a text tells the user to give, and check that they exist."""

import re
from collections.abc import Iterator

from lit_prune.main import COMMANDS
from tests.docs import ROOT
from tests.docs.session import options_of

__all__ = ["wrong_hints"]

# arguments of classes that the user chooses, and options with a placeholder
_FREE = re.compile(
    r"--((trainer|model|data)\.(NAME|\w+\.\w+)|trainer\.\w+\.init_args\.\w+|(model|data)\.class_path|help=all|help|init_from)"
)


def wrong_hints(text: str, command: str | None = None) -> list[str]:
    """Return the commands and options between backquotes that do not exist.

    Args:
        text: A message; placeholders such as `{name}` may stand for parts of it.
        command: Command that printed the message; None accepts the options of any command.
    """
    commands = {"study": ["study", "fit"]}.get(command or "", [command] if command else [*COMMANDS])
    known = frozenset[str]().union(*map(options_of, commands))
    return [span for span in re.findall(r"`([^`]+)`", text) if any(_wrong_parts(span, known))]


def _wrong_parts(span: str, known: frozenset[str]) -> Iterator[str]:
    words = span.split()
    if words[:1] == ["lit-prune"]:
        name = words[1] if len(words) > 1 else "fit"
        if name not in COMMANDS:
            if name not in ("COMMAND", "--help", "--version") and not name.startswith(("--config", "{")):
                yield name
            return
        known = options_of(name)
    elif words[:2] == ["pip", "install"]:
        extras = re.search(r"lit-prune\[(\w+)\]", span)
        if extras and f"\n{extras[1]} = [" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8"):
            yield span
        return
    elif not span.startswith("--"):
        return
    for word in words:
        option = re.match(r"--[\w.-]*\w", word)
        if option and "{" not in word and option[0] not in known and not _FREE.fullmatch(re.split(r"[+ ]", word)[0]):
            yield word
