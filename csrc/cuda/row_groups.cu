#include "cuda/row_groups.h"

#include <cub/cub.cuh>

#include "cuda/device.h"
#include "cuda/launch.h"

namespace hashdl::cuda {
namespace {

constexpr int kThreads = 256;

/// Keys to sort by, padding last, and the pairs' numbers.
__global__ void make_keys(GroupRows args, uint32_t* keys, uint32_t* pairs) {
  const int64_t i = thread_index();
  if (i >= args.P + args.E) return;
  const int32_t row = i < args.P ? args.rows[i] : args.extra[i - args.P];
  require(row >= -1 && row < args.N, "hashdl::gather_linear: rows: got an id outside -1 to N - 1");
  keys[i] = row < 0 ? static_cast<uint32_t>(args.N) : static_cast<uint32_t>(row);
  pairs[i] = static_cast<uint32_t>(i);
}

/// Whether sorted key i is the first of a row.
__device__ bool begins(const uint32_t* keys, int64_t i, int64_t N) {
  return keys[i] < N && (i == 0 || keys[i - 1] != keys[i]);
}

__global__ void mark_firsts(const uint32_t* keys, int64_t count, int64_t N, uint32_t* firsts) {
  const int64_t i = thread_index();
  if (i < count) firsts[i] = begins(keys, i, N);
}

/// groups[i]: the groups that begin at key i or before. Each first key writes its group, the last
/// real key what follows its group.
__global__ void write_groups(GroupRows args, const uint32_t* keys, const uint32_t* groups,
                             int64_t* start) {
  const int64_t i = thread_index(), count = args.P + args.E;
  if (i >= count) return;
  if (begins(keys, i, args.N)) {
    args.touched[groups[i] - 1] = static_cast<int32_t>(keys[i]);
    start[groups[i] - 1] = i;
  }
  const bool last = keys[i] < args.N && (i + 1 == count || keys[i + 1] >= args.N);
  if (last) start[groups[i]] = i + 1;
}

/// Groups from U on.
__global__ void pad_groups(GroupRows args, const uint32_t* groups, int64_t* start) {
  const int64_t g = thread_index(), count = args.P + args.E;
  const int64_t U = count > 0 ? groups[count - 1] : 0;
  if (g < U || g > args.G) return;
  // Group U's start is the end of group U - 1, written already.
  if (g > U) start[g] = U > 0 ? start[U] : 0;
  if (U == 0) start[g] = 0;
  if (g < args.G) args.touched[g] = U > 0 ? args.touched[U - 1] : 0;
}

}  // namespace

RowGroups group_rows(const GroupRows& args, Scratch& scratch, Stream stream) {
  const int64_t count = args.P + args.E;
  uint32_t* const unsorted_keys = scratch.take<uint32_t>(count);
  uint32_t* const keys = scratch.take<uint32_t>(count);
  uint32_t* const unsorted_pairs = scratch.take<uint32_t>(count);
  const RowGroups groups{scratch.take<int64_t>(args.G + 1), scratch.take<uint32_t>(count)};
  uint32_t* const firsts = unsorted_keys;  // no longer needed then
  uint32_t* const numbers = unsorted_pairs;
  const int bits = key_bits(static_cast<uint64_t>(args.N));
  size_t sort_bytes = 0, scan_bytes = 0;
  check(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, unsorted_keys, keys, unsorted_pairs,
                                        groups.pair, count, 0, bits, stream));
  check(cub::DeviceScan::InclusiveSum(nullptr, scan_bytes, firsts, numbers, count, stream));
  void* const sort_memory = scratch.take<char>(static_cast<int64_t>(sort_bytes));
  void* const scan_memory = scratch.take<char>(static_cast<int64_t>(scan_bytes));
  if (scratch.measuring()) return groups;
  const int64_t blocks = blocks_for(count, kThreads);
  if (count > 0) {
    launch(make_keys, blocks, kThreads, 0, stream, args, unsorted_keys, unsorted_pairs);
    check(cub::DeviceRadixSort::SortPairs(sort_memory, sort_bytes, unsorted_keys, keys,
                                          unsorted_pairs, groups.pair, count, 0, bits, stream));
    launch(mark_firsts, blocks, kThreads, 0, stream, keys, count, args.N, firsts);
    check(cub::DeviceScan::InclusiveSum(scan_memory, scan_bytes, firsts, numbers, count, stream));
    launch(write_groups, blocks, kThreads, 0, stream, args, keys, numbers, groups.start);
  }
  launch(pad_groups, blocks_for(args.G + 1, kThreads), kThreads, 0, stream, args, numbers,
         groups.start);
  return groups;
}

}  // namespace hashdl::cuda
