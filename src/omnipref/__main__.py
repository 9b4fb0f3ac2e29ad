"""`python -m omnipref`, so that `accelerate launch -m omnipref train ...` works."""

import sys

from omnipref.cli import main

if __name__ == "__main__":
    sys.exit(main())
