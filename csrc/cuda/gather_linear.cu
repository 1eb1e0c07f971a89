#include "cuda/gather_linear.h"

#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/numbers.h"

namespace hashdl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
// Rows that a warp has in flight at once: a row of 256 numbers of 16 bits is one load a lane, and
// one load a lane does not hide the way to memory and back.
constexpr int kRows = 4;
constexpr const char* kBadRow = "hashdl::gather_linear: rows: got an id outside -1 to N - 1";

/// The sample of a pair, of A a sample: by a division of 32 bits, for each lane has one to do for
/// each pair, and one of 64 bits takes several times as long.
__device__ inline int64_t sample_of(uint32_t pair, int64_t A) {
  return pair / static_cast<uint32_t>(A);
}

/// Columns of a row that a warp covers at once.
template <int V>
constexpr int kSpan = kWarp * V;

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(cpu::GatherForward<T> args, int64_t chunks, int64_t warps, int64_t N) {
  using A = Accumulate<T>;
  const int64_t w = thread_index() / kWarp;
  if (w >= warps) return;
  const int64_t b = w / chunks, first = w % chunks * kRows;
  const int32_t* const rows = args.rows + b * args.stride;
  int32_t row[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) row[r] = id_at(rows, first + r, args.A, N, kBadRow);
  A sums[kRows] = {};
  for (int64_t k = lane() * V; k < args.d; k += kSpan<V>) {
    A x[V], values[kRows][V];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row[r] >= 0) load<V>(args.weight + row[r] * args.d + k, values[r]);
    }
    load<V>(args.x + b * args.d + k, x);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int v = 0; v < V && row[r] >= 0; ++v) sums[r] += x[v] * values[r][v];
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) sums[r] = warp_sum(sums[r]);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (lane() != r || first + r >= args.A) continue;
    A z = A(0);
    if (row[r] >= 0) z = sums[r] + (args.bias == nullptr ? A(0) : widen(args.bias[row[r]]));
    narrow(z, args.z[b * args.stride + first + r]);
  }
}

/// Packs of a row that a lane keeps in registers: of rows up to 2 KB, of 1,024 numbers of 16 bits,
/// all, where numbers are loaded 16 bytes at a time.
template <int V>
constexpr int kKept = V == 1 ? 16 : 4;

/// sums[r] += what V columns, from `k` on, of each input give with those of a row.
template <typename T, int V>
__device__ void add_columns(const T* const (&x)[kRows], int64_t k, const Accumulate<T> (&w)[V],
                            Accumulate<T> (&sums)[kRows]) {
  Accumulate<T> values[kRows][V];
#pragma unroll
  for (int r = 0; r < kRows; ++r) load<V>(x[r] + k, values[r]);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int v = 0; v < V; ++v) sums[r] += values[r][v] * w[v];
  }
}

/// A warp a group: its row, read once, against the inputs of a few pairs at a time. Of a row that
/// is longer than what registers keep, the rest is read again for each few pairs. Two blocks at a
/// time: where three are to fit, registers spill.
template <typename T, int V>
__global__ void __launch_bounds__(kThreads, 2)
    forward_by_row_kernel(cpu::GatherForward<T> args, RowGroups groups, int64_t G) {
  constexpr int kept = kKept<V>;
  using A = Accumulate<T>;
  const int64_t g = thread_index() / kWarp;
  if (g >= G) return;
  const int64_t begin = groups.start[g], end = groups.start[g + 1];
  if (begin == end) return;
  const int64_t row = args.rows[groups.pair[begin]], d = args.d, mine = d - lane() * V;
  const T* const weight = args.weight + row * d + lane() * V;
  const A bias = args.bias == nullptr ? A(0) : widen(args.bias[row]);
  Pack<T, V> packs[kept] = {};
#pragma unroll
  for (int p = 0; p < kept; ++p) {
    if (p * kSpan<V> < mine) load<V>(weight + p * kSpan<V>, packs[p]);
  }
  for (int64_t i = begin; i < end; i += kRows) {
    const T* x[kRows];
    A sums[kRows] = {}, w[V];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      x[r] = args.x + sample_of(groups.pair[i + r < end ? i + r : i], args.A) * d + lane() * V;
    }
#pragma unroll
    for (int p = 0; p < kept; ++p) {
      if (p * kSpan<V> >= mine) break;
      widen(packs[p], w);
      add_columns(x, p * kSpan<V>, w, sums);
    }
    for (int64_t k = kept * kSpan<V>; k < mine; k += kSpan<V>) {
      load<V>(weight + k, w);
      add_columns(x, k, w, sums);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) sums[r] = warp_sum(sums[r]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (lane() == r && i + r < end) narrow(sums[r] + bias, args.z[groups.pair[i + r]]);
    }
  }
}

