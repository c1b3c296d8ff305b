"""`python -m bam` is the command `bam`."""

import sys

from bam.cli import main

sys.exit(main())
