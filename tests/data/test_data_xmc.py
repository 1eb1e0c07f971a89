"""The Extreme Classification Repository's text format."""

from __future__ import annotations

import bz2
import gzip
import os
import re
from pathlib import Path

import pytest
import torch
from data_strategies import assert_same, datasets
from hypothesis import HealthCheck, given, settings

from hashdl.data import DataError, SparseDataset, read_xmc, write_xmc, xmc

SMALL = "3 5 4\n0,2 1:0.5 4:-2\n 0:1e-3\n3\n"


def read(path: Path, text: str | bytes) -> SparseDataset:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_xmc(path, progress=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train.txt"


# No deadline: each example waits for the disk.
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(datasets(with_values=True))
def test_round_trip(path: Path, dataset: SparseDataset) -> None:
    write_xmc(dataset, path)
    assert_same(read_xmc(path, progress=False), dataset)


@pytest.mark.parametrize(("suffix", "opener"), [(".gz", gzip.open), (".bz2", bz2.open)])
def test_compressed(tmp_path: Path, suffix: str, opener: object) -> None:
    expected = read(tmp_path / "train.txt", SMALL)
    path = tmp_path / f"train.txt{suffix}"
    write_xmc(expected, path)
    assert_same(read_xmc(path, progress=False), expected)
    with opener(path, "rt") as file:  # type: ignore[operator]
        assert file.read().startswith("3 5 4\n0,2 1:0.5 4:-2\n")

    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=re.escape(path.name) + r", line \d+: cannot be read"):
        read_xmc(path, progress=False)


def test_small_file(path: Path) -> None:
    dataset = read(path, SMALL)
    assert dataset.indptr.tolist() == [0, 2, 3, 3]
    assert dataset.indices.tolist() == [1, 4, 0]
    assert dataset.values is not None
    torch.testing.assert_close(dataset.values, torch.tensor([0.5, -2, 1e-3]))
    assert dataset.label_indptr.tolist() == [0, 2, 2, 3]
    assert dataset.label_indices.tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    "text",
    [
        SMALL.replace("\n", "\r\n"),
        SMALL.rstrip("\n"),
        SMALL + "\n\n",
        SMALL.replace(" 0:1e-3", "0:1e-3"),
        SMALL.replace(" ", "  ").replace("4:-2", "4:-2.  "),
        SMALL.replace(" 0:1e-3", "\t0:+.001"),
    ],
)
def test_equivalent_spellings(path: Path, text: str) -> None:
    expected = read(path, SMALL)
    assert_same(read(path, text), expected)


def test_blank_lines_are_samples(path: Path) -> None:
    dataset = read(path, "3 5 4\n\n1 2:3\n\n")
    assert dataset.indptr.tolist() == [0, 0, 1, 1]
    assert dataset.label_indptr.tolist() == [0, 0, 1, 1]


def test_values_of_binary_features_are_written_as_one(path: Path) -> None:
    dataset = SparseDataset(
        indptr=torch.tensor([0, 1]),
        indices=torch.tensor([2], dtype=torch.int32),
        values=None,
        label_indptr=torch.tensor([0, 0]),
        label_indices=torch.tensor([], dtype=torch.int32),
        n_features=3,
        n_labels=1,
    )
    write_xmc(dataset, path)
    assert path.read_text() == "1 3 1\n 2:1\n"