template <typename T>
__global__ void reuse_kernel(ReuseScores<T> args) {
  const int64_t i = thread_index();
  if (i >= args.B * args.A) return;
  const int64_t b = i / args.A, column = args.columns[i];
  args.z[b * args.stride + i % args.A] = column < 0 ? T{} : args.scored[b * args.C + column];
}

template <typename T>
__global__ void widen_kernel(const T* values, float* out, int64_t count) {
  const int64_t i = thread_index();
  if (i < count) out[i] = static_cast<float>(widen(values[i]));
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    backward_input_kernel(cpu::GatherBackwardInput<T> args, int64_t spans, int64_t N) {
  using A = Accumulate<T>;
  const int64_t b = blockIdx.x / spans, k = blockIdx.x % spans * kSpan<V> + lane() * V;
  const int32_t* const rows = args.rows + b * args.A;
  const bool mine = k < args.d;
  A sums[V] = {};
  for (int64_t first = warp() * kRows; first < args.A; first += kWarps * kRows) {
    A values[kRows][V], grad[kRows];
    int32_t row[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      row[r] = mine ? id_at(rows, first + r, args.A, N, kBadRow) : -1;
      if (row[r] < 0) continue;
      load<V>(args.weight + row[r] * args.d + k, values[r]);
      grad[r] = widen(args.grad_z[b * args.A + first + r]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int v = 0; v < V && row[r] >= 0; ++v) sums[v] += grad[r] * values[r][v];
    }
  }
  add_warps<kWarps>(sums);
  if (warp() == 0 && mine) store<V>(sums, args.grad_x + b * args.d + k);
}

/// The source of a pair's gradient: a sample's input times a number, or an extra gradient.
template <typename T>
struct PairSource {
  const T* numbers;  ///< (d)
  Accumulate<T> grad;
};

template <typename T>
__device__ PairSource<T> source_of(const cpu::GatherBackwardWeight<T>& args, uint32_t pair) {
  using A = Accumulate<T>;
  if (pair >= args.pairs) return {args.extra_grad + (pair - args.pairs) * args.d, A(1)};
  return {args.x + sample_of(pair, args.A) * args.d, widen(args.grad_z[pair])};
}

/// sums += what the pairs from `i` on, `step` apart, give to the V columns from `k` on.
template <typename T, int V>
__device__ void add_pairs(const cpu::GatherBackwardWeight<T>& args, int64_t i, int64_t end,
                          int64_t step, int64_t k, Accumulate<T> (&sums)[V]) {
  using A = Accumulate<T>;
  for (; i < end; i += kRows * step) {
    A values[kRows][V], grad[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (i + r * step >= end) continue;
      const PairSource<T> source = source_of(args, args.pair[i + r * step]);
      load<V>(source.numbers + k, values[r]);
      grad[r] = source.grad;
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int v = 0; v < V && i + r * step < end; ++v) sums[v] += grad[r] * values[r][v];
    }
  }
}

/// The bias gradient of a row, by a warp.
template <typename T>
__device__ void add_bias(const cpu::GatherBackwardWeight<T>& args, int64_t group, int64_t begin,
                         int64_t end) {
  using A = Accumulate<T>;
  A sum = A(0);
  for (int64_t i = begin + lane(); i < end; i += kWarp) {
    const uint32_t pair = args.pair[i];
    if (pair < args.pairs) {
      sum += widen(args.grad_z[pair]);
    } else if (args.extra_bias != nullptr) {
      sum += widen(args.extra_bias[pair - args.pairs]);
    }
  }
  sum = warp_sum(sum);
  if (lane() == 0) narrow(sum, args.grad_bias[group]);
}

/// A warp a row, for the columns of one span; then the block together for each of its rows that has
/// so many pairs that a warp would be late.
template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    backward_weight_kernel(cpu::GatherBackwardWeight<T> args, int64_t spans, int64_t G) {
  constexpr int64_t kMany = 64;
  using A = Accumulate<T>;
  const int64_t first = blockIdx.x / spans * kWarps, span = blockIdx.x % spans;
  const int64_t k = span * kSpan<V> + lane() * V;
  const bool mine = k < args.d;
  const int64_t own = first + warp();
  if (own < G) {
    const int64_t begin = args.start[own], end = args.start[own + 1];
    if (span == 0) add_bias(args, own, begin, end);
    if (mine && end - begin <= kMany) {
      A sums[V] = {};
      add_pairs<T, V>(args, begin, end, 1, k, sums);
      store<V>(sums, args.grad_weight + own * args.d + k);
    }
  }
  for (int64_t group = first; group < first + kWarps && group < G; ++group) {
    const int64_t begin = args.start[group], end = args.start[group + 1];
    if (end - begin <= kMany) continue;
    A sums[V] = {};
    if (mine) add_pairs<T, V>(args, begin + warp(), end, kWarps, k, sums);
    add_warps<kWarps>(sums);
    if (warp() == 0 && mine) store<V>(sums, args.grad_weight + group * args.d + k);
  }
}

