"""The command line: ``python -m hashdl demo | train | tune | tune-training | info``."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hashdl.config import HashConfig
from hashdl.errors import first_line
from hashdl.files import check_file_writable, check_writable
from hashdl.hashing import FAMILIES
from hashdl.info import build_info
from hashdl.memory import keep_large_blocks
from hashdl.ops import SELECTIONS

if TYPE_CHECKING:
    from hashdl.data import SparseDataset

_DESCRIPTION = """\
Large PyTorch layers that cost what they use.

  python -m hashdl demo              train one model three ways and compare them (minutes)
  python -m hashdl demo --quick      the same on a small part of the data (under a minute)
  python -m hashdl train --data …    train a classifier with a huge output layer
  python -m hashdl tune FILE.npz     search how to hash a matrix for queries like those given
  python -m hashdl tune-training --data …
                                     search how to hash an output layer that is trained
  python -m hashdl info              versions, build and instruction set
"""

_DATA = """\
data:
  xmc:TRAIN,TEST    two files in the text format of the Extreme Classification Repository:
                    a header "samples features labels", then lines "l1,l2 f:v f:v"
  lemmas            word forms to lemmas, in several languages (needs simplemma)
  python_source     the identifier in the middle of a window of Python tokens
"""

_TRAIN_DESCRIPTION = f"""\
Train an embedding bag, a hidden layer and a huge output layer on sparse features.

{_DATA}
examples:
  python -m hashdl train --data xmc:train.txt,test.txt
  python -m hashdl train --data xmc:train.txt,test.txt --head dense --lr 2e-3
  python -m hashdl train --data lemmas --epochs 5 --resume

Ctrl-C ends the step, saves a checkpoint in the output folder and stops; --resume goes on from it.
"""


_TUNE_DESCRIPTION = """\
Search families, preparations, sizes, probes, caps and sketches for the configuration that finds
the largest outputs of a matrix at the least cost, measured on its own queries.

The file has arrays W (N, d), b (N,) if there is one, and queries (Q, d), a thousand or more:
    numpy.savez("layer.npz", W=layer.weight, b=layer.bias, queries=inputs)

examples:
  python -m hashdl tune layer.npz --recall 0.95 --touched 0.04
  python -m hashdl tune layer.npz --ms 0.2 --batch 32 --json tried.json --index layer.index

Exit status: 0 where the targets are met, 1 where they are not, 2 for an error.
"""


# More end in a crash of the threads' library, where it cannot make them.
_MOST_THREADS = 1024

_TUNE_TRAINING_DESCRIPTION = f"""\
Train as `train` does for some steps, then search the way of hashing with which the output layer
learns most in the same time: copies of it race.

{_DATA}
examples:
  python -m hashdl tune-training --data xmc:train.txt,test.txt
  python -m hashdl tune-training --data lemmas --active 200 --families simhash kmeans dwta