MALFORMED = {
    "empty file": ("", 1, "empty"),
    "blank header": ("\n1 2:3\n", 1, "empty"),
    "short header": ("3 5\n", 1, "header must be"),
    "long header": ("3 5 4 1\n", 1, "header must be"),
    "header in words": ("three 5 4\n", 1, "header must be"),
    "negative header": ("-3 5 4\n", 1, "header must be"),
    "huge header": ("3 5 3000000000\n", 1, "more than"),
    "truncated": ("3 5 4\n0 1:1\n1 2:1\n", 3, "ends after 2 of the 3 samples"),
    "only a header": ("3 5 4\n", 1, "ends after 0 of the 3 samples"),
    "too long": ("1 5 4\n0 1:1\n1 2:1\n", 3, "more samples than the 1"),
    "too long after a blank": ("1 5 4\n0 1:1\n\n1 2:1\n", 4, "more samples than the 1"),
    "label out of range": ("3 5 4\n0 1:1\n4 1:1\n0 1:1\n", 3, "label 4 is out of range"),
    "label far out of range": ("1 5 4\n" + "9" * 30 + " 1:1\n", 2, "is out of range"),
    "feature out of range": ("3 5 4\n0 1:1\n\n1 2:1 5:2\n", 4, "feature 5 is out of range"),
    "feature far out of range": ("1 5 4\n0 " + "9" * 30 + ":1\n", 2, "is out of range"),
    "negative label": ("1 5 4\n-1 1:1\n", 2, "label '-1' is not a whole number"),
    "negative feature": ("1 5 4\n1 -1:1\n", 2, "feature '-1' is not a whole number"),
    "label in words": ("1 5 4\n1,two 1:1\n", 2, "label 'two' is not a whole number"),
    "empty label": ("1 5 4\n1,,2 1:1\n", 2, "label '' is not a whole number"),
    "fractional feature": ("1 5 4\n1 1.5:1\n", 2, "feature '1.5' is not a whole number"),
    "value in words": ("1 5 4\n1 1:one\n", 2, "value 'one' is not a finite number"),
    "no value": ("1 5 4\n1 1:\n", 2, "value '' is not a finite number"),
    "two colons": ("1 5 4\n1 1:2:3\n", 2, "value '2:3' is not a finite number"),
    "not a number": ("2 5 4\n1 1:1\n1 2:nan\n", 3, "value 'nan' is not a finite number"),
    "infinity": ("1 5 4\n1 1:inf\n", 2, "value 'inf' is not a finite number"),
    "overflow": ("2 5 4\n1 1:1\n1 1:1 2:1e39\n", 3, "not finite in float32"),
    "missing colon": ("1 5 4\n1 1:1 3\n", 2, "no colon in '3'"),
    "labels with spaces": ("1 5 4\n1, 2 1:1\n", 2, "label '' is not a whole number"),
    "stray carriage return": ("1 5 4\n1 1:1\r2:1\n", 2, "malformed line"),
    "not text": (b"1 5 4\n\xff\xfe 1:1\n", 2, "is not a whole number"),
    "not ASCII digits": ("1 5 4\n1 1:\u0661\n", 2, "is not a finite number"),
}


@pytest.mark.parametrize(("text", "line", "message"), MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_malformed(
    path: Path,
    text: str | bytes,
    line: int,
    message: str,
    chunk_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(xmc, "_CHUNK_BYTES", chunk_bytes)
    with pytest.raises(DataError, match=re.escape(f"train.txt, line {line}: ") + ".*") as caught:
        read(path, text)
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_corrupt_gzip(tmp_path: Path) -> None:
    path = tmp_path / "train.txt.gz"
    with pytest.raises(DataError, match=r"train\.txt\.gz, line 1: cannot be read"):
        read(path, SMALL)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_xmc(tmp_path / "absent.txt")


def test_interrupted_write_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = read(path, SMALL)

    def interrupted(_: SparseDataset) -> object:
        yield "1 1:1\n"
        raise KeyboardInterrupt

    monkeypatch.setattr(xmc, "_format_samples", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_xmc(dataset, path)
    assert path.read_text() == SMALL
    assert list(path.parent.iterdir()) == [path]


def shared_data() -> Path:
    """Folder of the large data files, which not every checkout has beside it."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("HASHDL_SHARED_DATA") or beside)


@pytest.mark.skipif(not shared_data().is_dir(), reason="the large data files are not here")
def test_real_file(tmp_path: Path) -> None:
    dataset = read_xmc(shared_data() / "deb_deps_test.txt", progress=False)
    assert (len(dataset), dataset.n_features, dataset.n_labels) == (5576, 33170, 23257)
    path = tmp_path / "copy.txt"
    write_xmc(dataset, path)
    assert_same(read_xmc(path, progress=False), dataset)
