#include "cuda/sketch.h"

#include "cuda/device.h"

namespace hashdl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 8;  // that read one candidate's codes together

/// cosines[h]: of the angle that h differing bits stand for, as the CPU kernels have it.
__global__ void fill_cosines(float* cosines, int64_t count, int64_t bits) {
  const int64_t h = thread_index();
  if (h >= count) return;
  const double share = static_cast<double>(h) / static_cast<double>(bits);
  constexpr double pi = 3.141592653589793;
  cosines[h] = static_cast<float>(cos(pi * (share < 1.0 ? share : 1.0)));
}

__global__ void scores_kernel(SketchScores args, const float* cosines) {
  const int64_t i = thread_index() / kLanes;
  const int part = lane() % kLanes;
  const int32_t row = i < args.B * args.C ? args.candidates[i] : -1;
  require(row >= -1 && row < args.N,
          "hashdl::sketch_scores: candidates: got an id outside -1 to N - 1");
  int32_t differing = 0;
  if (row >= 0) {
    const int32_t* const query = args.queries + i / args.C * args.L;
    const int32_t* const codes = args.codes + row * args.L;
    for (int64_t l = part; l < args.L; l += kLanes) differing += __popc(query[l] ^ codes[l]);
  }
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    differing += __shfl_xor_sync(kAllLanes, differing, offset);
  }
  if (part == 0 && i < args.B * args.C) {
    args.scores[i] = row < 0 ? 0.0f : args.norms[row] * cosines[differing];
  }
}

}  // namespace

void sketch_scores(const SketchScores& args, Scratch& scratch, cudaStream_t stream) {
  const int64_t count = 32 * args.L + 1;  // a code from outside may have any of its bits set
  float* const cosines = scratch.take<float>(count);
  if (scratch.measuring()) return;
  launch(fill_cosines, blocks_for(count, kThreads), kThreads, 0, stream, cosines, count,
         args.L * args.K);
  launch(scores_kernel, blocks_for(args.B * args.C * kLanes, kThreads), kThreads, 0, stream, args,
         cosines);
}

}  // namespace hashdl::cuda
