#include "cuda/sparse_linear.h"

#include <cub/cub.cuh>

#include "cuda/column_set.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/numbers.h"
#include "cuda/row_map.h"

namespace hashdl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRows = 4;  // that a warp has in flight at once
constexpr const char* kBadRow = "hashdl::gather_sparse_linear: rows: got an id outside -1 to N - 1";
constexpr const char* kBadColumn =
    "hashdl::gather_sparse_linear: columns: got an id outside -1 to d - 1";

// ---- forward, and backward to the inputs --------------------------------------------------------

template <typename T>
__global__ void __launch_bounds__(kThreads)
    sparse_forward_kernel(cpu::SparseForward<T> args, int64_t chunks, int64_t warps, int64_t N) {
  using A = Accumulate<T>;
  const int64_t w = thread_index() / kWarp;
  if (w >= warps) return;
  const int64_t b = w / chunks, first = w % chunks * kRows;
  int32_t row[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    row[r] = id_at(args.rows + b * args.A, first + r, args.A, N, kBadRow);
  }
  A sums[kRows] = {};
  for (int64_t i = lane(); i < args.I; i += kWarp) {
    const int32_t column = id_at(args.columns + b * args.I, i, args.I, args.d, kBadColumn);
    if (column < 0) continue;
    const A value = widen(args.values[b * args.I + i]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row[r] >= 0) sums[r] += value * widen(args.weight[row[r] * args.d + column]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) sums[r] = warp_sum(sums[r]);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (lane() != r || first + r >= args.A) continue;
    A z = A(0);
    if (row[r] >= 0) z = sums[r] + (args.bias == nullptr ? A(0) : widen(args.bias[row[r]]));
    narrow(z, args.z[b * args.A + first + r]);
  }
}

/// A lane an input, a warp some of the rows.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    sparse_input_kernel(cpu::SparseBackwardInput<T> args, int64_t spans, int64_t N) {
  using A = Accumulate<T>;
  const int64_t b = blockIdx.x / spans, i = blockIdx.x % spans * kWarp + lane();
  const int32_t column = id_at(args.columns + b * args.I, i, args.I, args.d, kBadColumn);
  A sums[1] = {};
  for (int64_t first = warp() * kRows; first < args.A; first += kWarps * kRows) {
    A values[kRows] = {}, grad[kRows] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int32_t row = id_at(args.rows + b * args.A, first + r, args.A, N, kBadRow);
      if (row < 0 || column < 0) continue;
      values[r] = widen(args.weight[row * args.d + column]);
      grad[r] = widen(args.grad_z[b * args.A + first + r]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) sums[0] += grad[r] * values[r];
  }
  add_warps<kWarps>(sums);
  if (warp() == 0 && i < args.I) narrow(sums[0], args.grad_values[b * args.I + i]);
}

// ---- inputs with distinct columns ---------------------------------------------------------------

/// (B, I) inputs of which those of a sample have distinct columns, -1 = none.
template <typename A>
struct DistinctInputs {
  int32_t* columns;
  A* values;
};

/// Keys to sort by: the sample, then the column, padding last.
__global__ void input_keys_kernel(const int32_t* columns, int64_t count, int64_t I, int64_t d,
                                  uint64_t* keys, uint32_t* inputs) {
  const int64_t i = thread_index();
  if (i >= count) return;
  const int32_t column = id_at(columns, i, count, d, kBadColumn);
  const uint64_t last = static_cast<uint64_t>(d);
  keys[i] = static_cast<uint64_t>(i / I) * (last + 1) + (column < 0 ? last : column);
  inputs[i] = static_cast<uint32_t>(i);
}

/// The first of those with one key adds them up, in their order.
template <typename T>
__global__ void distinct_inputs_kernel(const T* values, const uint64_t* keys,
                                       const uint32_t* inputs, int64_t count, int64_t d,
                                       DistinctInputs<Accumulate<T>> out) {
  const int64_t i = thread_index();
  if (i >= count) return;
  const int64_t column = static_cast<int64_t>(keys[i] % static_cast<uint64_t>(d + 1));
  const bool first = column < d && (i == 0 || keys[i - 1] != keys[i]);
  Accumulate<T> sum{};
  for (int64_t j = i; first && j < count && keys[j] == keys[i]; ++j)
    sum += widen(values[inputs[j]]);
  out.columns[i] = first ? static_cast<int32_t>(column) : -1;
  out.values[i] = sum;
}

