"""Word form to lemma: the dictionaries of the PyPI package simplemma as a classification task."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from hashdl.data.cache import Split, cached_split
from hashdl.data.dataset import SparseDataset
from hashdl.data.stable_hash import U64Array, below, check_share, hash_strings, mix

from ..progress import track

_FORMAT = 1  # part of the cache's key: raise it whenever the same arguments give other data
_BEGIN, _END = "\x02", "\x03"  # markers around each form; no dictionary has control characters
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_CHUNK_FORMS = 1 << 16  # bounds the 64-bit intermediate results to tens of megabytes


def load_lemmas(
    languages: Sequence[str] = ("nb",),
    *,
    ngrams: Sequence[int] = (3, 4),
    buckets: int = 1 << 17,
    min_forms: int = 3,
    max_labels: int | None = None,
    held_out: float = 0.05,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Split:
    """Load pairs of word form and lemma as a data set with one label a sample.

    A sample is an inflected form ("gikk"). Its features are its hashed character n-grams, with
    markers where the form begins and ends, and its language; its label is its lemma in that
    language ("nb:gå"). Nothing is downloaded: the dictionaries come with simplemma.

    Args:
        languages: Codes of the languages, as in ``simplemma``.
        ngrams: Lengths of the n-grams, in characters (markers count).
        buckets: Number of features that n-grams are hashed to. Each language adds one feature.
        min_forms: Lemmas with fewer forms are left out.
        max_labels: Keep this many lemmas, chosen by a hash; None keeps all.
        held_out: Share of the forms to hold out, chosen by a hash. Where that would be all forms
            of a lemma they are trained on instead, so that every held-out lemma was seen.
        cache_dir: Where to keep the result; by default `hashdl.data.cache_dir()`.
        progress: Whether to show progress.

    Returns:
        The training set and the held-out set. `label_names` are "language:lemma" and
        `sample_names` the forms.

    Raises:
        ImportError: If simplemma is not installed.
        ValueError: If an argument is out of range or a language is unknown.
    """
    languages = tuple(dict.fromkeys(languages))
    ngrams = tuple(sorted(set(ngrams)))
    _check_arguments(languages, ngrams, buckets, min_forms, max_labels)
    check_share("held_out", held_out)
    key = {
        "format": _FORMAT,
        "simplemma": _simplemma_version(),
        "languages": languages,
        "ngrams": ngrams,
        "buckets": buckets,
        "min_forms": min_forms,
        "max_labels": max_labels,
        "held_out": held_out,
    }

    def build() -> Split:
        words = _Words.read(languages, progress).with_frequent_lemmas(min_forms, max_labels)
        dataset = _dataset(words, languages, ngrams, buckets, progress)
        test = _held_out(words, held_out)
        return dataset.subset(_where(~test)), dataset.subset(_where(test))

    return cached_split("lemmas", key, build, cache_dir)


@dataclass(frozen=True)
class _Words:
    """Forms with their labels.

    Attributes:
        forms: Word forms, sorted within each language.
        languages: Number of each form's language, int64 ``(n,)``.
        labels: Number of each form's label, int64 ``(n,)``.
        label_names: "language:lemma" of each label.
    """

    forms: list[str]
    languages: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    label_names: list[str]

    @classmethod
    def read(cls, languages: Sequence[str], progress: bool) -> _Words:
        """Read the dictionaries of some languages."""
        forms: list[str] = []
        labels: list[int] = []
        sizes: list[int] = []
        numbers: dict[str, int] = {}
        for language in track(languages, "Reading dictionaries", enabled=progress):
            pairs = _read_dictionary(language)
            for form, lemma in pairs:
                forms.append(form)
                labels.append(numbers.setdefault(f"{language}:{lemma}", len(numbers)))
            sizes.append(len(pairs))
        return cls(
            forms=forms,
            languages=np.repeat(np.arange(len(languages)), sizes),
            labels=np.array(labels, dtype=np.int64),
            label_names=list(numbers),
        )

    def with_frequent_lemmas(self, min_forms: int, max_labels: int | None) -> _Words:
        """Leave out rare lemmas, and number the others anew."""
        kept = np.bincount(self.labels, minlength=len(self.label_names)) >= min_forms
        if max_labels is not None:
            hashes = hash_strings(self.label_names)
            order = np.argsort(hashes, kind="stable")
            kept[order[kept[order]][max_labels:]] = False
        numbers = np.cumsum(kept) - 1
        chosen = kept[self.labels]
        return replace(
            self,
            forms=[self.forms[row] for row in np.flatnonzero(chosen).tolist()],
            languages=self.languages[chosen],
            labels=numbers[self.labels[chosen]],
            label_names=[self.label_names[label] for label in np.flatnonzero(kept).tolist()],
        )


def _held_out(words: _Words, share: float) -> npt.NDArray[np.bool_]:
    """Choose the forms to hold out, but from no lemma all of them."""
    # The language is no part of the hash: a form that two languages share is trained on in both or
    # in neither.
    test = below(hash_strings(words.forms), share)
    trained_on = np.bincount(words.labels[~test], minlength=len(words.label_names)) > 0
    return test & trained_on[words.labels]


def _dataset(
    words: _Words, languages: Sequence[str], ngrams: Sequence[int], buckets: int, progress: bool
) -> SparseDataset:
    """Make features and labels of all words."""
    starts = range(0, len(words.forms), _CHUNK_FORMS)
    counts, indices = [np.zeros(1, np.int64)], [np.empty(0, np.int32)]
    for start in track(starts, "Hashing n-grams", enabled=progress):
        chunk = slice(start, start + _CHUNK_FORMS)
        marks = buckets + words.languages[chunk]
        chunk_counts, chunk_indices = _features(words.forms[chunk], marks, ngrams, buckets)
        counts.append(chunk_counts)
        indices.append(chunk_indices)
    return SparseDataset(
        indptr=torch.from_numpy(np.cumsum(np.concatenate(counts))),
        indices=torch.from_numpy(np.concatenate(indices)),
        values=None,
        label_indptr=torch.arange(len(words.forms) + 1),
        label_indices=torch.from_numpy(words.labels.astype(np.int32)),
        n_features=buckets + len(languages),
        n_labels=len(words.label_names),
        label_names=words.label_names,
        sample_names=words.forms,
    )


def _features(
    forms: Sequence[str],
    marks: npt.NDArray[np.int64],
    ngrams: Sequence[int],
    buckets: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Features of some forms: of each, its mark, then its n-grams from short to long.

    Args:
        forms: The forms.
        marks: A feature to give to each.
        ngrams: Lengths of the n-grams.
        buckets: Number of features to hash them to.

    Returns:
        The number of features of each form, and all features one form after the other.
    """
    text = "".join(f"{_BEGIN}{form}{_END}" for form in forms)
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    lengths = np.array([len(form) + 2 for form in forms], dtype=np.int64)
    begins = np.cumsum(lengths) - lengths
    word = np.repeat(np.arange(len(forms)), lengths)
    position = np.arange(len(characters)) - begins[word]

    per_size = [np.maximum(lengths - size + 1, 0) for size in ngrams]
    counts = np.ones_like(lengths) + sum(per_size)
    ends = np.cumsum(counts)
    indices = np.empty(int(ends[-1]) if len(forms) else 0, dtype=np.int32)
    # How many features each form needs is known, so each n-gram goes straight to its place.
    free = ends - counts
    indices[free] = marks
    free += 1
    for size, per_form in zip(ngrams, per_size, strict=True):
        starts = np.flatnonzero(position <= lengths[word] - size)
        hashes = _hash_ngrams(characters, starts, size) % np.uint64(buckets)
        indices[free[word[starts]] + position[starts]] = hashes.astype(np.int32)
        free += per_form
    return counts, indices


