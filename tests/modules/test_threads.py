"""Threads that share one layer: results are those of one thread."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError, Event, Thread

import pytest
import torch
from torch import Tensor

import hashdl
from hashdl.locking import Lock

THREADS = 4


def in_threads(work: Callable[[], Tensor]) -> list[Tensor]:
    """What each of the threads got, which begin together."""
    barrier = Barrier(THREADS)

    def run(_: int) -> Tensor:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def test_no_thread_looks_up_in_tables_that_another_one_may_write_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = hashdl.HashConfig(active=20, balance=True)  # queries to come may write
    layer = hashdl.HashLinear(16, 2000, config=config).eval()
    tables, meeting, met = layer.tables, Barrier(2), []
    assert tables is not None
    look_up = tables.find_active

    def wait_for_company(*args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        try:
            meeting.wait(timeout=0.3)
            met.append(True)
        except BrokenBarrierError:
            met.append(False)
        return look_up(*args, **kwargs)

    monkeypatch.setattr(tables, "find_active", wait_for_company)
    in_threads(lambda: layer(torch.randn(1, 16)))
    assert met == [False] * THREADS


def test_threads_meet_the_tables_that_the_first_one_built() -> None:
    config = hashdl.HashConfig(active=20, balance=False)
    layer = hashdl.HashLinear(16, 20_000, config=config).eval()
    x = torch.randn(50, 16)
    with torch.no_grad():
        expected = copy.deepcopy(layer)(x)
        assert all(torch.equal(got, expected) for got in in_threads(lambda: layer(x)))


def test_threads_whose_queries_balance_the_layer_find_true_outputs() -> None:
    layer = hashdl.HashLinear(32, 5000, config=hashdl.HashConfig(active=20)).eval()
    queries = torch.randn(40, 32)  # 33 of them settle how to balance

    def ask() -> Tensor:
        with torch.no_grad():
            found = [layer.topk(x, 3) for x in queries.split(1)]
            exact = torch.nn.functional.linear(queries, layer.weight, layer.bias)
        values, rows = (torch.cat(part) for part in zip(*found, strict=True))
        return (values - exact.gather(1, rows)).abs().max()

    assert all(error < 1e-5 for error in in_threads(ask))


def test_a_copy_has_a_lock_of_its_own() -> None:
    layer = hashdl.HashLinear(8, 100)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert isinstance(other.tables._lock, Lock)
        assert other.tables._lock is not layer.tables._lock


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not() -> None:
    lock, held, done = Lock(), Event(), Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    thread = Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:  # pragma: no cover
        got = lock._lock.acquire(timeout=5)
        os._exit(0 if got else 1)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    assert status == 0