template <typename T>
DistinctInputs<Accumulate<T>> distinct_inputs(const cpu::SparseBackwardWeight<T>& args, int64_t B,
                                              Scratch& scratch, Stream stream) {
  using A = Accumulate<T>;
  const int64_t count = B * args.I;
  const DistinctInputs<A> out{scratch.take<int32_t>(count), scratch.take<A>(count)};
  uint64_t* const unsorted_keys = scratch.take<uint64_t>(count);
  uint64_t* const keys = scratch.take<uint64_t>(count);
  uint32_t* const unsorted = scratch.take<uint32_t>(count);
  uint32_t* const inputs = scratch.take<uint32_t>(count);
  const int bits = key_bits(static_cast<uint64_t>(B) * static_cast<uint64_t>(args.d + 1));
  size_t bytes = 0;
  check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, unsorted_keys, keys, unsorted, inputs,
                                        count, 0, bits, stream));
  void* const memory = scratch.take<char>(static_cast<int64_t>(bytes));
  if (scratch.measuring() || count == 0) return out;
  const int64_t blocks = blocks_for(count, kThreads);
  launch(input_keys_kernel, blocks, kThreads, 0, stream, args.columns, count, args.I, args.d,
         unsorted_keys, unsorted);
  check(cub::DeviceRadixSort::SortPairs(memory, bytes, unsorted_keys, keys, unsorted, inputs, count,
                                        0, bits, stream));
  launch(distinct_inputs_kernel<T>, blocks, kThreads, 0, stream, args.values, keys, inputs, count,
         args.d, out);
  return out;
}

// ---- backward to the weight ---------------------------------------------------------------------

constexpr int kEntryThreads = 128;
/// Entries of a row that are summed at once: for more, its inputs are gone through again.
constexpr int64_t kEntrySums = 4096;

using Columns = ColumnSet<kEntryThreads>;

/// Words of a block's memory: sums first, which may be of 8 bytes, then the set of columns.
template <typename A>
struct EntryMemory {
  int64_t sums;  ///< entries summed at once
  BlockMemory memory;

  static EntryMemory make(int64_t d, int64_t G, Scratch& scratch) {
    const int64_t sums = d < kEntrySums ? d : kEntrySums;
    const int64_t words = sums * kSumWords + Columns::memory(d);
    return {sums, BlockMemory::make(words, G, scratch)};
  }

  __device__ A* sums_of_block() const { return reinterpret_cast<A*>(memory.mine()); }
  __device__ Columns set_of_block(int64_t d) const {
    return Columns(memory.mine() + sums * kSumWords, d);
  }

 private:
  static constexpr int64_t kSumWords = sizeof(A) / sizeof(int32_t);
};

/// The columns that the samples of a group have.
template <typename T>
__device__ int32_t meet(const cpu::SparseBackwardWeight<T>& args, const int32_t* columns,
                        int64_t begin, int64_t end, Columns& met) {
  return met.assign([&](const auto& add) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = args.pair[p] / args.A * args.I;
      for (int64_t i = threadIdx.x; i < args.I; i += kEntryThreads) {
        if (columns[first + i] >= 0) add(columns[first + i]);
      }
    }
  });
}

template <typename T>
__global__ void __launch_bounds__(kEntryThreads)
    count_entries_kernel(cpu::SparseBackwardWeight<T> args, const int32_t* columns,
                         EntryMemory<Accumulate<T>> memory, int64_t G, int64_t* counts) {
  Columns met = memory.set_of_block(args.d);
  for (int64_t g = blockIdx.x; g < G; g += gridDim.x) {
    const int32_t count = meet(args, columns, args.start[g], args.start[g + 1], met);
    if (threadIdx.x == 0) counts[g] = count;
  }
}

/// ends[g]: the entries of group g and those before. Groups that no entries follow leave what is
/// beyond to the last one with entries.
__global__ void entry_starts_kernel(const int64_t* ends, int64_t G, int64_t E, int64_t* starts) {
  const int64_t g = thread_index();
  if (g > G) return;
  if (g == 0) {
    starts[0] = 0;
  } else {
    starts[g] = ends[g - 1] == ends[G - 1] ? E : ends[g - 1];
  }
}

