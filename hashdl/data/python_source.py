"""Predict an identifier from the tokens around it, in Python source that is installed anyway."""

from __future__ import annotations

import hashlib
import keyword
import os
import sysconfig
import token
import tokenize
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from hashdl.data.cache import Split, cached_split
from hashdl.data.dataset import SparseDataset
from hashdl.data.stable_hash import below, check_share, hash_strings, mix

from ..progress import track

_FORMAT = 1  # part of the cache's key: raise it whenever the same arguments give other data
_EDGE = "<edge>"  # what is beyond the first and the last token of a file
_MARKS = {token.NEWLINE: "<newline>", token.INDENT: "<indent>", token.DEDENT: "<dedent>"}
_RARE = {token.NAME: "<name>", token.NUMBER: "<number>", token.STRING: "<string>"}
_SKIPPED = {token.COMMENT, token.NL, token.ENCODING, token.ENDMARKER}
_LONGEST = 40  # characters of a token worth telling apart; beyond are docstrings and data
_CHUNK_SAMPLES = 1 << 17  # bounds the 64-bit intermediate results to tens of megabytes
_OFFSET_STEP = np.uint64(0x9E3779B97F4A7C15)


def load_python_source(
    roots: Sequence[str | os.PathLike[str]] | None = None,
    *,
    window: int = 5,
    bag: bool = True,
    buckets: int = 1 << 18,
    min_count: int = 3,
    held_out: float = 0.05,
    max_files: int | None = None,
    max_samples: int | None = 4_000_000,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Split:
    """Load identifiers and the tokens around them as a data set with one label a sample.

    A sample is an occurrence of an identifier in a ``.py`` file. Its features are the tokens in a
    window on both sides, hashed together with their relative position; its label is the
    identifier. Files that cannot be tokenized are skipped.

    Args:
        roots: Folders to search; by default the standard library and site-packages.
        window: Tokens to look at on each side.
        bag: Whether to add each of these tokens a second time without its position.
        buckets: Number of features that tokens are hashed to.
        min_count: Identifiers that occur less often in the training samples are left out; tokens
            that occur less often in the training files are told apart only by their kind.
        held_out: Share of the files to hold out, chosen by a hash of the path below its root.
        max_files: Read this many files, chosen by the same hash; None reads all.
        max_samples: Use this many samples at most, chosen by a hash; None uses all.
        cache_dir: Where to keep the result; by default `hashdl.data.cache_dir()`.
        progress: Whether to show progress.

    Returns:
        The training set and the held-out set. `label_names` are the identifiers.

    Raises:
        ValueError: If an argument is out of range.
        FileNotFoundError: If a root is no folder.
    """
    check_share("held_out", held_out)
    for name, value in (("window", window), ("buckets", buckets), ("min_count", min_count)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    files = _find_files(_default_roots() if roots is None else list(map(Path, roots)), max_files)
    key = {
        "format": _FORMAT,
        "files": _digest(files),
        "window": window,
        "bag": bag,
        "buckets": buckets,
        "min_count": min_count,
        "held_out": held_out,
        "max_samples": max_samples,
    }

    def build() -> Split:
        corpus = _Corpus.read(files, window, progress)
        samples = _choose_samples(corpus, min_count, held_out, max_samples)
        corpus = corpus.without_rare(samples.training_tokens, min_count)

        def part(chosen: npt.NDArray[np.bool_]) -> SparseDataset:
            indices = _features(corpus, samples.positions[chosen], window, bag, buckets, progress)
            return _dataset(indices, samples.labels[chosen], samples.label_names, buckets)

        return part(~samples.test), part(samples.test)

    return cached_split("python-source", key, build, cache_dir)


@dataclass(frozen=True)
class _File:
    """A source file: where it is, and its name below its root, which is the same elsewhere."""

    path: Path
    name: str


@dataclass(frozen=True)
class _Corpus:
    """The tokens of all files, one file after the other, with edges between them.

    Attributes:
        tokens: Number of each token, int32.
        file: Number of the file that each token is in, int32.
        names: Names of the files.
        texts: Text of each token number. The first are `_EDGE` and the kinds of rare tokens.
        kinds: Kind of each token number, as in the module ``token``.
    """

    tokens: npt.NDArray[np.int32]
    file: npt.NDArray[np.int32]
    names: list[str]
    texts: list[str]
    kinds: npt.NDArray[np.int64]

    @classmethod
    def read(cls, files: Sequence[_File], window: int, progress: bool) -> _Corpus:
        """Tokenize files; between them come ``window`` edges, so that no window spans two."""
        # -1: tokens of no kind, which are no labels and never rare.
        kinds = {_EDGE: -1, **dict.fromkeys(_RARE.values(), -1)}
        numbers = {text: number for number, text in enumerate(kinds)}
        tokens = array("i", [numbers[_EDGE]] * window)
        sizes = []
        for file in track(files, "Tokenizing Python source", enabled=progress):
            before = len(tokens)
            for kind, text in _tokenize(file.path):
                tokens.append(numbers.setdefault(text, len(numbers)))
                kinds.setdefault(text, kind)
            tokens.extend([numbers[_EDGE]] * window)
            sizes.append(len(tokens) - before)
        if files:
            sizes[0] += window
        return cls(
            tokens=np.asarray(tokens),
            file=np.repeat(np.arange(len(files), dtype=np.int32), sizes),
            names=[file.name for file in files],
            texts=list(numbers),
            kinds=np.fromiter(kinds.values(), dtype=np.int64),
        )

    def without_rare(self, counted: npt.NDArray[np.bool_], min_count: int) -> _Corpus:
        """Replace rare names, numbers and strings by tokens that stand for their kind.

        Args:
            counted: Whether each token of the corpus counts.
            min_count: How many of a token make it frequent.

        Returns:
            The same corpus with fewer different tokens.
        """
        counts = np.bincount(self.tokens[counted], minlength=len(self.texts))
        replacement = np.arange(len(self.texts), dtype=np.int32)
        for kind, text in _RARE.items():
            replacement[(self.kinds == kind) & (counts < min_count)] = self.texts.index(text)
        return replace(self, tokens=replacement[self.tokens])


@dataclass(frozen=True)
class _Samples:
    """The identifiers to predict.

    Attributes:
        positions: Where each sample is in the corpus, int64.
        labels: Label of each sample, int32.
        test: Whether each sample is held out.
        training_tokens: Whether each token of the corpus is in a training file.
        label_names: The identifiers.
    """

    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]
    test: npt.NDArray[np.bool_]
    training_tokens: npt.NDArray[np.bool_]
    label_names: list[str]


def _choose_samples(
    corpus: _Corpus, min_count: int, held_out: float, max_samples: int | None
) -> _Samples:
    """Find the identifiers, and divide them by file."""
    names = corpus.kinds == token.NAME
    identifier = names & ~np.array([keyword.iskeyword(text) for text in corpus.texts])
    positions = np.flatnonzero(identifier[corpus.tokens])
    if max_samples is not None and max_samples < len(positions):
        order = np.argsort(mix(positions.astype(np.uint64)), kind="stable")
        positions = np.sort(positions[order[:max_samples]])

    test_tokens = below(hash_strings(corpus.names), held_out)[corpus.file]
    test = test_tokens[positions]
    tokens = corpus.tokens[positions]
    # Counted in the training samples alone, so that every held-out label was seen.
    kept = np.bincount(tokens[~test], minlength=len(corpus.texts)) >= min_count
    chosen = kept[tokens]
    labels = np.cumsum(kept) - 1
    return _Samples(
        positions=positions[chosen],
        labels=labels[tokens[chosen]].astype(np.int32),
        test=test[chosen],
        training_tokens=~test_tokens,
        label_names=[corpus.texts[number] for number in np.flatnonzero(kept).tolist()],
    )


def _features(
    corpus: _Corpus,
    positions: npt.NDArray[np.int64],
    window: int,
    bag: bool,
    buckets: int,
    progress: bool,
) -> npt.NDArray[np.int32]:
    """Features of some samples, as many for each: ``(n, 2 * window)``, with bag twice that."""
    offsets = np.array([*range(-window, 0), *range(1, window + 1)])
    salts = np.arange(1, len(offsets) + 1, dtype=np.uint64) * _OFFSET_STEP
    hashes = hash_strings(corpus.texts)
    indices = np.empty((len(positions), len(offsets) * (1 + bag)), dtype=np.int32)
    starts = range(0, len(indices), _CHUNK_SAMPLES)
    for start in track(starts, "Hashing windows", enabled=progress):
        chunk = slice(start, start + _CHUNK_SAMPLES)
        around = hashes[corpus.tokens[positions[chunk, None] + offsets]]
        placed = mix(around + salts)
        both = np.concatenate([placed, mix(around)], axis=1) if bag else placed
        indices[chunk] = (both % np.uint64(buckets)).astype(np.int32)
    return indices


def _dataset(
    indices: npt.NDArray[np.int32],
    labels: npt.NDArray[np.int32],
    label_names: Sequence[str],
    buckets: int,
) -> SparseDataset:
    n_samples, n_per_sample = indices.shape
    return SparseDataset(
        indptr=torch.arange(n_samples + 1) * n_per_sample,
        indices=torch.from_numpy(indices.reshape(-1)),
        values=None,
        label_indptr=torch.arange(n_samples + 1),
        label_indices=torch.from_numpy(labels),
        n_features=buckets,
        n_labels=len(label_names),
        label_names=label_names,
    )


def _tokenize(path: Path) -> list[tuple[int, str]]:
    """Kind and text of the tokens of a file; none if it is not Python that this version reads."""
    try:
        with path.open("rb") as file:
            return [
                (kind, _MARKS.get(kind) or (text if len(text) <= _LONGEST else "<string>"))
                for kind, text, *_ in tokenize.tokenize(file.readline)
                if kind not in _SKIPPED
            ]
    except (SyntaxError, tokenize.TokenError, ValueError, OSError):
        return []


def _default_roots() -> list[Path]:
    paths = sysconfig.get_paths()
    return [Path(paths["stdlib"]), Path(paths["purelib"])]


def _find_files(roots: Sequence[Path], max_files: int | None) -> list[_File]:
    """List the source files in an order that does not depend on the file system."""
    files = [file for root in roots for file in _files_below(root)]
    if max_files is not None and max_files < len(files):
        order = np.argsort(hash_strings(file.name for file in files), kind="stable")
        files = [files[number] for number in np.sort(order[:max_files]).tolist()]
    return files


def _files_below(root: Path) -> Iterator[_File]:
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder: {root}")
    for folder, subfolders, names in os.walk(root):
        # The standard library's folder often holds site-packages, which is a root of its own.
        subfolders[:] = sorted(set(subfolders) - {"site-packages", "dist-packages"})
        for name in sorted(names):
            if name.endswith(".py"):
                path = Path(folder, name)
                yield _File(path, path.relative_to(root).as_posix())


def _digest(files: Sequence[_File]) -> str:
    """Identify the files by name and size, which is quick and changes with every release."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(
            f"{file.name}\0{file.path.stat().st_size}\n".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()
