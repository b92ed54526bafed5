# PYTHON_ARGCOMPLETE_OK
"""`python -m torchkutils`."""

import sys

from torchkutils.cli import main

if __name__ == "__main__":
    sys.exit(main())
