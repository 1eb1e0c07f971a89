"""Write the roofline table into docs/cuda.md: ``python docs/update_roofline.py``.

What each kernel must move and multiply in a training step of one large layer, and how long an H200
takes for it at least. Nothing here is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "cuda.md"
BEGIN, END = "<!-- roofline:begin -->\n", "<!-- roofline:end -->\n"

# NVIDIA's figures for the H200 SXM: memory, dense bf16 matrix products, float32 elsewhere.
BYTES_A_SECOND, MATRIX_FLOPS, FLOPS = 4.8e12, 989e12, 67e12
SECTOR = 32  # bytes: the least that is read from memory
LAUNCH = 3e-6  # seconds a kernel takes to start, where the one before it is over
# Kernels that are mere glue, not worth a line.
NOT_WORTH_A_LINE = {
    "adam_constants_kernel": "one thread, once a step, where the number of the step is on the GPU",
}


@dataclass(frozen=True)
class Layer:
    """Sizes of a step; letters as in docs/architecture.md, 16-bit weights."""

    N: int
    B: int = 1024
    d: int = 256
    L: int = 8
    K: int = 16
    P: int = 4
    C: int = 300
    cap: int = 64
    A: int = 200

    @property
    def pairs(self) -> int:
        """(sample, row) pairs."""
        return self.B * self.A

    @property
    def U(self) -> int:
        """Distinct rows of a batch, if rows are met alike often."""
        return round(self.N * (1 - (1 - 1 / self.N) ** self.pairs))

    @property
    def bucket(self) -> int:
        """Rows read from a bucket."""
        return min(self.cap, max(1, self.N >> self.K))


@dataclass(frozen=True)
class Work:
    """What one kernel, or a few in a row, move between memory and chip, and compute.

    ``kernels`` are their names in csrc/cuda.
    """

    name: str
    moved: float
    flops: float = 0
    rate: float = FLOPS
    launches: int = 1
    kernels: tuple[str, ...] = ()

    @property
    def started(self) -> float:
        """Seconds with the start of its launches."""
        return self.seconds + LAUNCH * self.launches

    @property
    def seconds(self) -> float:
        """At least."""
        return max(self.moved / BYTES_A_SECOND, self.flops / self.rate)


def sectors(count: int) -> int:
    """Bytes read for so many at a random place."""
    return -(-count // SECTOR) * SECTOR


def group_rows(s: Layer) -> Work:
    """Pairs sorted by row."""
    passes = -(-s.N.bit_length() // 8)  # of a radix sort, 8 bits each
    moved = s.pairs * (16 * passes + 40) + s.U * 12
    kernels = ("make_keys", "mark_firsts", "write_groups", "pad_groups")
    return Work("group_rows", moved, launches=5 + passes, kernels=kernels)


def hashed_step(s: Layer) -> list[Work]:
    """The kernels of a hashed layer's step, exact selection and Adam with float32 states."""
    B, d, LK = s.B, s.d, s.L * s.K
    buckets, row = B * s.L * s.P, 2 * d
    return [
        Work("projections (torch)", B * d * 2 + d * LK * 4 + B * LK * 4, 2 * B * d * LK),
        Work("probe_signs", B * LK * 4 + buckets * 4, kernels=("probe_kernel",)),
        Work(
            "lookup",
            buckets * (4 + SECTOR + sectors(4 * s.bucket)) + B * s.C * 8,
            kernels=("lookup_kernel",),
        ),
        Work(
            "gather_forward, C candidates",
            B * s.C * (row + 4 + 2) + B * row,
            2 * B * s.C * d,
            kernels=("forward_kernel",),
        ),
        Work("widen, C scores", B * s.C * (2 + 4), kernels=("widen_kernel",)),
        Work("select", B * s.C * 8 + s.pairs * 8, kernels=("select_kernel",)),
        Work("reuse_scores", B * s.C * 2 + s.pairs * (4 + 2), kernels=("reuse_kernel",)),
        Work("gather_forward, the label", B * (2 * row + 4 + 2), 2 * B * d),
        Work("find_labels", B * (4 + SECTOR + 4), kernels=("find_labels_kernel",)),
        Work(
            "active_log_prob, forward and backward",
            s.pairs * (4 + 2) * 2 + s.pairs * 2,
            launches=2,
            kernels=("log_prob_kernel", "backward_kernel"),
        ),
        group_rows(s),
        Work(
            "gather_backward_input",
            s.pairs * (row + 6) + B * row,
            2 * s.pairs * d,
            kernels=("backward_input_kernel",),
        ),
        Work(
            "gather_backward_weight",
            s.pairs * 8 + B * row + s.U * row,
            2 * s.pairs * d,
            kernels=("backward_weight_kernel",),
        ),
        Work("adam_rows_", s.U * d * (2 + 2 * 2 + 4 * 4), 12 * s.U * d, kernels=("adam_kernel",)),
        Work(
            "build_tables, one table in a while",
            s.N * (16 * 2 + 12) + (4 << s.K),
            kernels=("count_up", "find_offsets"),
        ),
    ]


