"""Run lit-prune or another library, and print whether it keeps the promises that docs/comparison.md lists.

    python scripts/compare.py ModelPruning resume

Without the name of a promise, all promises are measured, one after the other.
"""

import argparse
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from comparisons.common import Result, describe
from comparisons.libraries import LIBRARIES


def measure(library: str, promise: str) -> Result:
    """Return whether a library keeps a promise, and what was measured.

    Raises:
        ImportError: If the library is not installed.
    """
    with _quietly():
        try:
            return LIBRARIES[library].promises()[promise]()
        except ImportError:
            raise
        except Exception as error:  # another library may raise anything
            return describe(error)


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the warnings and the log of the libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def main() -> None:
    """Print one line for each promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=LIBRARIES, help="library to run")
    parser.add_argument("promise", nargs="?", help="promise, such as resume (default: all); an unknown name lists all")
    options = parser.parse_args()
    library = LIBRARIES[options.library]
    promises = library.promises()
    if options.promise is None:
        for promise in promises:  # each in a new process, because some promises need two processes
            subprocess.run([sys.executable, __file__, options.library, promise], check=True)
        return
    if options.promise not in promises:
        parser.error(f"the promises measured for {options.library} are {', '.join(promises)}")
    try:
        result = measure(options.library, options.promise)
    except ModuleNotFoundError as error:
        parser.error(f"{error.name} is not installed. Install it with `pip install {library.package}`.")
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"{options.library} ({library.package} {version(library.package)}), {options.promise}: {result}")


if __name__ == "__main__":
    main()
