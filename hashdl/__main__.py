"""``python -m hashdl``."""

import sys

from hashdl.cli import main

sys.exit(main())
