"""The device that layers and tensors of a test are made on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import hashdl

HAS_GPU = torch.cuda.is_available() and hashdl.ops.has_cuda_kernel("gather_linear")
NEEDS_GPU = pytest.mark.skipif(not HAS_GPU, reason="no GPU, or built without CUDA kernels")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """On "cuda" torch's default device, which is that of layers, and of tensors, of the test."""
    if request.param == "cpu":
        yield request.param
        return
    with torch.device(request.param):
        yield request.param
