"""tune_classifier: what it refuses."""

from __future__ import annotations

import pytest
import torch

from hashdl import HashConfig
from hashdl.data import SparseDataset
from hashdl.training.trainer import Settings
from hashdl.training.tuning import tune_classifier


def samples(count: int) -> SparseDataset:
    """Each with a feature and a label of its own."""
    ends, numbers = torch.arange(count + 1), torch.arange(count, dtype=torch.int32)
    return SparseDataset(ends, numbers, None, ends, numbers, count, count)


@pytest.mark.parametrize("seconds", [None, 1.0])
def test_an_unknown_family_is_refused_before_anything_is_trained(
    seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr("hashdl.training.trainer.Trainer.fit", fit)
    with pytest.raises(ValueError, match=r"tune_classifier: families: got .*nothing"):
        tune_classifier(
            samples(100),
            config=HashConfig(active=5),
            hidden=4,
            init_std=1.0,
            settings=Settings(1.0, 4, 0.1, 0),
            after=1,
            families=["nothing"],
            seconds=seconds,
        )
