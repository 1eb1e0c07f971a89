#include "cpu/gather_linear.h"

#include "cpu/row_blocks.h"
#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

/// out[r] = <x, w[r]> for R rows at once.
template <int R, typename T>
HASHDL_INLINE void dot_rows(const T* x, const T* const (&w)[R], int64_t d,
                            Accumulate<T> (&out)[R]) {
  using A = Accumulate<T>;
  constexpr int64_t lanes = VecOf<A>::lanes;
  Vec<A> sums[R] = {};
  int64_t k = 0;
  for (; k + lanes <= d; k += lanes) {
    const Vec<A> xk = load(x + k);
    for (int r = 0; r < R; ++r) sums[r] += xk * load(w[r] + k);
  }
  for (int r = 0; r < R; ++r) out[r] = reduce<A>(sums[r]);
  for (; k < d; ++k) {
    for (int r = 0; r < R; ++r) out[r] += load1(x + k) * load1(w[r] + k);
  }
}

/// y += sum over R rows of g[r] * w[r], with y in the accumulation type.
template <int R, typename T>
HASHDL_INLINE void add_rows(const T* const (&w)[R], const Accumulate<T> (&g)[R], int64_t d,
                            Accumulate<T>* y) {
  using A = Accumulate<T>;
  constexpr int64_t lanes = VecOf<A>::lanes;
  int64_t k = 0;
  for (; k + lanes <= d; k += lanes) {
    Vec<A> sum = load(y + k);
    for (int r = 0; r < R; ++r) sum += g[r] * load(w[r] + k);
    store(y + k, sum);
  }
  for (; k < d; ++k) {
    for (int r = 0; r < R; ++r) y[k] += g[r] * load1(w[r] + k);
  }
}

template <typename T>
void forward(const GatherForward<T>& args, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  for (int64_t b = begin; b < end; ++b) {
    const T* x = args.x + b * args.d;
    const int32_t* rows = args.rows + b * args.stride;
    T* z = args.z + b * args.stride;
    for (int64_t a = 0; a < args.A; ++a) store1(z + a, A(0));
    const auto block = [&](int64_t a, const T* const(&w)[kRows], const bool (&used)[kRows]) {
      A out[kRows];
      dot_rows<kRows>(x, w, args.d, out);
      for (int r = 0; r < kRows; ++r) {
        if (!used[r]) continue;
        const A bias = args.bias ? A(load1(args.bias + rows[a + r])) : A(0);
        store1(z + a + r, out[r] + bias);
      }
    };
    for_row_blocks(args.weight, rows, args.A, args.d, args.d, block);
  }
}

template <typename T>
void backward_input(const GatherBackwardInput<T>& args, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  A* sum = new A[kFeatureBlock];
  const int64_t blocks = feature_blocks(args.d);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t b = unit / blocks, first = unit % blocks * kFeatureBlock;
    const int64_t width = args.d - first < kFeatureBlock ? args.d - first : kFeatureBlock;
    const int32_t* rows = args.rows + b * args.A;
    const T* grad_z = args.grad_z + b * args.A;
    for (int64_t k = 0; k < width; ++k) sum[k] = A(0);
    const auto block = [&](int64_t a, const T* const(&w)[kRows], const bool (&used)[kRows]) {
      A g[kRows];
      for (int r = 0; r < kRows; ++r) g[r] = used[r] ? A(load1(grad_z + a + r)) : A(0);
      add_rows<kRows>(w, g, width, sum);
    };
    for_row_blocks(args.weight + first, rows, args.A, args.d, width, block);
    for (int64_t k = 0; k < width; ++k) store1(args.grad_x + b * args.d + first + k, sum[k]);
  }
  delete[] sum;
}

/// Whether all vectors of the rows' gradients are aligned, as `stream` wants.
template <typename T>
HASHDL_INLINE bool streams(const GatherBackwardWeight<T>& args) {
  const int64_t bytes = args.d * static_cast<int64_t>(sizeof(T));
  const auto first = reinterpret_cast<uintptr_t>(args.grad_weight);
  return args.streamed && bytes % kVectorBytes == 0 && first % kVectorBytes == 0;
}

