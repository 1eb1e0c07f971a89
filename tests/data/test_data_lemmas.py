"""The lemmatization task; Malay is simplemma's smallest dictionary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_strategies import assert_same

from hashdl.data import SparseDataset, lemmas, load_lemmas
from hashdl.data.stable_hash import below, hash_strings

pytest.importorskip("simplemma")

ROOT = Path(__file__).resolve().parents[2]
Split = tuple[SparseDataset, SparseDataset]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def split(folder: Path) -> Split:
    return load_lemmas(("ms", "id"), buckets=1000, cache_dir=folder, progress=False)


def test_shape_of_the_task(split: Split) -> None:
    train, test = split
    assert train.single_label
    assert test.single_label
    assert train.n_features == 1002
    assert train.n_labels == test.n_labels == len(train.label_names or [])
    assert 0.02 < len(test) / (len(train) + len(test)) < 0.08
    counts = torch.bincount(torch.cat([train.label_indices, test.label_indices]))
    assert int(counts.min()) >= 3
    marks = torch.cat([train.indices[train.indptr[:-1]], test.indices[test.indptr[:-1]]])
    assert set(marks.tolist()) == {1000, 1001}


def test_every_held_out_lemma_was_seen(split: Split) -> None:
    train, test = split
    assert set(test.label_indices.tolist()) <= set(train.label_indices.tolist())


def test_labels_are_the_lemmas(split: Split) -> None:
    from simplemma.strategies.dictionaries.dictionary_factory import DefaultDictionaryFactory

    train, _ = split
    assert train.label_names is not None
    assert train.sample_names is not None
    dictionary = DefaultDictionaryFactory().get_dictionary("ms")
    for form, label in zip(train.sample_names[:50], train.label_indices[:50].tolist(), strict=True):
        assert train.label_names[label] == f"ms:{dictionary[form]}"


def test_second_call_reads_the_cache(
    split: Split, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lemmas, "_read_dictionary", None)
    again = load_lemmas(("ms", "id"), buckets=1000, cache_dir=folder, progress=False)
    for one, other in zip(split, again, strict=True):
        assert_same(one, other)


def test_broken_cache_is_built_again(split: Split, tmp_path: Path) -> None:
    options = {"buckets": 1000, "cache_dir": tmp_path, "progress": False}
    load_lemmas(("ms", "id"), **options)  # type: ignore[arg-type]
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="building it again"):
        again = load_lemmas(("ms", "id"), **options)  # type: ignore[arg-type]
    assert_same(again[0], split[0])


def test_unwritable_cache_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(UserWarning, match="cannot keep lemmas"):
        train, _ = load_lemmas(("ms",), cache_dir=tmp_path / "file", progress=False)
    assert len(train) > 10_000


def test_deterministic_across_hash_seeds(split: Split, tmp_path: Path) -> None:
    script = (
        "from hashdl.data import load_lemmas; import sys;"
        "load_lemmas(('ms', 'id'), buckets=1000, cache_dir=sys.argv[1], progress=False)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, env=environment)
    paths = sorted(tmp_path.iterdir(), reverse=True)
    for path, expected in zip(paths, split, strict=True):
        assert_same(SparseDataset.load(path), expected)


def test_max_labels(folder: Path, split: Split) -> None:
    train, test = load_lemmas(("ms",), max_labels=100, cache_dir=folder, progress=False)
    assert train.n_labels == 100
    assert set(torch.cat([train.label_indices, test.label_indices]).tolist()) == set(range(100))
    assert set(train.label_names or []) < set(split[0].label_names or [])


def test_features_are_the_hashed_ngrams() -> None:
    forms = ["ab", "", "naïve"]
    counts, indices = lemmas._features(forms, np.array([7, 8, 9]), (2, 4), 1 << 30)

    def ngram(text: str) -> int:
        characters = np.array([ord(c) for c in text], dtype=np.uint32)
        return int(lemmas._hash_ngrams(characters, np.array([0]), len(text))[0]) % (1 << 30)

    expected: list[int] = []
    sizes = []
    for mark, form in zip([7, 8, 9], forms, strict=True):
        marked = f"\x02{form}\x03"
        row = [mark]
        for size in (2, 4):
            row += [ngram(marked[i : i + size]) for i in range(len(marked) - size + 1)]
        expected += row
        sizes.append(len(row))
    assert counts.tolist() == sizes
    assert indices.tolist() == expected


def test_ngram_hashes_do_not_change() -> None:
    counts, indices = lemmas._features(["gikk"], np.array([1 << 20]), (3,), 1 << 20)
    assert counts.tolist() == [5]
    assert indices.tolist() == [1048576, 311021, 1037545, 164200, 441903]


def test_held_out_share() -> None:
    hashes = hash_strings(map(str, range(10_000)))
    small, large = below(hashes, 0.1), below(hashes, 0.3)
    assert 900 < small.sum() < 1100
    assert not (small & ~large).any()
    assert not below(hashes, 0.0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ()}, "languages"),
        ({"languages": ("xx",)}, "xx"),
        ({"ngrams": ()}, "ngrams"),
        ({"ngrams": (0, 3)}, "ngrams"),
        ({"buckets": 0}, "buckets"),
        ({"min_forms": 0}, "min_forms"),
        ({"max_labels": 0}, "max_labels"),
        ({"held_out": 1.0}, "held_out"),
    ],
)
def test_invalid_arguments(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_lemmas(
            **{"languages": ("ms",), "cache_dir": tmp_path, "progress": False, **options}  # type: ignore[arg-type]
        )


def test_simplemma_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise lemmas.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(lemmas.importlib.metadata, "version", absent)
    with pytest.raises(ImportError, match=r"pip install 'torch-hashdl\[cli\]'"):
        load_lemmas(("ms",), cache_dir=tmp_path)