template <typename T>
__global__ void __launch_bounds__(kEntryThreads)
    sparse_weight_kernel(cpu::SparseBackwardWeight<T> args, DistinctInputs<Accumulate<T>> inputs,
                         EntryMemory<Accumulate<T>> memory, int64_t G) {
  using A = Accumulate<T>;
  A* const sums = memory.sums_of_block();
  Columns met = memory.set_of_block(args.d);
  for (int64_t g = blockIdx.x; g < G; g += gridDim.x) {
    const int64_t begin = args.start[g], end = args.start[g + 1];
    A bias = A(0);
    for (int64_t p = begin + threadIdx.x; p < end; p += kEntryThreads) {
      bias += widen(args.grad_z[args.pair[p]]);
    }
    bias = block_sum<kEntryThreads>(bias);
    if (threadIdx.x == 0) narrow(bias, args.grad_bias[g]);

    const int64_t count = meet(args, inputs.columns, begin, end, met);
    const int64_t at = args.entry_start[g];
    met.list(args.entry_column + at);
    for (int64_t first = 0; first < count; first += memory.sums) {
      const int64_t here = count - first < memory.sums ? count - first : memory.sums;
      for (int64_t e = threadIdx.x; e < here; e += kEntryThreads) sums[e] = A(0);
      __syncthreads();
      for (int64_t p = begin; p < end; ++p) {
        const A grad = widen(args.grad_z[args.pair[p]]);
        const int64_t sample = args.pair[p] / args.A * args.I;
        for (int64_t i = threadIdx.x; i < args.I; i += kEntryThreads) {
          const int32_t column = inputs.columns[sample + i];
          if (column < 0) continue;
          const int64_t e = met.rank(column) - first;  // another one for each of the sample
          if (e >= 0 && e < here) sums[e] += grad * inputs.values[sample + i];
        }
        __syncthreads();
      }
      for (int64_t e = threadIdx.x; e < here; e += kEntryThreads) {
        narrow(sums[e], args.grad_weight[at + first + e]);
      }
      __syncthreads();
    }
  }
}

/// Entries beyond the last one.
template <typename T>
__global__ void pad_entries_kernel(cpu::SparseBackwardWeight<T> args, const int64_t* count,
                                   int64_t E) {
  const int64_t e = thread_index();
  if (e < *count || e >= E) return;
  args.entry_column[e] = *count > 0 ? args.entry_column[*count - 1] : 0;
  narrow(Accumulate<T>(0), args.grad_weight[e]);
}

}  // namespace

template <typename T>
void sparse_forward(const cpu::SparseForward<T>& args, int64_t B, int64_t N, Stream stream) {
  const int64_t chunks = blocks_for(args.A, kRows), warps = B * chunks;
  launch(sparse_forward_kernel<T>, blocks_for(warps, kWarps), kThreads, 0, stream, args, chunks,
         warps, N);
}

template <typename T>
void sparse_backward_input(const cpu::SparseBackwardInput<T>& args, int64_t B, int64_t N,
                           Stream stream) {
  const int64_t spans = blocks_for(args.I, kWarp);
  launch(sparse_input_kernel<T>, B * spans, kThreads, 0, stream, args, spans, N);
}

template <typename T>
void sparse_backward_weight(const cpu::SparseBackwardWeight<T>& args, int64_t B, int64_t G,
                            int64_t E, Scratch& scratch, Stream stream) {
  using A = Accumulate<T>;
  const DistinctInputs<A> inputs = distinct_inputs(args, B, scratch, stream);
  const EntryMemory<A> memory = EntryMemory<A>::make(args.d, G, scratch);
  int64_t* const counts = scratch.take<int64_t>(G);
  int64_t* const ends = scratch.take<int64_t>(G);
  size_t bytes = 0;
  check(cub::DeviceScan::InclusiveSum(nullptr, bytes, counts, ends, G, stream));
  void* const scan_memory = scratch.take<char>(static_cast<int64_t>(bytes));
  if (scratch.measuring()) return;
  const int64_t blocks = memory.memory.blocks(G);
  const size_t shared = memory.memory.shared_bytes();
  if (G > 0) {
    launch(count_entries_kernel<T>, blocks, kEntryThreads, shared, stream, args, inputs.columns,
           memory, G, counts);
    check(cub::DeviceScan::InclusiveSum(scan_memory, bytes, counts, ends, G, stream));
  }
  launch(entry_starts_kernel, blocks_for(G + 1, kThreads), kThreads, 0, stream, ends, G, E,
         args.entry_start);
  launch(sparse_weight_kernel<T>, blocks, kEntryThreads, shared, stream, args, inputs, memory, G);
  launch(pad_entries_kernel<T>, blocks_for(E, kThreads), kThreads, 0, stream, args, ends + G - 1,
         E);
}

#define HASHDL_INSTANTIATE(T)                                                                    \
  template void sparse_forward<T>(const cpu::SparseForward<T>&, int64_t, int64_t, Stream);       \
  template void sparse_backward_input<T>(const cpu::SparseBackwardInput<T>&, int64_t, int64_t,   \
                                         Stream);                                                \
  template void sparse_backward_weight<T>(const cpu::SparseBackwardWeight<T>&, int64_t, int64_t, \
                                          int64_t, Scratch&, Stream);
HASHDL_INSTANTIATE(float)
HASHDL_INSTANTIATE(double)
HASHDL_INSTANTIATE(BFloat16)
HASHDL_INSTANTIATE(Half)
#undef HASHDL_INSTANTIATE

}  // namespace hashdl::cuda
