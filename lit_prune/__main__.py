"""`python -m lit_prune`, the same as `lit-prune`."""

import sys

from lit_prune.main import main

if __name__ == "__main__":
    sys.exit(main())
