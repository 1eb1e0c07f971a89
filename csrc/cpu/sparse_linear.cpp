#include "cpu/sparse_linear.h"

#include "cpu/row_blocks.h"
#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

/// The active inputs of one sample without padding.
template <typename A>
struct Inputs {
  explicit Inputs(int64_t I) : columns(new int32_t[I]), values(new A[I]) {}
  Inputs(const Inputs&) = delete;
  Inputs& operator=(const Inputs&) = delete;
  ~Inputs() {
    delete[] columns;
    delete[] values;
  }

  template <typename T>
  void take(const int32_t* ids, const T* numbers, int64_t I) {
    count = 0;
    for (int64_t i = 0; i < I; ++i) {
      if (ids[i] < 0) continue;
      columns[count] = ids[i];
      values[count++] = load1(numbers + i);
    }
  }

  int32_t* columns;
  A* values;
  int64_t count = 0;
};

/// out[r] = sum over the inputs of value * w[r][column], for R rows at once.
template <int R, typename T>
HASHDL_INLINE void gather_dot(const Inputs<Accumulate<T>>& inputs, const T* const (&w)[R],
                              Accumulate<T> (&out)[R]) {
  using A = Accumulate<T>;
  constexpr int64_t lanes = VecOf<A>::lanes;
  Vec<A> sums[R] = {};
  int64_t i = 0;
  for (; i + lanes <= inputs.count; i += lanes) {
    const Vec<A> value = load(inputs.values + i);
    for (int r = 0; r < R; ++r) {
      Vec<A> entries = {};
      for (int64_t l = 0; l < lanes; ++l) entries[l] = load1(w[r] + inputs.columns[i + l]);
      sums[r] += value * entries;
    }
  }
  for (int r = 0; r < R; ++r) out[r] = reduce<A>(sums[r]);
  for (; i < inputs.count; ++i) {
    for (int r = 0; r < R; ++r) out[r] += inputs.values[i] * load1(w[r] + inputs.columns[i]);
  }
}

template <typename T>
void forward(const SparseForward<T>& args, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  Inputs<A> inputs(args.I);
  const int64_t blocks = row_blocks(args.A);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t b = unit / blocks, first = unit % blocks * kRowBlock;
    if (unit == begin || first == 0) {
      inputs.take(args.columns + b * args.I, args.values + b * args.I, args.I);
    }
    const int64_t count = args.A - first < kRowBlock ? args.A - first : kRowBlock;
    const int32_t* rows = args.rows + b * args.A + first;
    T* z = args.z + b * args.A + first;
    for (int64_t a = 0; a < count; ++a) store1(z + a, A(0));
    const auto block = [&](int64_t a, const T* const(&w)[kRows], const bool (&used)[kRows]) {
      A out[kRows];
      gather_dot<kRows>(inputs, w, out);
      for (int r = 0; r < kRows; ++r) {
        if (!used[r]) continue;
        const A bias = args.bias ? A(load1(args.bias + rows[a + r])) : A(0);
        store1(z + a + r, out[r] + bias);
      }
    };
    // Nothing is fetched ahead: of a row a few scattered entries are read.
    for_row_blocks(args.weight, rows, count, args.d, 0, block);
  }
}

template <typename T>
void backward_input(const SparseBackwardInput<T>& args, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  A* sum = new A[args.I];
  for (int64_t b = begin; b < end; ++b) {
    const int32_t* columns = args.columns + b * args.I;
    const int32_t* rows = args.rows + b * args.A;
    const T* grad_z = args.grad_z + b * args.A;
    for (int64_t i = 0; i < args.I; ++i) sum[i] = A(0);
    const auto block = [&](int64_t a, const T* const(&w)[kRows], const bool (&used)[kRows]) {
      A g[kRows];
      for (int r = 0; r < kRows; ++r) g[r] = used[r] ? A(load1(grad_z + a + r)) : A(0);
      for (int64_t i = 0; i < args.I; ++i) {
        if (columns[i] < 0) continue;
        for (int r = 0; r < kRows; ++r) sum[i] += g[r] * load1(w[r] + columns[i]);
      }
    };
    for_row_blocks(args.weight, rows, args.A, args.d, 0, block);
    for (int64_t i = 0; i < args.I; ++i) store1(args.grad_values + b * args.I + i, sum[i]);
  }
  delete[] sum;
}

