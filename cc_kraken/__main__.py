"""``python3 -m cc_kraken``: the command line."""

import sys

from cc_kraken.cli import main

sys.exit(main())
