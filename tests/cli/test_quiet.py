"""Which warnings a user sees, and how."""

import warnings

import lit_prune.data.images
from lit_prune.cli.quiet import quiet


def test_own_warnings_are_shown_as_one_line_without_code():
    before = warnings.formatwarning
    with quiet():
        own = warnings.formatwarning("Skipped a.", UserWarning, lit_prune.data.images.__file__, 3, "code")
        other = warnings.formatwarning("Skipped a.", UserWarning, __file__, 3, "code")
    assert own == "lit-prune: warning: Skipped a.\n"
    assert other == f"{__file__}:3: UserWarning: Skipped a.\n  code\n"
    assert warnings.formatwarning is before
