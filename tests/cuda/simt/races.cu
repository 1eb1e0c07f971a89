// Kernels with and without a mistake that the host must see: tests/ops/test_ops_simt.py.
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/numbers.h"

namespace hashdl::cuda {
namespace {

constexpr int kThreads = 64;

enum Case : int {
  kNoBarrier,
  kBarrier,
  kNoWarpBarrier,
  kWarpBarrier,
  kShuffleAlone,
  kWarpBarrierOfTwoWarps,
  kOtherBlock,
  kBlockOfItsOwn,
  kAtomics,
  kAtomicsAndARead,
  kAtomicsThenARead,
  kUnwritten,
  kMissingLanes,
  kAlignedLoad,
  kLoadOffItsBoundary,
};

/// What the thread stores, and then takes from `distance` before.
template <typename Wait>
__device__ int32_t pass_on(int32_t* places, unsigned distance, const Wait& wait) {
  places[threadIdx.x] = static_cast<int32_t>(threadIdx.x);
  wait();
  return places[(threadIdx.x + kThreads - distance) % kThreads];
}

__device__ int32_t sum_of_four(const float* from) {
  float numbers[4];
  load<4>(from, numbers);
  return static_cast<int32_t>(numbers[0] + numbers[1] + numbers[2] + numbers[3]);
}

__global__ void case_kernel(Case which, const float* numbers, int32_t* out) {
  static __shared__ int32_t places[kThreads], count;
  const int64_t i = thread_index();
  if (threadIdx.x == 0) count = 0;
  if (which != kUnwritten) places[threadIdx.x] = 0;
  __syncthreads();
  const unsigned in_warp = threadIdx.x % kWarp == 0 ? 0 : 1;
  switch (which) {
    case kNoBarrier:
      out[i] = pass_on(places, kWarp, [] {});
      break;
    case kBarrier:
      out[i] = pass_on(places, kWarp, [] { __syncthreads(); });
      break;
    case kNoWarpBarrier:
      out[i] = pass_on(places, in_warp, [] {});
      break;
    case kWarpBarrier:
      out[i] = pass_on(places, in_warp, [] { __syncwarp(); });
      break;
    case kShuffleAlone:
      out[i] = pass_on(places, in_warp, [] { __ballot_sync(kAllLanes, true); });
      break;
    case kWarpBarrierOfTwoWarps:
      out[i] = pass_on(places, kWarp, [] { __syncwarp(); });
      break;
    case kOtherBlock:
      out[threadIdx.x] = 1;
      break;
    case kBlockOfItsOwn:
      out[i] = 1;
      break;
    case kAtomics:
    case kAtomicsAndARead:
    case kAtomicsThenARead:
      atomicAdd(&count, 1);
      if (which == kAtomics) break;
      if (which == kAtomicsThenARead) __syncthreads();
      out[i] = count;
      break;
    case kUnwritten:
      out[i] = places[threadIdx.x];
      break;
    case kMissingLanes:
      if (threadIdx.x % 2 == 0) out[i] = warp_sum(1);
      break;
    case kAlignedLoad:
    case kLoadOffItsBoundary:
      out[i] = sum_of_four(numbers + 4 * i + (which == kAlignedLoad ? 0 : 1));
      break;
  }
}

std::string message;

}  // namespace
}  // namespace hashdl::cuda

/// Runs a case by two blocks; their message where it fails.
extern "C" __attribute__((visibility("default"))) const char* simt_run_case(int which) {
  using namespace hashdl::cuda;
  int32_t out[2 * kThreads];
  alignas(16) const float numbers[8 * kThreads + 1] = {};
  try {
    launch(case_kernel, 2, kThreads, 0, nullptr, static_cast<Case>(which), &numbers[0], &out[0]);
    message.clear();
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
