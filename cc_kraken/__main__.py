"""``python3 -m cc_kraken``: the command line.

The module starts this file by its path (see launch.py).  Then the package
beside it runs, whatever else Python would find under that name.
"""

import os
import sys

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import cc_kraken  # noqa: F401

    del sys.path[0]  # other packages are looked for where they always are

if sys.argv[1:] == ["from-cloud-init"]:
    from cc_kraken.boot import program

    program.main()

from cc_kraken.cli import main

sys.exit(main())
