from __future__ import annotations

import sys
from pathlib import Path

# The samples of the ops' own tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ops"))