/// One part of a row's gradient: the range [k, k + V * lanes) in registers over all its pairs.
template <int V, bool kStream, typename T>
HASHDL_INLINE void weight_chunk(const GatherBackwardWeight<T>& args, int64_t group, int64_t k) {
  using A = Accumulate<T>;
  constexpr int64_t lanes = VecOf<A>::lanes;
  Vec<A> sums[V] = {};
  for (int64_t i = args.start[group]; i < args.start[group + 1]; ++i) {
    const int64_t pair = args.pair[i];
    const bool extra = pair >= args.pairs;
    const T* source =
        extra ? args.extra_grad + (pair - args.pairs) * args.d : args.x + pair / args.A * args.d;
    const A g = extra ? A(1) : A(load1(args.grad_z + pair));
    for (int v = 0; v < V; ++v) sums[v] += g * load(source + k + v * lanes);
  }
  T* out = args.grad_weight + group * args.d + k;
  for (int v = 0; v < V; ++v) {
    if constexpr (kStream) {
      stream(out + v * lanes, sums[v]);
    } else {
      store(out + v * lanes, sums[v]);
    }
  }
}

template <typename T>
HASHDL_INLINE void weight_tail(const GatherBackwardWeight<T>& args, int64_t group, int64_t k) {
  using A = Accumulate<T>;
  A sum = A(0);
  for (int64_t i = args.start[group]; i < args.start[group + 1]; ++i) {
    const int64_t pair = args.pair[i];
    sum += pair >= args.pairs
               ? A(load1(args.extra_grad + (pair - args.pairs) * args.d + k))
               : A(load1(args.grad_z + pair)) * load1(args.x + pair / args.A * args.d + k);
  }
  store1(args.grad_weight + group * args.d + k, sum);
}

template <typename T>
HASHDL_INLINE void bias_gradient(const GatherBackwardWeight<T>& args, int64_t group) {
  using A = Accumulate<T>;
  A sum = A(0);
  for (int64_t i = args.start[group]; i < args.start[group + 1]; ++i) {
    const int64_t pair = args.pair[i];
    if (pair < args.pairs) {
      sum += load1(args.grad_z + pair);
    } else if (args.extra_bias != nullptr) {
      sum += load1(args.extra_bias + pair - args.pairs);
    }
  }
  store1(args.grad_bias + group, sum);
}

template <bool kStream, typename T>
HASHDL_INLINE void weight_gradients(const GatherBackwardWeight<T>& args, int64_t begin,
                                    int64_t end) {
  constexpr int64_t lanes = VecOf<Accumulate<T>>::lanes;
  for (int64_t group = begin; group < end; ++group) {
    int64_t k = 0;
    for (; k + 8 * lanes <= args.d; k += 8 * lanes) weight_chunk<8, kStream>(args, group, k);
    for (; k + lanes <= args.d; k += lanes) weight_chunk<1, kStream>(args, group, k);
    for (; k < args.d; ++k) weight_tail(args, group, k);
    if (args.grad_bias != nullptr) bias_gradient(args, group);
  }
}

template <typename T>
void backward_weight(const GatherBackwardWeight<T>& args, int64_t begin, int64_t end) {
  if (!streams(args)) return weight_gradients<false>(args, begin, end);
  weight_gradients<true>(args, begin, end);
  end_streaming();
}

template <typename T>
void widen(const T* values, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(load1(values + i));
}

}  // namespace

template <typename T>
const GatherLinearKernels<T>& gather_linear_kernels() {
  static constexpr GatherLinearKernels<T> kernels{forward<T>, backward_input<T>, backward_weight<T>,
                                                  widen<T>};
  return kernels;
}

template const GatherLinearKernels<float>& gather_linear_kernels<float>();
template const GatherLinearKernels<double>& gather_linear_kernels<double>();
template const GatherLinearKernels<BFloat16>& gather_linear_kernels<BFloat16>();
template const GatherLinearKernels<Half>& gather_linear_kernels<Half>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
