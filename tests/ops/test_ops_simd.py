"""Every instruction set of the build: the kernels that depend on it, and how it is chosen."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import ops_samples as samples
import pytest
import torch
from ops_samples import RunPython
from torch import Tensor

import hashdl
from hashdl import ops

pytestmark = pytest.mark.skipif(not hashdl.has_extension(), reason="needs the compiled kernels")

LEVELS = ("baseline", "avx2", "avx512")
BEST = hashdl.build_info().get("simd_max", "baseline")
AVAILABLE = LEVELS[: LEVELS.index(BEST) + 1]

COMPARE = """
import hashdl  # before torch: it must find the libraries that it links to by itself
import torch
import ops_cases
import ops_samples as samples

SIMD = ("pack_signs", "probe_signs", "best_columns", "sketch_scores", "select")
SIMD += ("hadamard_projections", "nearest_columns")
for name in (*SIMD, *(name for name in ops_cases.CPU if name in ops_cases.FLOATING)):
    dtypes = samples.DTYPES if name in ops_cases.FLOATING else (None,)
    for parameters in ops_cases.CPU[name]:
        for dtype in dtypes:
            own = {} if dtype is None else {"dtype": dtype}
            args = samples.sample(name, **parameters, **own)
            samples.assert_kernel_is_reference(name, args)
print(hashdl.build_info()["simd"])
"""

USE_UNKNOWN = """
import torch, hashdl
hashdl.ops.gather_linear(torch.ones(1, 1), torch.ones(1, 1), None, torch.zeros(1, 1).int())
"""


@pytest.fixture(params=AVAILABLE)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn, and the one from before again."""
    extension = sys.modules["hashdl._C"]
    before = extension.simd_level()
    extension.set_simd_level(request.param)
    yield request.param
    extension.set_simd_level(before)


@pytest.mark.parametrize("name", AVAILABLE)
def test_kernels_equal_the_reference_at_every_level(name: str, run_python: RunPython) -> None:
    result = run_python(COMPARE, HASHDL_SIMD=name)
    assert (result.returncode, result.stdout.strip()) == (0, name), result.stderr


def test_unknown_level_is_refused_at_first_use(run_python: RunPython) -> None:
    result = run_python(USE_UNKNOWN, HASHDL_SIMD="sse9")
    assert result.returncode != 0
    wanted = "hashdl: SIMD level 'sse9' is unknown; wanted baseline, avx2 or avx512"
    assert wanted in result.stderr


def test_level_in_force_is_reported(level: str) -> None:
    assert sys.modules["hashdl._C"].simd_level() == level
    assert hashdl.build_info()["simd"] == level
    assert hashdl.build_info()["simd_max"] == BEST


def test_unknown_level_leaves_the_level_in_force(level: str) -> None:
    extension = sys.modules["hashdl._C"]
    with pytest.raises(ValueError, match="SIMD level 'AVX2' is unknown; wanted baseline, avx2"):
        extension.set_simd_level("AVX2")
    assert extension.simd_level() == level


@pytest.mark.skipif(LEVELS[-1] == BEST, reason="every level is available here")
def test_level_above_the_best_is_refused() -> None:
    with pytest.raises(ValueError, match="is not available here; the best is"):
        sys.modules["hashdl._C"].set_simd_level(LEVELS[-1])


# ---- our own exponential -------------------------------------------------------------------------


def exp_of(x: Tensor) -> Tensor:
    """As the gradient of log probabilities computes it; column 0 is the label."""
    z = torch.nn.functional.pad(x, (1, 0))[None]
    rows, label = torch.zeros(z.shape, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
    given = -z.new_ones(1), z, None, rows, None, z.new_zeros(1), label
    return ops.active_log_prob_backward(*given)[0][0, 1:]


@pytest.mark.parametrize(
    ("dtype", "lowest", "highest", "bound"),
    [(torch.float32, -87.33, 88.72, 2e-7), (torch.float64, -700, 700, 1e-15)],
)
@pytest.mark.usefixtures("level")
def test_exponentials_are_exact_to_rounding(
    dtype: torch.dtype, lowest: float, highest: float, bound: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(1 << 18, generator=generator, dtype=dtype)
    for x in (lowest + (highest - lowest) * uniform, uniform - 0.5, (uniform - 0.5) * 1e-4):
        exact = x.double().exp()
        error = (exp_of(x).double() - exact).abs() / exact
        assert error.max() < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("level")
def test_exponentials_at_the_ends(dtype: torch.dtype) -> None:
    numbers = [0, -0.0, -87.4, -103, -104, -746, -1e30, -torch.inf, 710, 1e30, torch.inf, torch.nan]
    x = torch.tensor(numbers, dtype=dtype)
    tiny = torch.finfo(torch.float32).tiny
    torch.testing.assert_close(exp_of(x), x.exp(), rtol=0, atol=tiny, equal_nan=True)
    assert (exp_of(x[x <= -746]) == 0).all()


# ---- 16-bit numbers: our own conversions, against torch's ----------------------------------------

SIXTEEN_BITS = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@SIXTEEN_BITS
@pytest.mark.parametrize("d", [1, 16])  # one by one, and a vector at a time
@pytest.mark.usefixtures("level")
def test_every_16_bit_number_is_read_right(dtype: torch.dtype, d: int) -> None:
    """x is 1, and every other weight of the row 0: the number comes out as it is."""
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    weight = torch.zeros(numbers.numel(), d, dtype=dtype)
    weight[:, d // 2] = numbers
    rows = torch.arange(numbers.numel(), dtype=torch.int32)[None]
    z = ops.gather_linear(torch.ones(1, d, dtype=dtype), weight, None, rows)
    torch.testing.assert_close(z[0], numbers, rtol=0, atol=0, equal_nan=True)


@SIXTEEN_BITS
@pytest.mark.usefixtures("level")
def test_results_are_rounded_to_16_bits_as_torch_rounds(dtype: torch.dtype) -> None:
    """Products of two 16-bit numbers are exact in float32: what is seen is the rounding alone."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (2, 1 << 16), generator=generator).to(torch.int16)
    # Factors near 1 as well, so that products meet the smallest and the largest numbers.
    near_one = samples.randn(1 << 16, dtype=dtype)
    for x, w in [bits.view(dtype), (bits[0].view(dtype), near_one)]:
        rows = torch.arange(1 << 16, dtype=torch.int32)[:, None]
        z = ops.gather_linear(x[:, None], w[:, None], None, rows)
        expected = (x.float() * w.float()).to(dtype)
        torch.testing.assert_close(z[:, 0], expected, rtol=0, atol=0, equal_nan=True)
