"""`python -m pqlite` is the command `pqlite`."""

import sys

from pqlite.cli import main

sys.exit(main())
