"""A source distribution holds what it is built from."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_it_has_every_source(tmp_path: Path) -> None:
    folders = ("egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path / "dist")
    subprocess.run([sys.executable, "setup.py", "-q", *folders], cwd=ROOT, check=True)
    (archive,) = (tmp_path / "dist").iterdir()
    with tarfile.open(archive) as content:
        held = {name.partition("/")[2] for name in content.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.*")}
    wanted = {"hashdl/py.typed", "hubconf.py", "LICENSE", "README.md", *sources}
    assert wanted <= held, sorted(wanted - held)
