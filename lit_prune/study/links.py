"""Links in a study's folder, which may come from somebody else."""

import os
from pathlib import Path

from lit_prune.errors import expected

__all__ = ["check_links"]


def check_links(out: Path) -> None:
    """Refuse a study's folder in which a link leads out of it: runs write there, and take away what is half-written.

    Args:
        out: The study's folder, which may be a link itself; it need not be there.

    Raises:
        InputError: If there is such a link, at any depth.
    """
    whole = out.resolve()
    for folder, folders, files in os.walk(whole):
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(whole):
                raise expected(
                    f"no link in `{out}` that leads out of this study",
                    f"`{path.relative_to(whole)}`, which leads to `{os.path.realpath(path)}`",
                    "take the link away; to keep a study elsewhere, give `--out`",
                )
