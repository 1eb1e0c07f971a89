from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from hashdl import HashConfig
from hashdl.data import SparseDataset
from hashdl.training.evaluation import ranked
from hashdl.training.heads import DenseHead, HashedHead, Head, HeadFactory, SampledHead
from hashdl.training.measure import step_parts
from hashdl.training.model import SparseClassifier
from hashdl.training.run import add_costs, run_head
from hashdl.training.trainer import Progress, Settings, Trainer

Split = tuple[SparseDataset, SparseDataset]

CONFIG = HashConfig(active=20, shared=32, candidates=40, tables=4, sparse_grad=True)
HEADS: dict[str, HeadFactory] = {
    "dense": DenseHead,
    "sampled": lambda d, n: SampledHead(d, n, negatives=20),
    "sampled_log_q": lambda d, n: SampledHead(d, n, negatives=20, log_q=True),
    "hashed": lambda d, n: HashedHead(d, n, CONFIG),
    "sketched": lambda d, n: HashedHead(d, n, CONFIG.replace(selection="sketch")),
}


def make_trainer(
    split: Split, head: str, checkpoint: Path | None = None, **settings: float
) -> Trainer:
    chosen = Settings(**{"epochs": 3, "batch_size": 64, "lr": 5e-2} | settings)  # type: ignore[arg-type]
    train, test = split
    model = SparseClassifier(train.n_features, 16, train.n_labels, HEADS[head])
    return Trainer(model, train, test, chosen, checkpoint)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns(single_label: Split, head: str) -> None:
    progress = make_trainer(single_label, head).fit()
    assert progress.history[-1]["top1"] > 0.8
    assert [point["step"] for point in progress.history] == [32, 64, 96]


@pytest.mark.parametrize("head", HEADS)
def test_heads_count_what_they_cost(single_label: Split, head: str) -> None:
    trainer = make_trainer(single_label, head)
    layer: Head = trainer.model.head
    batch = trainer.train.batch(torch.arange(64))
    read = layer.rows_read(trainer.model(batch), batch.targets)
    assert 0 < read <= layer.n_classes
    assert (read == layer.n_classes) == (head == "dense")
    assert layer.multiplications(64) > 0


def test_dense_loss_is_the_mean_over_a_samples_labels() -> None:
    head = DenseHead(4, 6)
    hidden, targets = torch.randn(3, 4), torch.tensor([[1, 5], [2, -1], [-1, -1]])
    log_prob = head.linear(hidden).log_softmax(1)
    wanted = -((log_prob[0, 1] + log_prob[0, 5]) / 2 + log_prob[1, 2]) / 2
    torch.testing.assert_close(head.loss(hidden, targets), wanted)


def test_sampled_loss_over_all_classes_is_cross_entropy() -> None:
    head = SampledHead(4, 6, negatives=1000)
    hidden, targets = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 5])
    wanted = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(hidden, *head.rows()), targets
    )
    torch.testing.assert_close(head.loss(hidden, targets), wanted)


def stop_at(step: int) -> object:
    def watch(progress: Progress, loss: float, total: int) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return watch


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def assert_same_tables(first: Trainer, second: Trainer) -> None:
    """The same history; where there are tables, they are balanced."""
    pairs = zip(first._tables().values(), second._tables().values(), strict=True)
    for one, other in pairs:
        histories = one.history(), other.history()
        assert histories[0]["moment"].any()
        for name, kept in histories[0].items():
            assert torch.equal(kept, histories[1][name])
        assert not torch.equal(one.functions, one.query_functions)


@pytest.mark.parametrize("head", ["hashed", "sampled", "dense"])
def test_ctrl_c_saves_and_resume_goes_on_bit_for_bit(
    single_label: Split, tmp_path: Path, head: str
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    first = make_trainer(single_label, head, checkpoint)
    first.fit(stop_at(40))  # type: ignore[arg-type]
    assert first.interrupted
    assert first.progress.step == 41  # the request is seen when the next step ends
    resumed = make_trainer(single_label, head, checkpoint)
    resumed.resume(checkpoint)
    assert resumed.progress == first.progress
    assert_same_tables(first, resumed)
    first.fit()
    resumed.fit()
    assert resumed.progress.step == resumed.total_steps
    assert torch.equal(weights(first), weights(resumed))
    assert_same_tables(first, resumed)
    for one, other in zip(first._heads().values(), resumed._heads().values(), strict=True):
        assert (one.recent_labels >= 0).any()
        assert torch.equal(one.recent_labels, other.recent_labels)


def test_a_run_does_not_depend_on_the_number_of_threads(single_label: Split) -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            trainer = make_trainer(single_label, "hashed", epochs=1)
            trainer.fit()
            results.append(weights(trainer))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_resume_refuses_another_run(single_label: Split, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    make_trainer(single_label, "dense", checkpoint, epochs=0.1).fit()
    with pytest.raises(ValueError, match="lr"):
        make_trainer(single_label, "dense", epochs=0.1, lr=0.5).resume(checkpoint)
    other = make_trainer(single_label, "hashed", epochs=0.1)
    before = weights(other)
    with pytest.raises(ValueError, match=r"other sizes \(.*wanted none"):
        other.resume(checkpoint)
    assert torch.equal(weights(other), before)
    make_trainer(single_label, "hashed", checkpoint, epochs=0.1).fit()
    other = make_trainer(single_label, "hashed", epochs=0.1)
    hashed = other.model.head.linear
    hashed._hash_rows(hashed.config.replace(tables=3))
    before = weights(other)
    with pytest.raises(ValueError, match=r"one has {'head.softmax.linear.config.tables': 3}"):
        other.resume(checkpoint)
    assert torch.equal(weights(other), before)  # nothing was loaded
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a checkpoint"):
        make_trainer(single_label, "dense", epochs=0.1).resume(checkpoint)


def test_whoever_ranks_a_few_batches_alone_leaves_the_mode_as_it_was(single_label: Split) -> None:
    model = make_trainer(single_label, "hashed").model.train()
    samples = ranked(model, single_label[1], 3)
    next(samples)
    samples.close()
    assert model.training


def test_the_limit_in_seconds_ends_a_run(single_label: Split) -> None:
    progress = make_trainer(single_label, "dense", max_seconds=0.0).fit()
    assert progress.step == 1
    assert len(progress.history) == 1


def test_parts_of_a_step_are_named(single_label: Split) -> None:
    parts = step_parts(make_trainer(single_label, "hashed"), steps=2)
    assert {"hash", "look-up", "select", "forward", "loss", "backward", "optimizer"} <= set(parts)
    assert all(milliseconds >= 0 for milliseconds in parts.values())


def test_run_head_reports_what_it_reached_and_cost(single_label: Split) -> None:
    settings = Settings(epochs=1, batch_size=64, lr=2e-2)
    result, trainer = run_head("hashed", HEADS["hashed"], *single_label, settings, hidden=16)
    add_costs(result, trainer)
    assert result["multiplications_vs_dense"] > 0
    assert 0 < result["touched"] <= 1
    assert result["top1"] == result["history"][-1]["top1"]
