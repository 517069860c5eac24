"""Runs the command line as `python -m cxrbase`."""

import sys

from cxrbase.cli import main

if __name__ == "__main__":
    sys.exit(main())
