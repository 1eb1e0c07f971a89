"""The identifier task, on a small folder of generated files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_strategies import assert_same

from hashdl.data import SparseDataset, load_python_source, python_source
from hashdl.data.stable_hash import hash_strings, mix

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "package").mkdir(parents=True)
    for number in range(40):
        name = f"package/module_{number}.py" if number % 2 else f"module_{number}.py"
        text = f"import os\n\ndef function(argument, only_in_{number}):\n    return argument + 1\n"
        (folder / name).write_text(text)
    (folder / "notes.txt").write_text("function function function")
    (folder / "broken.py").write_text("def f(:\n  'unfinished")
    (folder / "binary.py").write_bytes(b"\xff\xfe\x00\x00")
    (folder / "empty.py").write_text("")
    (folder / "site-packages").mkdir()
    (folder / "site-packages" / "other.py").write_text("other = 1\n" * 10)
    return folder


def load(source: Path, **options: object) -> tuple[SparseDataset, SparseDataset]:
    options = {"held_out": 0.2, "cache_dir": source.parent / "cache", "progress": False, **options}
    return load_python_source([source], **options)  # type: ignore[arg-type]


def test_labels_are_the_frequent_identifiers(source: Path) -> None:
    train, test = load(source)
    assert set(train.label_names or []) == {"os", "function", "argument"}
    assert len(train) + len(test) == 40 * 4
    assert len(test) % 4 == 0
    assert 0 < len(test) < 80
    assert train.single_label
    assert set(test.label_indices.tolist()) <= set(train.label_indices.tolist())


def test_features_are_the_window(source: Path) -> None:
    train, _ = load(source, window=2, held_out=0.0, buckets=1 << 20)
    assert train.label_names is not None
    label = train.label_names.index("os")
    row = train.label_indices.tolist().index(label)
    indices = train.batch(torch.tensor([row])).indices.tolist()
    # Two tokens before the first one are beyond the file; "import" is a token like any other.
    around = hash_strings(["<edge>", "import", "<newline>", "def"])
    salts = np.arange(1, 5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    expected = np.concatenate([mix(around + salts), mix(around)]) % np.uint64(1 << 20)
    assert indices == expected.tolist()
    without_bag = load(source, window=2, held_out=0.0, buckets=1 << 20, bag=False)[0]
    assert without_bag.batch(torch.tensor([row])).indices.tolist() == expected[:4].tolist()


def test_rare_tokens_look_alike(source: Path) -> None:
    train, _ = load(source, window=2, held_out=0.0)
    assert train.label_names is not None
    # The names "only_in_0" to "only_in_39" after the first "argument" differ, but each is rare.
    label = train.label_names.index("argument")
    rows = torch.tensor([i for i, own in enumerate(train.label_indices.tolist()) if own == label])
    windows = train.batch(rows).indices.view(len(rows), -1)
    assert len(windows.unique(dim=0)) == 2


def test_max_files_and_max_samples(source: Path) -> None:
    train, test = load(source, max_files=20)
    assert 0 < len(train) + len(test) <= 80
    train, test = load(source, max_samples=50)
    assert 0 < len(train) + len(test) <= 50
    assert set(test.label_indices.tolist()) <= set(train.label_indices.tolist())


def test_cache_follows_the_files(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(source)
    with monkeypatch.context() as patch:
        patch.setattr(python_source, "_tokenize", None)
        for one, other in zip(first, load(source), strict=True):
            assert_same(one, other)
    (source / "more.py").write_text("brand_new = 1\n" * 3)
    train, _ = load(source, held_out=0.0)
    assert "brand_new" in (train.label_names or [])


def test_deterministic_across_hash_seeds(source: Path, tmp_path: Path) -> None:
    expected = load(source)
    script = (
        "from hashdl.data import load_python_source; import sys;"
        "load_python_source([sys.argv[1]], held_out=0.2, cache_dir=sys.argv[2], progress=False)"
    )
    elsewhere = tmp_path / "elsewhere"
    source = source.rename(tmp_path / "renamed")
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(source), str(elsewhere)]
    subprocess.run(command, check=True, env=environment)
    paths = sorted(elsewhere.iterdir(), reverse=True)
    for path, dataset in zip(paths, expected, strict=True):
        assert_same(SparseDataset.load(path), dataset)


def test_default_roots_exist() -> None:
    assert all(root.is_dir() for root in python_source._default_roots())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window"),
        ({"buckets": 0}, "buckets"),
        ({"min_count": 0}, "min_count"),
        ({"held_out": -0.1}, "held_out"),
    ],
)
def test_invalid_arguments(source: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(source, **options)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        load_python_source([tmp_path / "absent"])


def test_no_files(tmp_path: Path) -> None:
    train, test = load(tmp_path)
    assert len(train) == len(test) == 0
