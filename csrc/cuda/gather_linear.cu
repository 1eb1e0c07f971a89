#include "cuda/gather_linear.h"

#include <algorithm>

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

/// sums[0] = the sum over the warp of sums[lane() / (kWarp / Rows)], which is added as by warp_sum,
/// in one exchange a pair of rows where warp_sum takes one a row, as long as rows are left to
/// share.
template <int Rows, typename A>
__device__ void share_sums(A (&sums)[Rows]) {
  int offset = kWarp / 2;
#pragma unroll
  for (int rows = Rows / 2; rows > 0; rows /= 2, offset /= 2) {
    const bool upper = (lane() & offset) != 0;
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const A given = upper ? sums[r] : sums[r + rows];
      const A kept = upper ? sums[r + rows] : sums[r];
      sums[r] = kept + __shfl_xor_sync(kAllLanes, given, offset);
    }
  }
  for (; offset > 0; offset /= 2) sums[0] += __shfl_xor_sync(kAllLanes, sums[0], offset);
}

/// Rows that a warp of the forward pass has in flight at once.
constexpr int kForwardRows = 8;

/// A warp `run` rows of a sample, one a lane, whose ids and results are read and written at once: a
/// multiple of kForwardRows up to kWarp.
template <typename T, int V>
__global__ void __launch_bounds__(kThreads, 2)
    forward_kernel(cpu::GatherForward<T> args, int64_t chunks, int run, int64_t warps, int64_t N) {
  constexpr int kLanes = kWarp / kForwardRows;
  using A = Accumulate<T>;
  const int64_t w = thread_index() / kWarp;
  if (w >= warps) return;
  const int64_t b = w / chunks, first = w % chunks * run, mine = first + lane();
  const bool has_row = lane() < run && mine < args.A;
  const int32_t row = has_row ? id_at(args.rows + b * args.stride, mine, args.A, N, kBadRow) : -1;
  const T* const x = args.x + b * args.d;
  A z = A(0);
  for (int i = 0; i < run && first + i < args.A; i += kForwardRows) {
    A sums[kForwardRows] = {};
    int32_t ids[kForwardRows];
#pragma unroll
    for (int r = 0; r < kForwardRows; ++r) ids[r] = __shfl_sync(kAllLanes, row, i + r);
#pragma unroll 1  // kForwardRows loads are enough in flight, and more of them spill registers
    for (int64_t k = lane() * V; k < args.d; k += kSpan<V>) {
      Pack<T, V> packs[kForwardRows];
      A values[V], w[V];
#pragma unroll
      for (int r = 0; r < kForwardRows; ++r) {
        // Of padding, anything that may be read.
        load<V>((ids[r] >= 0 ? args.weight + ids[r] * args.d : x) + k, packs[r]);
      }
      load<V>(x + k, values);
#pragma unroll
      for (int r = 0; r < kForwardRows; ++r) {
        widen(packs[r], w);
#pragma unroll
        for (int v = 0; v < V; ++v) sums[r] += values[v] * w[v];
      }
    }
    share_sums(sums);
    const A sum = __shfl_sync(kAllLanes, sums[0], lane() % kForwardRows * kLanes);
    if (lane() / kForwardRows == i / kForwardRows) z = sum;
  }
  if (!has_row) return;
  if (row < 0) {
    z = A(0);
  } else if (args.bias != nullptr) {
    z += widen(args.bias[row]);
  }
  narrow(z, args.z[b * args.stride + mine]);
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

/// What a pair gives to the gradients of its row: a sample's input times a number, or an extra
/// gradient; and to that of the bias.
template <typename T>
struct PairSource {
  const T* numbers;  ///< (d)
  Accumulate<T> grad, bias;
};

template <typename T>
__device__ PairSource<T> source_of(const cpu::GatherBackwardWeight<T>& args, uint32_t pair) {
  using A = Accumulate<T>;
  if (pair < args.pairs) {
    const A grad = widen(args.grad_z[pair]);
    return {args.x + sample_of(pair, args.A) * args.d, grad, grad};
  }
  const int64_t e = pair - args.pairs;
  const A bias = args.extra_bias == nullptr ? A(0) : widen(args.extra_bias[e]);
  return {args.extra_grad + e * args.d, A(1), bias};
}

/// A pointer that another lane has.
template <typename T>
__device__ T* from_lane(T* pointer, int lane) {
  const auto address = reinterpret_cast<unsigned long long>(pointer);
  return reinterpret_cast<T*>(__shfl_sync(kAllLanes, address, lane));
}

/// The gradients of some of a warp's rows, for V columns from `k` on.
template <typename T, int V>
struct RowGradients {
  using A = Accumulate<T>;

  const cpu::GatherBackwardWeight<T>& args;
  int64_t first, k;   ///< the warp's first row
  bool mine;          ///< whether there are such columns
  A sums[V] = {};     ///< of the row that pairs are added for
  A bias_sum = A(0);  ///< likewise
  A own_bias = A(0);  ///< of the lane's own row

  /// Adds the pairs [begin, end) of the rows from `row` on. `last` is where the lane's own row
  /// ends: there its sums are written. A lane looks up a pair while the others look up theirs, and
  /// the inputs of a few pairs are on their way at once, of whatever rows.
  __device__ void add(int64_t begin, int64_t end, int row, int64_t last) {
    for (int64_t chunk = begin; chunk < end; chunk += kWarp) {
      PairSource<T> source{args.x, A(0), A(0)};
      if (chunk + lane() < end) source = source_of(args, args.pair[chunk + lane()]);
      const int64_t place = last - 1 - chunk;
      const unsigned lasts = warp_or(place >= 0 && place < kWarp ? 1u << place : 0u);
      for (int i = 0; i < kWarp && chunk + i < end; i += kRows) {
        Pack<T, V> packs[kRows];
        A grads[kRows], biases[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const T* const numbers = from_lane(source.numbers, i + r);
          grads[r] = __shfl_sync(kAllLanes, source.grad, i + r);
          biases[r] = __shfl_sync(kAllLanes, source.bias, i + r);
          if (mine && chunk + i + r < end) load<V>(numbers + k, packs[r]);
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (chunk + i + r >= end) break;
          A values[V];
          widen(packs[r], values);
#pragma unroll
          for (int v = 0; v < V; ++v) sums[v] += grads[r] * values[v];
          bias_sum += biases[r];
          if ((lasts >> (i + r) & 1) != 0) write(row++);
        }
      }
    }
  }

  /// Ends a row: one without pairs has gradients of 0.
  __device__ void write(int row) {
    if (mine) store<V>(sums, args.grad_weight + (first + row) * args.d + k);
    if (lane() == row) own_bias = bias_sum;
#pragma unroll
    for (int v = 0; v < V; ++v) sums[v] = A(0);
    bias_sum = A(0);
  }
};

/// Adds to the sums of a row every kWarps-th of its pairs.
template <typename T, int V>
__device__ void add_share(const cpu::GatherBackwardWeight<T>& args, int64_t begin, int64_t end,
                          int64_t k, bool mine, Accumulate<T> (&sums)[V + 1]) {
  for (int64_t i = begin + warp(); i < end; i += kRows * kWarps) {
    Pack<T, V> packs[kRows];
    PairSource<T> sources[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (i + r * kWarps >= end) break;
      sources[r] = source_of(args, args.pair[i + r * kWarps]);
      if (mine) load<V>(sources[r].numbers + k, packs[r]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (i + r * kWarps >= end) break;
      Accumulate<T> values[V];
      widen(packs[r], values);
#pragma unroll
      for (int v = 0; v < V; ++v) sums[v] += sources[r].grad * values[v];
      sums[V] += sources[r].bias;
    }
  }
}

/// A warp kWarp rows, for the columns of one span; then the block together for each of its rows
/// that has so many pairs that a warp would be late.
template <typename T, int V>
__global__ void __launch_bounds__(kThreads, 2)
    backward_weight_kernel(cpu::GatherBackwardWeight<T> args, int64_t spans, int64_t G) {
  constexpr int64_t kMany = 64;
  static __shared__ unsigned many_of[kWarps];
  using A = Accumulate<T>;
  const int64_t block_first = blockIdx.x / spans * kThreads, span = blockIdx.x % spans;
  const int64_t first = block_first + warp() * kWarp, own = first + lane();
  const int64_t k = span * kSpan<V> + lane() * V;
  const bool mine = k < args.d;
  const int64_t begin = own < G ? args.start[own] : 0, end = own < G ? args.start[own + 1] : 0;
  const unsigned many = __ballot_sync(kAllLanes, end - begin > kMany);
  const unsigned some = __ballot_sync(kAllLanes, begin < end);
  if (lane() == 0) many_of[warp()] = many;
  RowGradients<T, V> gradients{args, first, k, mine};
  const int rows = static_cast<int>(std::min<int64_t>(kWarp, G - first));
  for (int row = 0; row < rows;) {
    // Up to the next row with many pairs, or with none: these come last.
    const unsigned others = (many | ~some) >> row;
    const int count = others == 0 ? kWarp - row : __ffs(static_cast<int>(others)) - 1;
    if (count > 0) {
      const int64_t from = __shfl_sync(kAllLanes, begin, row);
      const int64_t to = __shfl_sync(kAllLanes, end, row + count - 1);
      gradients.add(from, to, row, end);
      row += count;
    } else {
      if ((many >> row & 1) == 0) gradients.write(row);
      ++row;
    }
  }
  if (span == 0 && own < G && (many >> lane() & 1) == 0) {
    narrow(gradients.own_bias, args.grad_bias[own]);
  }
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) {
    for (unsigned left = many_of[w]; left != 0; left &= left - 1) {
      const int64_t row = block_first + w * kWarp + __ffs(static_cast<int>(left)) - 1;
      A shares[V + 1] = {}, sums[V];
      add_share<T, V>(args, args.start[row], args.start[row + 1], k, mine, shares);
      add_warps<kWarps>(shares);
      if (warp() != 0) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) sums[v] = shares[v];
      if (mine) store<V>(sums, args.grad_weight + row * args.d + k);
      if (span == 0 && lane() == 0) narrow(shares[V], args.grad_bias[row]);
    }
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
  // Few warps: the fewer rows each, the sooner all are done.
  constexpr int64_t kManyWarps = 4096;
  const int run = B * blocks_for(args.A, kWarp) >= kManyWarps ? kWarp : kForwardRows;
  const int64_t chunks = blocks_for(args.A, run), warps = B * chunks;
  with_width<T>(
      args.d,
      [&]<int V>() {
        launch(forward_kernel<T, V>, blocks_for(warps, kWarps), kThreads, 0, stream, args, chunks,
               run, warps, N);
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
        launch(backward_weight_kernel<T, V>, blocks_for(G, kThreads) * spans, kThreads, 0, stream,
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
