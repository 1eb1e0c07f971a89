"""The study of widths at a tiny size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import plot, width
from benchmarks.power_law import fit
from benchmarks.tables import describe

pytest.importorskip("sklearn")

TINY = ["--quick", "--data", "digits", "--active", "5", "--epochs", "1", "--dense-up-to", "150"]
TINY += ["--repeat", "2"]


@pytest.fixture(autouse=True)
def same_generator_afterwards() -> Iterator[None]:
    """The script seeds torch's generator; other tests should not see that."""
    with torch.random.fork_rng(devices=[]):
        yield


def test_widths_and_their_exponents(tmp_path: Path) -> None:
    path = tmp_path / "width.json"
    assert width.main([*TINY, "--neurons", "200", "--json", str(path)]) == 0
    first = json.loads(path.read_text())["contenders"]
    assert list(first) == ["hashed"]  # the dense net would be too wide
    flags = [*TINY, "--fit-from", "100", "--neurons", "100", "200", "--json", str(path)]
    assert width.main(flags) == 0
    report = json.loads(path.read_text())
    hashed = report["contenders"]["hashed"]
    assert hashed["by_rows"]["200"] == first["hashed"]["by_rows"]["200"]
    assert list(report["contenders"]["standard"]["by_rows"]) == ["100"]
    dense = 2 * 64 * 100 + 3 * 100 * 10
    assert report["contenders"]["standard"]["by_rows"]["100"]["multiplications"] == dense
    for figures in hashed["by_rows"].values():
        assert figures["multiplications"] > 0
        assert 0 <= figures["top1"] <= 1
        assert len(figures["rounds_ms"]) == 2
        assert figures["step_ms"] > 0
        assert figures["joules_step_estimated"] > 0
    assert "neurons" in describe(report)
    assert plot.main([str(path), str(tmp_path / "plot.png")]) == 0


def test_times_are_measured_again_and_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "width.json"
    for n in ("100", "120"):
        assert width.main([*TINY, "--neurons", n, "--json", str(path)]) == 0
    first = json.loads(path.read_text())
    monkeypatch.setattr(width, "fit", None)
    # Other threads change times alone.
    first["machine"]["threads"] += 1
    path.write_text(json.dumps(first))
    assert width.main(["--json", str(path), "--retime", "--repeat", "3"]) == 0
    again = json.loads(path.read_text())
    assert again["settings"] == first["settings"] | {"repeat": 3, "retime": True}
    assert again["machine"]["threads"] == first["machine"]["threads"] - 1
    for name, result in again["contenders"].items():
        assert list(result["by_rows"]) == ["100", "120"]
        for n, figures in result["by_rows"].items():
            assert figures["top1"] == first["contenders"][name]["by_rows"][n]["top1"]
            assert len(figures["rounds_ms"]) == 3


def test_laws_are_fitted_to_the_widths_asked_for() -> None:
    by_rows = {str(n): {"step_ms": 1.0, "multiplications": 3 * n**0.5} for n in (100, 1000, 10_000)}
    by_rows["10"] = {"step_ms": 99.0, "multiplications": 99.0}
    report = {"contenders": {"hashed": {"by_rows": by_rows}, "standard": {"by_rows": {}}}}
    width.summarize(report, 100)
    laws = report["contenders"]["hashed"]["laws"]
    assert laws["multiplications"]["exponent"] == pytest.approx(0.5)
    assert laws["multiplications"]["factor"] == pytest.approx(3)
    assert laws["step_ms"]["exponent"] == pytest.approx(0)
    assert laws["step_ms"]["points"] == 3
    assert report["contenders"]["standard"]["laws"] == {}


def test_intervals_of_a_law_hold_what_they_promise() -> None:
    generator = np.random.default_rng(0)
    sizes, runs = 10.0 ** np.arange(3, 6, 0.5), 400
    held = np.zeros(2)
    for _ in range(runs):
        noise = np.exp(0.2 * generator.standard_normal(len(sizes) + 1))
        law = fit(dict(zip(sizes, 2 * sizes**0.4 * noise[:-1], strict=True)))
        assert law is not None
        _, low, high = law.predict(1e9)
        measured = 2 * 1e9**0.4 * noise[-1]
        held += [abs(law.exponent - 0.4) <= law.error, low <= measured <= high]
    # Binomial with p = .95: three standard deviations are .033.
    assert (np.abs(held / runs - 0.95) < 0.033).all()


def test_two_widths_have_no_law() -> None:
    assert fit({10: 1.0, 100: 2.0}) is None