template <typename T>
__global__ void scatter_kernel(ScatterRows<T> args) {
  const int64_t i = thread_index();
  if (i >= args.B * args.A || args.rows[i] == -1) return;
  require(args.rows[i] >= 0 && args.rows[i] < args.N,
          "hashdl::scatter_rows: rows: got an id outside -1 to N - 1");
  args.out[i / args.A * args.N + args.rows[i]] = args.values[i];
}

}  // namespace

template <typename T>
void gather_forward(const cpu::GatherForward<T>& args, int64_t B, int64_t N, Stream stream) {
  const int64_t chunks = blocks_for(args.A, kRows), warps = B * chunks;
  with_width<T>(
      args.d,
      [&]<int V>() {
        launch(forward_kernel<T, V>, blocks_for(warps, kWarps), kThreads, 0, stream, args, chunks,
               warps, N);
      },
      args.x, args.weight);
}

template <typename T>
void gather_forward_by_row(const cpu::GatherForward<T>& args, int64_t B, int64_t N,
                           Scratch& scratch, Stream stream) {
  const int64_t pairs = B * args.A, G = pairs < N ? pairs : N;
  int32_t* const touched = scratch.take<int32_t>(G);
  const RowGroups groups =
      group_rows({args.rows, nullptr, touched, pairs, 0, G, N}, scratch, stream);
  if (scratch.measuring()) return;
  // Of padding: no group has it.
  fill_bytes(args.z, 0, pairs, stream);
  with_width<T>(
      args.d,
      [&]<int V>() {
        launch(forward_by_row_kernel<T, V>, blocks_for(G, kWarps), kThreads, 0, stream, args,
               groups, G);
      },
      args.x, args.weight);
}

template <typename T>
void reuse_scores(const ReuseScores<T>& args, Stream stream) {
  launch(reuse_kernel<T>, blocks_for(args.B * args.A, kThreads), kThreads, 0, stream, args);
}

template <typename T>
void widen_scores(const T* values, float* out, int64_t count, Stream stream) {
  launch(widen_kernel<T>, blocks_for(count, kThreads), kThreads, 0, stream, values, out, count);
}

template <typename T>
void gather_backward_input(const cpu::GatherBackwardInput<T>& args, int64_t B, int64_t N,
                           Stream stream) {
  with_width<T>(
      args.d,
      [&]<int V>() {
        const int64_t spans = blocks_for(args.d, kSpan<V>);
        launch(backward_input_kernel<T, V>, B * spans, kThreads, 0, stream, args, spans, N);
      },
      args.weight, args.grad_x);
}

template <typename T>
void gather_backward_weight(const cpu::GatherBackwardWeight<T>& args, int64_t G, Stream stream) {
  with_width<T>(
      args.d,
      [&]<int V>() {
        // Without columns there still is the bias.
        const int64_t spans = args.d > 0 ? blocks_for(args.d, kSpan<V>) : 1;
        launch(backward_weight_kernel<T, V>, blocks_for(G, kWarps) * spans, kThreads, 0, stream,
               args, spans, G);
      },
      args.x, args.extra_grad, args.grad_weight);
}

template <typename T>
void scatter_rows(const ScatterRows<T>& args, Stream stream) {
  launch(scatter_kernel<T>, blocks_for(args.B * args.A, kThreads), kThreads, 0, stream, args);
}

#define HASHDL_INSTANTIATE(T)                                                                      \
  template void gather_forward<T>(const cpu::GatherForward<T>&, int64_t, int64_t, Stream);         \
  template void gather_forward_by_row<T>(const cpu::GatherForward<T>&, int64_t, int64_t, Scratch&, \
                                         Stream);                                                  \
  template void reuse_scores<T>(const ReuseScores<T>&, Stream);                                    \
  template void widen_scores<T>(const T*, float*, int64_t, Stream);                                \
  template void gather_backward_input<T>(const cpu::GatherBackwardInput<T>&, int64_t, int64_t,     \
                                         Stream);                                                  \
  template void gather_backward_weight<T>(const cpu::GatherBackwardWeight<T>&, int64_t, Stream);   \
  template void scatter_rows<T>(const ScatterRows<T>&, Stream);
HASHDL_INSTANTIATE(float)
HASHDL_INSTANTIATE(double)
HASHDL_INSTANTIATE(BFloat16)
HASHDL_INSTANTIATE(Half)
#undef HASHDL_INSTANTIATE

}  // namespace hashdl::cuda
