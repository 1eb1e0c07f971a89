"""torch.hub entry points, in a process of its own as a user would call them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
import warnings
warnings.simplefilter("always")
import torch
with warnings.catch_warnings(record=True) as caught:
    layer = torch.hub.load({root!r}, "hash_linear", 8, 500, source="local", active=20)
    head = torch.hub.load(
        {root!r}, "hash_softmax", 8, 500, False, source="local", active=20, reduction="sum"
    )
    model = torch.nn.Sequential(torch.nn.Linear(8, 500))
    model = torch.hub.load({root!r}, "convert", model, source="local", active=20)
assert layer(torch.randn(2, 8)).shape == (2, 500)
assert (head.bias, head.reduction) == (None, "sum")
assert (head.config.active, head.config.shared) == (20, 1000)
head(torch.randn(2, 8), torch.tensor([1, 2])).loss.backward()
assert type(model[0]).__name__ == "HashLinear"
print(sum("reference" in str(w.message) for w in caught))
"""


@pytest.mark.parametrize("disabled", ["0", "1"])
def test_hub_works_with_and_without_the_extension(tmp_path: Path, disabled: str) -> None:
    environment = os.environ | {"HASHDL_DISABLE_EXTENSION": disabled}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(root=str(ROOT))],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    if disabled == "1":
        assert result.stdout.strip() == "1"  # one warning, not one an op