The configuration given by the flags of hashing is where the search begins; its number of active
rows stays.
"""


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a whole number of 1 or more")
    return int(text)


def _threads(text: str) -> int:
    count = _positive(text)
    if count > _MOST_THREADS:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted at most {_MOST_THREADS}")
    return count


def _finite(text: str) -> float:
    """A number; NaN, which is in no range, where the text is none or it is infinite."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _above_zero(text: str) -> float:
    value = _finite(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a number above 0")
    return value


def _not_negative(text: str) -> float:
    value = _finite(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a number of 0 or more")
    return value


def _rows(text: str) -> float | int:
    """A number of rows ("200") or a share ("0.05")."""
    try:
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        wanted = "wanted a number of rows (200) or a share (0.05)"
        raise argparse.ArgumentTypeError(f"got {text!r}, {wanted}") from None


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hashdl",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hashdl {build_info()['hashdl']}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_demo(commands.add_parser("demo", help="train one model three ways and compare them"))
    _add_train(
        commands.add_parser(
            "train",
            help="train a classifier with a huge output layer",
            description=_TRAIN_DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _add_tune(
        commands.add_parser(
            "tune",
            help="search how to hash a matrix, for queries like those given",
            description=_TUNE_DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _add_tune_training(
        commands.add_parser(
            "tune-training",
            help="search how to hash an output layer that is trained",
            description=_TUNE_TRAINING_DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    info = commands.add_parser("info", help="versions, build and instruction set")
    info.set_defaults(run=run_info)
    return parser


def _add_common(parser: argparse._ActionsContainer, folder: str) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path(folder), help=f"output folder (default: {folder})"
    )
    _add_drawn(parser)


def _add_drawn(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--threads", type=_threads, help="threads (default: torch's)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default: 0)")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a small part of the data")
    parser.add_argument(
        "--search-rates",
        action="store_true",
        help="instead, try every contender's learning rates on a validation part (half an hour)",
    )
    _add_common(parser, "hashdl-demo")
    parser.set_defaults(run=run_demo)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="see above")
    parser.add_argument(
        "--head",
        choices=("hashed", "dense", "sampled"),
        default="hashed",
        help="output layer (default: hashed)",
    )
    run = _add_training(parser)
    run.add_argument(
        "--negatives", type=_positive, default=1000, help="draws of --head sampled (default: 1000)"
    )
    run.add_argument("--resume", action="store_true", help="go on from the output folder")
    run.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well")
    _add_common(run, "hashdl-train")
    _add_config(parser.add_argument_group("hashing (--head hashed)"))
    parser.set_defaults(run=run_train)


def _add_training(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    run = parser.add_argument_group("training")
    run.add_argument("--hidden", type=_positive, default=128, help="hidden units (default: 128)")
    run.add_argument(
        "--init-std", type=_not_negative, default=0.1, help="of the first embedding (default: 0.1)"
    )
    run.add_argument("--epochs", type=_above_zero, default=3.0, help="passes (default: 3)")
    run.add_argument("--batch-size", type=_positive, default=256, help="samples (default: 256)")
    run.add_argument(
        "--lr", type=_above_zero, default=5e-3, help="Adam's first rate (default: 5e-3)"
    )
    return run


def _add_tune_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="see above")
    parser.add_argument(
        "--after",
        type=_positive,
        default=300,
        metavar="STEPS",
        help="of training, half of them all at most, before the search (default: 300)",
    )
    parser.add_argument(
        "--seconds",
        type=_above_zero,
        help="let whole trainings race, each as long as this (default: the output layer alone, "
        "after a few steps)",
    )
    _add_search(parser)
    _add_training(parser)
    _add_config(parser.add_argument_group("hashing, to begin with"))
    parser.set_defaults(run=run_tune_training)


def _add_tune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.npz", help="W, b if there is one, queries")
    targets = parser.add_argument_group("targets")
    targets.add_argument("--recall", type=float, help="share of the k best found (default: 0.95)")
    targets.add_argument("--touched", type=float, help="largest share of rows read")
    targets.add_argument("--ms", type=float, help="most milliseconds a query")
    parser.add_argument("--k", type=_positive, default=10, help="outputs that count (default: 10)")
    parser.add_argument("--batch", type=_positive, default=1, help="queries a call (default: 1)")
    _add_search(parser)
    parser.add_argument("--index", type=Path, metavar="FILE", help="save the best index here")
    parser.set_defaults(run=run_tune)


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--families", nargs="+", choices=sorted(FAMILIES), help="to try (default: all)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was tried here")
    _add_drawn(parser)


def _add_config(group: argparse._ArgumentGroup) -> None:
    default = TRAIN_CONFIG
    group.add_argument(
        "--family",
        choices=sorted(FAMILIES),
        default=default.family,
        help=f"of hash functions (default: {default.family})",
    )
    group.add_argument("--bits", type=_positive, help="K, bits a table (default: by size)")
    numbers: dict[str, tuple[Callable[[str], float], str]] = {
        "tables": (_positive, "L, tables"),
        "probes": (_positive, "P, buckets read in each table"),
        "cap": (_positive, "most rows read from a bucket"),
        "candidates": (_positive, "C, most rows that a sample ranks"),
        "active": (_rows, "A, rows that a sample computes, or a share of all"),
        "random": (_rows, "of these, drawn at random: rows or a share"),
        "shared": (int, "rows that all samples of a batch compute"),
    }
    for name, (kind, meaning) in numbers.items():
        value = getattr(default, name)
        text = f"{meaning} (default: {value})"
        group.add_argument(f"--{name}", type=kind, default=value, metavar="N", help=text)
    group.add_argument(
        "--selection",
        choices=SELECTIONS,
        default=default.selection,
        help=f"how candidates are ranked (default: {default.selection})",
    )
    group.add_argument(
        "--log-q",
        type=float,
        default=default.log_q,
        metavar="SHARE",
        help=f"how far drawn rows are corrected for, 0 to 1 (default: {default.log_q})",
    )
    group.add_argument(
        "--rehash-every",
        type=_positive,
        help="steps that a rehash is spread over (default: by size)",
    )


#: What ``train`` hashes with unless told otherwise.
TRAIN_CONFIG = HashConfig(
    active=100, shared=2000, candidates=400, tables=16, cap=64, sparse_grad=True
)


def _config(args: argparse.Namespace) -> HashConfig:
    names = {field.name for field in dataclasses.fields(HashConfig)}
    chosen = {name: value for name, value in vars(args).items() if name in names}
    return TRAIN_CONFIG.replace(**chosen)


def load_data(spec: str) -> tuple[SparseDataset, SparseDataset]:
    """Training and held-out samples of a ``--data`` argument.

    Raises:
        ValueError: not a known form, or the two files do not fit together.
    """
    from hashdl.data import load_lemmas, load_python_source, read_xmc

    kind, _, paths = spec.partition(":")
    if spec == "lemmas":
        return load_lemmas()
    if spec == "python_source":
        return load_python_source()
    if kind != "xmc" or paths.count(",") != 1:
        raise ValueError(f"--data: got {spec!r}, wanted xmc:TRAIN,TEST or lemmas or python_source")
    files = paths.split(",")
    train, test = (read_xmc(path) for path in files)
    for path, samples in zip(files, (train, test), strict=True):
        if len(samples) == 0:
            raise ValueError(f"--data: {path} has no samples")
    if (train.n_features, train.n_labels) != (test.n_features, test.n_labels):
        raise ValueError(
            f"--data: the two files differ: {train.n_features} features and {train.n_labels} "
            f"labels, {test.n_features} and {test.n_labels}"
        )
    return train, test


def _check_results(*files: Path | None) -> None:
    """Of the files that were asked for: fail before the work, not after it."""
    for file in files:
        if file is not None:
            check_file_writable(file)


def run_info(args: argparse.Namespace) -> None:
    """Print versions, build and instruction set."""
    for name, value in build_info().items():
        print(f"{name:14} {value}")


def run_demo(args: argparse.Namespace) -> None:
    """Run the demo."""
    from hashdl.demo import run, search_rates

    action = search_rates if args.search_rates else run
    action(args.out, quick=args.quick, seed=args.seed)


def run_train(args: argparse.Namespace) -> int:
    """Train one classifier."""
    from hashdl.training.run import check_resumable, train_classifier
    from hashdl.training.trainer import Settings

    config = _config(args)
    if args.resume:
        check_resumable(args.out)
    check_writable(args.out)
    _check_results(args.json)
    train, test = load_data(args.data)
    report = train_classifier(
        train,
        test,
        head=args.head,
        config=config,
        negatives=args.negatives,
        hidden=args.hidden,
        init_std=args.init_std,
        settings=Settings(
            epochs=args.epochs, batch_size=args.batch_size, lr=args.lr, seed=args.seed
        ),
        folder=args.out,
        resume=args.resume,
    )
    if args.json is not None:
        from hashdl.training.report import write_json

        write_json(args.json, report)
    result = report["contenders"][args.head]
    for name in ("p1", "p3", "p5", "top1", "top3", "top5"):
        if name in result:
            print(f"{_METRICS[name]:6} {result[name]:.4f}")
    print(f"{result['train_seconds']:.1f} s of training, {result['step_ms']:.1f} ms a step")
    print(f"result and checkpoint in {args.out}")
    return 130 if result["interrupted"] else 0


def run_tune_training(args: argparse.Namespace) -> None:
    """Search how to hash an output layer that is trained."""
    from hashdl.training.trainer import Settings
    from hashdl.training.tuning import tune_classifier

    config = _config(args)
    _check_results(args.json)
    train, _ = load_data(args.data)
    settings = Settings(args.epochs, args.batch_size, args.lr, args.seed)
    result = tune_classifier(
        train,
        config=config,
        hidden=args.hidden,
        init_std=args.init_std,
        settings=settings,
        after=args.after,
        families=args.families,
        seconds=args.seconds,
    )
    print(result)
    if args.json is not None:
        names = ("data", "after", "seconds", "hidden", "init_std", "families")
        _write_tried(args.json, dataclasses.asdict(settings), args, names, result.figures())


def _write_tried(
    path: Path,
    settings: dict[str, Any],
    args: argparse.Namespace,
    names: Sequence[str],
    figures: dict[str, Any],
) -> None:
    from hashdl.training.measure import machine
    from hashdl.training.report import write_json

    settings |= {name: getattr(args, name) for name in names}
    write_json(path, {"machine": machine(), "settings": settings} | figures)


def run_tune(args: argparse.Namespace) -> int:
    """Search how to hash a matrix."""
    from hashdl.data import load_matrix
    from hashdl.tuning import tune

    _check_results(args.json, args.index)
    linear, queries = load_matrix(args.file)
    result = tune(
        *(linear, queries),
        target_recall=args.recall,
        max_touched=args.touched,
        max_ms=args.ms,
        k=args.k,
        batch=args.batch,
        families=args.families,
        seed=args.seed,
    )
    print(result)
    if args.json is not None:
        names = ("recall", "touched", "ms", "k", "batch")
        _write_tried(args.json, {}, args, names, result.figures())
    if args.index is not None:
        result.layer.save_index(args.index)
    return 0 if result.met else 1


_METRICS = {f"p{k}": f"P@{k}" for k in (1, 3, 5)} | {f"top{k}": f"top-{k}" for k in (1, 3, 5)}


def _is_about_input(error: Exception) -> bool:
    """Whether it is what the user asked for that cannot be, and not the program that is wrong.

    Of RuntimeErrors, those of our own checks and of memory that there is not.
    """
    if isinstance(error, ValueError | OSError | ImportError | MemoryError):
        return True
    words = ("hashdl", "alloc", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _explained(error: Exception) -> str:
    """What went wrong: of a file, its name first; of a module that is missing, where it is from."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}: pip install 'torch-hashdl[cli]'"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return first_line(error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = build_parser().parse_args(arguments)
    keep_large_blocks()
    if getattr(args, "threads", None):
        torch.set_num_threads(args.threads)
    try:
        return args.run(args) or 0
    except Exception as error:
        if not _is_about_input(error):
            raise
        print(f"hashdl: error: {_explained(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hashdl: interrupted", file=sys.stderr)
        return 130