/// A set of columns: a bit a column, and a bit a word of these, so that a few members of a large
/// range are found in order without looking at all of it.
class ColumnSet {
 public:
  explicit ColumnSet(int64_t d)
      : words_((d + 63) / 64),
        tops_((words_ + 63) / 64),
        bits_(new uint64_t[words_]()),
        top_(new uint64_t[tops_]()) {}
  ColumnSet(const ColumnSet&) = delete;
  ColumnSet& operator=(const ColumnSet&) = delete;
  ~ColumnSet() {
    delete[] bits_;
    delete[] top_;
  }

  HASHDL_INLINE void add(int32_t column) {
    const int64_t word = column >> 6;
    bits_[word] |= uint64_t{1} << (column & 63);
    top_[word >> 6] |= uint64_t{1} << (word & 63);
  }

  /// body(column) for each member, ascending; the set is empty after.
  template <typename Body>
  HASHDL_INLINE void take_all(const Body& body) {
    for (int64_t t = 0; t < tops_; ++t) {
      for (; top_[t] != 0; top_[t] &= top_[t] - 1) {
        const int64_t word = t * 64 + __builtin_ctzll(top_[t]);
        for (; bits_[word] != 0; bits_[word] &= bits_[word] - 1) {
          body(static_cast<int32_t>(word * 64 + __builtin_ctzll(bits_[word])));
        }
      }
    }
  }

 private:
  int64_t words_, tops_;
  uint64_t* bits_;
  uint64_t* top_;
};

/// body(column, pair, input) for the active inputs of all pairs of a group, in order.
template <typename T, typename Body>
HASHDL_INLINE void for_inputs(const SparseBackwardWeight<T>& args, int64_t group,
                              const Body& body) {
  for (int64_t p = args.start[group]; p < args.start[group + 1]; ++p) {
    const int64_t pair = args.pair[p], first = pair / args.A * args.I;
    for (int64_t i = first; i < first + args.I; ++i) {
      if (args.columns[i] >= 0) body(args.columns[i], pair, i);
    }
  }
}

template <typename T>
void count(const SparseBackwardWeight<T>& args, int64_t begin, int64_t end) {
  ColumnSet met(args.d);
  for (int64_t group = begin; group < end; ++group) {
    for_inputs(args, group, [&](int32_t column, int64_t, int64_t) { met.add(column); });
    int64_t entries = 0;
    met.take_all([&](int32_t) { ++entries; });
    args.entry_start[group + 1] = entries;
  }
}

template <typename T>
void backward_weight(const SparseBackwardWeight<T>& args, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  ColumnSet met(args.d);
  A* sum = new A[args.d]();
  for (int64_t group = begin; group < end; ++group) {
    for_inputs(args, group, [&](int32_t column, int64_t pair, int64_t i) {
      met.add(column);
      sum[column] += load1(args.grad_z + pair) * load1(args.values + i);
    });
    int64_t entry = args.entry_start[group];
    met.take_all([&](int32_t column) {
      args.entry_column[entry] = column;
      store1(args.grad_weight + entry++, sum[column]);
      sum[column] = A(0);
    });
    A bias = A(0);
    for (int64_t p = args.start[group]; p < args.start[group + 1]; ++p) {
      bias += load1(args.grad_z + args.pair[p]);
    }
    store1(args.grad_bias + group, bias);
  }
  delete[] sum;
}

}  // namespace

template <typename T>
const SparseLinearKernels<T>& sparse_linear_kernels() {
  static constexpr SparseLinearKernels<T> kernels{forward<T>, backward_input<T>, count<T>,
                                                  backward_weight<T>};
  return kernels;
}

template const SparseLinearKernels<float>& sparse_linear_kernels<float>();
template const SparseLinearKernels<double>& sparse_linear_kernels<double>();
template const SparseLinearKernels<BFloat16>& sparse_linear_kernels<BFloat16>();
template const SparseLinearKernels<Half>& sparse_linear_kernels<Half>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