def other_kernels(s: Layer) -> list[Work]:
    """Those of other families and choices, and of tables' upkeep."""
    B, d = s.B, s.d
    row, scored = 2 * d, B * s.C
    labels, T = B * 8, 2 * B
    return [
        *other_families(s),
        Work(
            "sketch_scores, d bits a row",
            scored * (d // 8 + SECTOR + 8) + B * d * 4,
            scored * d,
            kernels=("scores_kernel",),
        ),
        Work(
            "sketch_scores, d codes of sixteen levels a row",
            scored * (d // 2 + SECTOR + 8) + B * d * 4,
            2 * scored * d,
            kernels=("level_scores_kernel",),
        ),
        Work("rank_by_hits", scored * (4 + 4), kernels=("rank_by_hits_kernel",)),
        Work("distinct_labels, 8 a sample", labels * (4 + 4), kernels=("distinct_labels_kernel",)),
        Work("shared_rows, B labels and as many draws", B * 3 * 4, kernels=("shared_rows_kernel",)),
        Work(  # first a map is filled, of twice as many slots of two words
            "find_shared, of 2 B rows",
            s.pairs * (4 + 4) + T * (4 + 2 * 2 * 4 * 2),
            launches=3,
            kernels=("fill_kernel", "find_shared_kernel"),
        ),
        Work(
            "best_outputs of find_best and search, 10 best",
            s.pairs * 6 + B * 10 * 10,
            kernels=("best_outputs_kernel",),
        ),
        Work("scatter_rows, without the fill", s.pairs * (6 + SECTOR), kernels=("scatter_kernel",)),
        Work("combine_rows", s.pairs * (row + 6) + B * row, 2 * s.pairs * d),
        Work("row_ids", s.U * (8 + 4), kernels=("row_ids_kernel",)),
        Work(
            "sgd_rows_, with momentum",
            s.U * d * (2 + 2 * 2 + 2 * 4),
            4 * s.U * d,
            kernels=("sgd_kernel",),
        ),
        Work(
            "adagrad_rows_",
            s.U * d * (2 + 2 * 2 + 2 * 4),
            6 * s.U * d,
            kernels=("adagrad_kernel",),
        ),
        Work("mark_rows_", s.pairs * 4 + s.U * SECTOR, kernels=("mark_rows_kernel",)),
        Work(
            "limit_buckets, one table in a while",
            s.N * 4 * 2 + (16 << s.K),
            launches=5,
            kernels=("count_kept", "limit_kernel"),
        ),
    ]


def other_families(s: Layer) -> list[Work]:
    """What hashes rows and queries."""
    buckets, D = s.B * s.L * s.P, s.d + 1
    n = 1 << (D - 1).bit_length()
    # Digits of 3 bits have 8 slots; the last one has those of the bits that are left.
    slots = s.L * (s.K // 3 * 8 + (1 << s.K % 3 if s.K % 3 else 0))
    runs = -(-s.L * s.K // n)
    butterflies = s.B * runs * 3 * n * (n.bit_length() - 1)
    hashed, columns = 4096, s.L * 256  # rows of a step of rehashing, centroids of all tables
    return [
        Work("pack_signs", s.B * s.L * (s.K + 1) * 4, kernels=("pack_signs_kernel",)),
        Work(
            "hadamard_projections",
            s.B * (D + s.L * s.K) * 4,
            butterflies,
            launches=2,
            kernels=("find_runs_kernel", "hadamard_kernel"),
        ),
        Work(
            "densified_projections",
            s.B * (D + slots) * 4,
            launches=2,
            kernels=("find_runs_kernel", "densify_kernel"),
        ),
        Work("pack_digits", s.B * (slots + s.L) * 4, kernels=("pack_digits_kernel",)),
        Work("probe_digits", s.B * slots * 4 + buckets * 4, kernels=("probe_kernel",)),
        Work(
            "best_columns, of 256 a table",
            s.B * s.L * 256 * 4 + buckets * 4,
            kernels=("best_columns_kernel",),
        ),
        Work(  # scores are written and read
            f"nearest_columns, {hashed:,} rows by a product (torch) and best_columns",
            hashed * (s.d + 2 * columns + s.L) * 4 + D * columns * 4,
            2 * hashed * D * columns,
            launches=2,
        ),
    ]


def gathers_of_reused_rows(s: Layer) -> list[tuple[str, list[Work]]]:
    """The two ways of gather_linear where most rows have many samples, by title."""
    B, row, product = s.B, 2 * s.d, 2 * s.pairs * s.d
    # A weight of this size stays in no cache; inputs do, and are read by each pair from there.
    by_sample = Work("gather_forward", s.pairs * (row + 4 + 2) + B * row, product)
    by_row = Work(
        "gather_forward_by_row",
        s.pairs * (4 + 2 + 2) + (s.U + B) * row,
        product,
        kernels=("forward_by_row_kernel",),
    )
    return [("a sample at a time", [by_sample]), ("a row at a time", [group_rows(s), by_row])]


def sparse_kernels(s: Layer) -> list[Work]:
    """Those of a hidden layer with as many active inputs as active rows a sample."""
    entries = s.pairs * s.A  # (sample, row, input): in a large layer hardly two are alike
    inputs, room = s.B * s.A, min(s.pairs, s.N)
    gathered = entries * SECTOR + inputs * 6 + s.pairs * 6
    passes = -(-(s.B * (s.d + 1)).bit_length() // 8)  # of a radix sort of inputs, 8 bits each
    return [
        Work("gather_sparse_linear", gathered, 2 * entries, kernels=("sparse_forward_kernel",)),
        Work("backward to the inputs", gathered, 2 * entries, kernels=("sparse_input_kernel",)),
        group_rows(s),
        Work(
            "distinct inputs",
            inputs * (24 * passes + 30),
            launches=3 + passes,
            kernels=("input_keys_kernel", "distinct_inputs_kernel"),
        ),
        Work(
            "count of entries",
            entries * 4 + room * 24,
            launches=3,
            kernels=("count_entries_kernel", "entry_starts_kernel"),
        ),
        Work(
            "backward to the weight",
            entries * (4 + 8 + 6),
            2 * entries,
            launches=2,
            kernels=("sparse_weight_kernel", "pad_entries_kernel"),
        ),
    ]


def dense_step(s: Layer) -> list[Work]:
    """A dense layer, cross_entropy and fused AdamW with 16-bit states."""
    logits, weights = 2 * s.B * s.N, s.N * s.d
    product = 2 * s.B * weights
    return [
        Work("logits", 2 * weights + logits, product, MATRIX_FLOPS),
        Work("cross_entropy, forward and backward", 5 * logits),
        Work("gradient of the input", 2 * weights + logits, product, MATRIX_FLOPS),
        Work("gradient of the weight", 2 * weights + logits, product, MATRIX_FLOPS),
        Work("fused AdamW", weights * 2 * 7),
    ]


def inference(s: Layer) -> tuple[float, float]:
    """Seconds of dense logits, and of a look-up with exact scores."""
    hashed = hashed_step(s)[:4]
    return dense_step(s)[0].started, sum(work.started for work in hashed)


def break_even(hashed_seconds: float, *, training: bool, B: int) -> int:
    """Rows from which on a dense step takes longer than so many seconds."""
    N = 1024
    while True:
        layer = Layer(N=N, B=B)
        dense = dense_step(layer) if training else dense_step(layer)[:1]
        if sum(work.started for work in dense) > hashed_seconds:
            return N
        N = N * 5 // 4


def row_of(work: Work) -> str:
    """A line of the table."""
    return (
        f"| {work.name} | {work.moved / 1e6:,.1f} | {work.flops / 1e9:,.2f} "
        f"| {work.seconds * 1e6:,.1f} |"
    )


def table(title: str, works: list[Work]) -> str:
    """Markdown."""
    lines = [
        f"| {title} | MB | GFLOP | µs at least |",
        "|---|---|---|---|",
        *(row_of(work) for work in works),
    ]
    return "\n".join(lines)


def summed_table(title: str, works: list[Work]) -> str:
    """Of kernels that run one after the other."""
    seconds = sum(work.seconds for work in works)
    return f"{table(title, works)}\n| sum | | | {seconds * 1e6:,.0f} |"


def listed_kernels() -> set[str]:
    """Names in csrc/cuda of the kernels that have a line, or are not worth one."""
    s = Layer(N=10**6)
    works = [*hashed_step(s), *other_kernels(s), *sparse_kernels(s)]
    works += [work for _, way in gathers_of_reused_rows(s) for work in way]
    return set(NOT_WORTH_A_LINE).union(*(work.kernels for work in works))


def section() -> str:
    """What stands between the markers."""
    small, large = Layer(N=10**6), Layer(N=10**7)
    parts = [
        f"B = {small.B:,}, d = {small.d}, bf16, L = {small.L}, K = {small.K}, P = {small.P}, "
        f"cap = {small.cap}, C = {small.C}, A = {small.A}; rows met alike often: "
        f"U = {small.U:,} of 10⁶, {large.U:,} of 10⁷.",
    ]
    for name, layer in (("10⁶", small), ("10⁷", large)):
        parts.append(summed_table(f"hashed, N = {name}", hashed_step(layer)))
        parts.append(summed_table(f"dense, N = {name}", dense_step(layer)))
        dense, hashed = (sum(w.seconds for w in step(layer)) for step in (dense_step, hashed_step))
        parts.append(f"Ratio of the sums at N = {name}: {dense / hashed:.0f}.")
    parts.append(table("other families and choices, N = 10⁶", other_kernels(small)))
    reused = Layer(N=10**5, A=2000)
    for way, works in gathers_of_reused_rows(reused):
        title = f"gather_linear, {way}, N = {reused.N:,}, A = {reused.A:,}"
        parts.append(summed_table(title, works))
    hidden = Layer(N=10**5, d=10**5)
    title = f"active × active, N = d = {hidden.N:,}, I = A = {hidden.A}"
    parts.append(summed_table(title, sparse_kernels(hidden)))
    hashed = sum(work.started for work in hashed_step(small))
    training = break_even(hashed, training=True, B=small.B)
    lines = [
        f"With {LAUNCH * 1e6:.0f} µs for the start of each kernel, a dense training step takes as "
        f"long as the hashed one at N = 10⁶ from about {training:,} rows on."
    ]
    for B in (1024, 1):
        dense_time, hashed_time = inference(Layer(N=10**6, B=B))
        answer = break_even(hashed_time, training=False, B=B)
        lines.append(
            f"Inference with B = {B:,}: {dense_time * 1e6:,.1f} µs dense and "
            f"{hashed_time * 1e6:,.1f} µs hashed at N = 10⁶, even at about {answer:,} rows."
        )
    parts.append("\n".join(lines))
    return "\n" + "\n\n".join(parts) + "\n\n"


def main() -> None:
    """Rewrite the section between the markers."""
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + section() + END + after)


if __name__ == "__main__":
    main()
