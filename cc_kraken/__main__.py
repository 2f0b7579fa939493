"""``python3 -m cc_kraken``: the command line.

The module starts this file by its path.  Then the package beside it is the one
that runs, whatever else Python would find under its name.
"""

import os
import sys

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import cc_kraken  # noqa: F401

    del sys.path[0]  # of the rest nothing is looked for there first

if sys.argv[1:] == ["from-cloud-init"]:
    from cc_kraken.launch import main as run

    run()

from cc_kraken.cli import main

sys.exit(main())
