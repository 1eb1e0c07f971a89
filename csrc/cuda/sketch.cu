#include "cuda/sketch.h"

#include "cpu/levels.h"
#include "cuda/device.h"
#include "cuda/launch.h"

namespace hashdl::cuda {
namespace {

using cpu::SketchScores;

constexpr int kThreads = 256;
constexpr int kLanes = 8;                   // that read one candidate's sketch together
constexpr int kAtOnce = kThreads / kLanes;  // candidates
constexpr int kEach = 4;                    // candidates of eight lanes
constexpr int kHere = kAtOnce * kEach;      // candidates of a block
constexpr int kWords = 64;                  // of the query that are at hand
constexpr int kStride = kWarp + 1;          // lanes read words apart: from banks of their own

/// Sum of the values whose bits are set.
__device__ float sum_of_set(const float* values, int32_t word) {
  float sum = 0;
#pragma unroll
  for (int bit = 0; bit < kWarp; ++bit) sum += word >> bit & 1 ? values[bit] : 0.0f;
  return sum;
}

/// A thread's candidates of a sample, from `first` on; -1 where there are no more.
__device__ void read_candidates(const SketchScores<float>& args, int64_t b, int64_t first,
                                int64_t N, int32_t (&rows)[kEach]) {
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int64_t c = first + e * kAtOnce;
    rows[e] = c < args.C ? args.candidates[b * args.C + c] : -1;
    require(rows[e] >= -1 && rows[e] < N,
            "hashdl::sketch_scores: candidates: got an id outside -1 to N - 1");
  }
}

/// A block some candidates of a sample: eight lanes one at a time, the query in shared memory.
__global__ void __launch_bounds__(kThreads)
    scores_kernel(SketchScores<float> args, int64_t parts, int64_t N) {
  static __shared__ float query[kWords * kStride];
  const int64_t b = blockIdx.x / parts, W = args.W;
  const int64_t first = blockIdx.x % parts * kHere + threadIdx.x / kLanes;
  const int part = lane() % kLanes;
  int32_t rows[kEach];
  read_candidates(args, b, first, N, rows);
  float sums[kEach] = {}, total = 0;
  for (int64_t begin = 0; begin < W; begin += kWords) {
    const int64_t here = W - begin < kWords ? W - begin : kWords;
    for (int64_t i = threadIdx.x; i < here * kWarp; i += kThreads) {
      const float value = args.queries[(b * W + begin) * kWarp + i];
      query[i / kWarp * kStride + i % kWarp] = value;
      total += value;
    }
    __syncthreads();
    for (int64_t w = part; w < here; w += kLanes) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        if (rows[e] < 0) continue;
        sums[e] += sum_of_set(query + w * kStride, args.sketches[rows[e] * W + begin + w]);
      }
    }
    __syncthreads();
  }
  total = block_sum<kThreads>(total);
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      sums[e] += __shfl_xor_sync(kAllLanes, sums[e], offset);
    }
    const int64_t c = first + e * kAtOnce;
    if (part != 0 || c >= args.C) continue;
    // Set bits count once, the others minus once.
    const float score = rows[e] < 0 ? 0.0f : args.norms[rows[e]] * (2 * sums[e] - total);
    args.scores[b * args.C + c] = score;
  }
}

constexpr int kCodes = cpu::kLevelsInWord;

/// What a query's coordinates are multiplied by, and their integers by in turn.
struct QueryScale {
  float by, scale;
};

/// Of a query of S coordinates, in every thread.
__device__ QueryScale query_scale(const float* query, int64_t S) {
  float most = 0, poison = 0;  // zero times NaN or infinity is NaN
  for (int64_t k = threadIdx.x; k < S; k += kThreads) {
    const float size = query[k] < 0 ? -query[k] : query[k];
    most = size > most ? size : most;
    poison += query[k] * 0.0f;
  }
  most = block_max<kThreads>(most, 0.0f);
  poison = block_sum<kThreads>(poison);
  if (poison != 0.0f) return {0.0f, poison};
  return {most < cpu::kQueryFloor ? 0.0f : cpu::kQueryLevel / most, most / cpu::kQueryLevel};
}

/// As scores_kernel, with the integers of the query in shared memory.
__global__ void __launch_bounds__(kThreads)
    level_scores_kernel(SketchScores<float> args, int64_t parts, int64_t N) {
  static __shared__ int32_t query[kWords * (kCodes + 1)];
  const int64_t b = blockIdx.x / parts, W = args.W, S = kCodes * W;
  const int64_t first = blockIdx.x % parts * kHere + threadIdx.x / kLanes;
  const int part = lane() % kLanes;
  int32_t rows[kEach];
  read_candidates(args, b, first, N, rows);
  const QueryScale how = query_scale(args.queries + b * S, S);
  int32_t sums[kEach] = {};
  for (int64_t begin = 0; begin < W; begin += kWords) {
    const int64_t here = W - begin < kWords ? W - begin : kWords;
    for (int64_t i = threadIdx.x; i < here * kCodes; i += kThreads) {
      const float value = args.queries[b * S + begin * kCodes + i];
      query[i / kCodes * (kCodes + 1) + i % kCodes] =
          how.by > 0 ? static_cast<int32_t>(rintf(value * how.by)) : 0;
    }
    __syncthreads();
    for (int64_t w = part; w < here; w += kLanes) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        if (rows[e] < 0) continue;
        const int32_t word = args.sketches[rows[e] * W + begin + w];
        for (int k = 0; k < kCodes; ++k) {  // level v stands for 2 v - 15
          const int32_t level = 2 * (word >> 4 * k & 15) - (cpu::kLevels - 1);
          sums[e] += level * query[w * (kCodes + 1) + k];
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      sums[e] += __shfl_xor_sync(kAllLanes, sums[e], offset);
    }
    const int64_t c = first + e * kAtOnce;
    if (part != 0 || c >= args.C) continue;
    const float estimate = how.scale * static_cast<float>(sums[e]);
    args.scores[b * args.C + c] = rows[e] < 0 ? 0.0f : args.norms[rows[e]] * estimate;
  }
}

}  // namespace

void level_scores(const SketchScores<float>& args, int64_t B, int64_t N, Stream stream) {
  const int64_t parts = blocks_for(args.C, kHere);
  launch(level_scores_kernel, B * parts, kThreads, 0, stream, args, parts, N);
}

void sketch_scores(const SketchScores<float>& args, int64_t B, int64_t N, Stream stream) {
  const int64_t parts = blocks_for(args.C, kHere);
  launch(scores_kernel, B * parts, kThreads, 0, stream, args, parts, N);
}

}  // namespace hashdl::cuda
