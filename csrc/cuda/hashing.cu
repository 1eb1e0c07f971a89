#include "cuda/hashing.h"

#include <cub/cub.cuh>

#include "cuda/device.h"
#include "cuda/launch.h"

namespace hashdl::cuda {
namespace {

constexpr int kThreads = 256;

/// A block packs kThreads codes, a thread each, from the signs that its warps have read in order.
__global__ void pack_signs_kernel(PackSigns args) {
  constexpr int kMostBits = 32;
  static __shared__ uint32_t signs[kThreads * kMostBits / kWarp + 1];
  const int64_t codes = args.M * args.L, first = static_cast<int64_t>(blockIdx.x) * kThreads;
  const int64_t here = codes - first < kThreads ? codes - first : kThreads;
  const int K = static_cast<int>(args.K), size = static_cast<int>(here) * K;
  const float* values = args.projections + first * K;
  for (int i = static_cast<int>(threadIdx.x); i - lane() < size; i += kThreads) {
    const float value = i < size ? values[i] : 0.0f;
    require(value - value == 0.0f,
            "hashdl::pack_signs: projections: got NaN or infinity, wanted finite values");
    const uint32_t word = __ballot_sync(kAllLanes, value > 0.0f);
    if (lane() == 0) signs[i / kWarp] = word;
  }
  if (threadIdx.x == 0) signs[(size + kWarp - 1) / kWarp] = 0;
  __syncthreads();
  if (threadIdx.x >= here) return;
  const int bit = static_cast<int>(threadIdx.x) * K, word = bit / kWarp;
  const uint64_t both = static_cast<uint64_t>(signs[word + 1]) << 32 | signs[word];
  const uint64_t mask = (uint64_t{1} << K) - 1;
  args.codes[first + threadIdx.x] = static_cast<int32_t>(both >> (bit % kWarp) & mask);
}

__global__ void count_up(const int32_t* codes, int64_t N, int64_t buckets, int32_t* rows) {
  const int64_t n = thread_index();
  if (n >= N) return;
  require(codes[n] >= 0 && codes[n] < buckets,
          "hashdl::build_tables: codes: got a code outside [0, 2^bits)");
  rows[n] = static_cast<int32_t>(n);
}

/// offsets[c] = the number of codes below c: by bisection, a thread an offset.
__global__ void find_offsets(const int32_t* sorted, int64_t N, int64_t count, int32_t* offsets) {
  const int64_t c = thread_index();
  if (c >= count) return;
  int64_t low = 0, high = N;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (sorted[middle] < c) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  offsets[c] = static_cast<int32_t>(low);
}

/// What each bucket keeps.
__global__ void count_kept(cpu::LimitBuckets args, int32_t* kept) {
  const int64_t c = thread_index();
  if (c >= args.buckets) return;
  const int64_t first = args.offsets[c], last = args.offsets[c + 1];
  require(first >= 0 && last >= first && last <= args.N,
          "hashdl::limit_buckets: offsets: got a bucket that ends before it starts, or outside "
          "rows");
  kept[c] = static_cast<int32_t>(last - first < args.capacity ? last - first : args.capacity);
}

/// A thread a bucket: most are small.
__global__ void limit_kernel(cpu::LimitBuckets args) {
  const int64_t c = thread_index();
  if (c < args.buckets) cpu::limit_bucket(args, c);
}

__global__ void mark_rows_kernel(MarkRows args) {
  const int64_t i = thread_index();
  if (i >= args.Q || args.rows[i] == -1) return;
  require(args.rows[i] >= 0 && args.rows[i] < args.N,
          "hashdl::mark_rows_: rows: got an id outside -1 to N - 1");
  volatile auto* const mark = args.dirty + args.rows[i];  // rows repeat: others store it too
  *mark = args.bits;
}

}  // namespace

void pack_signs(const PackSigns& args, Stream stream) {
  launch(pack_signs_kernel, blocks_for(args.M * args.L, kThreads), kThreads, 0, stream, args);
}

void build_tables(const BuildTables& args, Scratch& scratch, Stream stream) {
  const int64_t N = args.N, count = (int64_t{1} << args.K) + 1;
  const int items = static_cast<int>(N), bits = static_cast<int>(args.K);
  int32_t* const unsorted = scratch.take<int32_t>(N);
  int32_t* const sorted = scratch.take<int32_t>(N);
  size_t bytes = 0;
  const auto sort = [&](void* memory, int64_t l) {
    check(cub::DeviceRadixSort::SortPairs(memory, bytes, args.codes + l * N, sorted, unsorted,
                                          args.rows + l * N, items, 0, bits, stream));
  };
  sort(nullptr, 0);
  void* const memory = scratch.take<char>(static_cast<int64_t>(bytes));
  if (scratch.measuring()) return;
  for (int64_t l = 0; l < args.L; ++l) {
    launch(count_up, blocks_for(N, kThreads), kThreads, 0, stream, args.codes + l * N, N, count - 1,
           unsorted);
    if (N > 0) sort(memory, l);
    launch(find_offsets, blocks_for(count, kThreads), kThreads, 0, stream, sorted, N, count,
           args.offsets + l * count);
  }
}

void limit_buckets(const cpu::LimitBuckets& args, int64_t width, Scratch& scratch, Stream stream) {
  const int64_t blocks = blocks_for(args.buckets, kThreads);
  const int count = static_cast<int>(args.buckets);
  int32_t* const kept = scratch.take<int32_t>(args.buckets);
  size_t bytes = 0;
  const auto sum = [&](void* memory) {
    check(cub::DeviceScan::InclusiveSum(memory, bytes, kept, args.limited_offsets + 1, count,
                                        stream));
  };
  sum(nullptr);
  void* const memory = scratch.take<char>(static_cast<int64_t>(bytes));
  if (scratch.measuring()) return;
  fill_bytes(args.limited_offsets, 0, 1, stream);
  fill_bytes(args.limited_rows, 0xff, width, stream);
  if (args.buckets == 0) return;
  launch(count_kept, blocks, kThreads, 0, stream, args, kept);
  sum(memory);
  launch(limit_kernel, blocks, kThreads, 0, stream, args);
}

void mark_rows(const MarkRows& args, Stream stream) {
  launch(mark_rows_kernel, blocks_for(args.Q, kThreads), kThreads, 0, stream, args);
}

}  // namespace hashdl::cuda
