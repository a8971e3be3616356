"""`python -m hfkit VERB ...` runs `hfkit VERB ...`."""

import sys

from hfkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
