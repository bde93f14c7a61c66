"""`python -m deepseek_det` is the command `deepseek-det`."""

import sys

from deepseek_det.cli import main

if __name__ == "__main__":
    sys.exit(main())
