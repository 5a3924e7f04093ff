"""`python -m tuili` is the command line."""

import sys

from tuili.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
