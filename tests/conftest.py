from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def threads() -> Iterator[None]:
    """For tests that set the number of threads: set back after."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