def _hash_ngrams(
    characters: npt.NDArray[np.uint32], starts: npt.NDArray[np.int64], size: int
) -> U64Array:
    """Hash the n-grams of one length that begin at ``starts``."""
    hashes = np.full(len(starts), size, dtype=np.uint64)
    for shift in range(size):
        hashes = hashes * _MULTIPLIER + characters[starts + shift]
    return mix(hashes)


def _read_dictionary(language: str) -> list[tuple[str, str]]:
    """Pairs of form and lemma of a language, sorted."""
    from simplemma.strategies.dictionaries.dictionary_factory import DefaultDictionaryFactory

    # A factory of our own, so that simplemma's does not keep what we read once.
    return sorted(DefaultDictionaryFactory(cache_max_size=0).get_dictionary(language).items())


def _simplemma_version() -> str:
    """Version of simplemma; the place where its absence is reported."""
    try:
        return importlib.metadata.version("simplemma")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(
            "load_lemmas needs the dictionaries of simplemma: pip install 'torch-hashdl[cli]'"
        ) from None


def _check_arguments(
    languages: Sequence[str],
    ngrams: Sequence[int],
    buckets: int,
    min_forms: int,
    max_labels: int | None,
) -> None:
    if not languages:
        raise ValueError("languages must name at least one language")
    if not ngrams or ngrams[0] < 1:
        raise ValueError(f"ngrams must be one or more positive lengths, got {ngrams}")
    if not 1 <= buckets < 2**31 - len(languages):
        raise ValueError(f"buckets must be positive and fit 32 bits, got {buckets}")
    if min_forms < 1:
        raise ValueError(f"min_forms must be at least 1, got {min_forms}")
    if max_labels is not None and max_labels < 1:
        raise ValueError(f"max_labels must be at least 1, got {max_labels}")


def _where(mask: npt.NDArray[np.bool_]) -> torch.Tensor:
    return torch.from_numpy(np.flatnonzero(mask))
