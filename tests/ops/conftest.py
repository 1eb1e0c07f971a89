from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ops_samples import RunPython

import hashdl

FOLDER = Path(__file__).parent


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Runs a script in a fresh interpreter: run_python(script, package=folder, VARIABLE=value).

    ``package`` is the folder that hashdl is imported from, by default that of this hashdl. Of the
    HASHDL_* variables only the given ones are set.
    """

    def run(
        script: str, *, package: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        root = Path(hashdl.__file__).parent.parent if package is None else package
        inherited = {key: v for key, v in os.environ.items() if not key.startswith("HASHDL_")}
        path = os.pathsep.join([str(root), str(FOLDER)])
        return subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=inherited | {"PYTHONPATH": path} | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
