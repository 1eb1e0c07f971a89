// Runs of columns that belong together, found on the device: the host does not learn how many.
#pragma once

#include "cuda/device.h"
#include "cuda/launch.h"

namespace hashdl::cuda {

/// In scratch memory.
struct Runs {
  int32_t* count;   ///< of the runs
  int32_t* starts;  ///< (count + 1): where each begins, then the number of columns

  /// Room for at most C runs.
  static Runs make(int64_t C, Scratch& scratch) {
    return {scratch.take<int32_t>(1), scratch.take<int32_t>(C + 1)};
  }
};

constexpr int kRunThreads = 256;

/// One block: begins(c) tells whether a run begins at column c.
template <typename Begins>
__global__ void find_runs_kernel(Begins begins, int64_t C, Runs runs) {
  int32_t count = 0;
  for (int64_t first = 0; first < C; first += kRunThreads) {
    const int64_t c = first + threadIdx.x;
    const bool begin = c < C && begins(c);
    const Scanned scanned = block_scan<kRunThreads>(begin);
    if (begin) runs.starts[count + scanned.before] = static_cast<int32_t>(c);
    count += scanned.total;
  }
  if (threadIdx.x != 0) return;
  runs.starts[count] = static_cast<int32_t>(C);
  *runs.count = count;
}

template <typename Begins>
void find_runs(const Begins& begins, int64_t C, const Runs& runs, Stream stream) {
  launch(find_runs_kernel<Begins>, 1, kRunThreads, 0, stream, begins, C, runs);
}

}  // namespace hashdl::cuda
