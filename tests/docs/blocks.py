"""The code blocks and inline commands of a Markdown document."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "Command", "Outcome", "blocks_of", "commands_in", "inline_commands", "text_of"]

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^`\n]*)\n(?P<body>.*?)^ *(?P=fence) *$", re.M | re.S)
_REASON = re.compile(r"no-run:\s*(\S.*)")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Args:
        document: The file's name below the repository.
        line: The first line of its body, from 1.
        language: The first word after the fence; "" without one.
        reason: Why it is not to run, if its author says so: "```bash no-run: needs a GPU".
        body: What is between the fences.
    """

    document: str
    line: int
    language: str
    reason: str | None
    body: str

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The name in a first line like `# mine.yaml`, under which other blocks find this one's text."""
        match = re.match(r"# ([\w-]+\.(?:ya?ml|py))\b", self.body)
        return match[1] if match else None


@dataclass(frozen=True)
class Command:
    """One command of a shell block.

    Args:
        words: The program and its arguments.
        variables: What is set in front of it.
        output: The file that its output goes to, if it is redirected.
        shown: The lines below it in a console block.
    """

    argv: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    output: str | None = None
    shown: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Outcome:
    """What a person sees of one command or block."""

    status: int
    out: str
    err: str


def blocks_of(path: Path, document: str) -> list[Block]:
    """Find the fenced blocks of a file, in their order."""
    text = path.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        language, _, rest = match["info"].strip().partition(" ")
        reason = _REASON.fullmatch(rest.strip())
        indent = match["indent"]
        body = "".join(line.removeprefix(indent) for line in match["body"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start("body")) + 1
        found.append(Block(document, line, language, reason[1].strip(" \"'") if reason else None, body))
    return found


def commands_in(block: Block) -> list[Command]:
    """Read the commands of a `bash` or `console` block.

    Raises:
        ValueError: If a line uses more of the shell than these documents need: pipes, loops, variables.
    """
    if block.language == "console":
        return _of_console(block.body)
    lines = block.body.replace("\\\n", " ").splitlines()
    return [command for line in lines for command in _of_line(line)]


def _of_console(body: str) -> list[Command]:
    commands: list[Command] = []
    for line in body.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            commands += _of_line(line.removeprefix("$ "))
        elif line.strip() and commands:
            last = commands[-1]
            commands[-1] = Command(last.argv, last.variables, last.output, (*last.shown, line))
    return commands


def _of_line(line: str) -> list[Command]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>()")
    lexer.whitespace_split = True
    commands, argv = [], list[str]()
    for word in lexer:
        if word == "&&":
            commands.append(_of_words(argv))
            argv = []
        else:
            argv.append(word)
    return [*commands, _of_words(argv)] if argv else commands


def _of_words(argv: list[str]) -> Command:
    output = None
    if len(argv) > 2 and argv[-2] == ">":
        argv, output = argv[:-2], argv[-1]
    for word in argv:
        if re.fullmatch(r"[&|;<>()]+", word) or word in ("for", "do", "done", "if") or "$" in word:
            raise ValueError(f"`{word}` in `{' '.join(argv)}`: the tests of the documents run plain commands alone")
    count = 0
    while count < len(argv) and re.match(r"[A-Z_]+=", argv[count]):
        count += 1
    variables = tuple((name, value) for name, _, value in (word.partition("=") for word in argv[:count]))
    return Command(tuple(argv[count:]), variables, output)


def text_of(path: Path) -> str:
    """A document without its blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def inline_commands(path: Path) -> list[tuple[str, ...]]:
    """Find commands of ours in the text between the blocks: `lit-prune ...` in backquotes, as words."""
    spans = re.findall(r"`((?:lit-prune|python scripts/)[^`]*)`", text_of(path))
    return [tuple(" ".join(span.split()).split(" ")) for span in spans]
