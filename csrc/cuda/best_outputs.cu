#include "cuda/best_outputs.h"

#include "cuda/launch.h"
#include "cuda/numbers.h"
#include "cuda/row_map.h"

namespace hashdl::cuda {
namespace {

using cpu::BestOutputs;

constexpr int kThreads = 256;

/// One sample's places in z, -1 = none, sorted by a bitonic network: the same steps for any values.
template <typename T>
class Sorter {
 public:
  __device__ Sorter(const BestOutputs<T>& args, int64_t b, int32_t* places, int64_t slots)
      : args_(args),
        z_(args.z + b * args.A),
        rows_(args.rows + b * args.A),
        places_(places),
        slots_(slots) {}

  __device__ void run() {
    for (int64_t i = threadIdx.x; i < slots_; i += kThreads) {
      places_[i] = i < args_.A && rows_[i] >= 0 ? static_cast<int32_t>(i) : -1;
    }
    __syncthreads();
    for (int64_t size = 2; size <= slots_; size *= 2) {
      for (int64_t stride = size / 2; stride > 0; stride /= 2) merge(size, stride);
    }
  }

  __device__ void write(T* values, int64_t* best) const {
    for (int64_t i = threadIdx.x; i < args_.k; i += kThreads) {
      const int32_t place = i < slots_ ? places_[i] : -1;
      values[i] = place < 0 ? cpu::lowest<T>() : z_[place];
      best[i] = place < 0 ? -1 : rows_[place];
    }
  }

 private:
  __device__ void merge(int64_t size, int64_t stride) {
    for (int64_t i = threadIdx.x; i < slots_; i += kThreads) {
      const int64_t j = i ^ stride;
      const bool ascending = (i & size) == 0;
      if (j <= i || before(places_[j], places_[i]) != ascending) continue;
      const int32_t place = places_[i];
      places_[i] = places_[j];
      places_[j] = place;
    }
    __syncthreads();
  }

  __device__ bool before(int32_t i, int32_t j) const {
    if (i < 0 || j < 0) return i >= 0;
    return cpu::comes_before(widen(z_[i]), i, widen(z_[j]), j);
  }

  const BestOutputs<T>& args_;
  const T* z_;
  const int32_t* rows_;
  int32_t* places_;
  int64_t slots_;
};

template <typename T>
__global__ void best_outputs_kernel(BestOutputs<T> args, int64_t B, BlockMemory memory,
                                    int64_t slots) {
  for (int64_t b = blockIdx.x; b < B; b += gridDim.x) {
    Sorter<T> sorter(args, b, memory.mine(), slots);
    sorter.run();
    sorter.write(args.values + b * args.k, args.best + b * args.k);
    __syncthreads();
  }
}

}  // namespace

template <typename T>
void best_outputs(const BestOutputs<T>& args, int64_t B, Scratch& scratch, Stream stream) {
  int64_t slots = 1;
  while (slots < args.A) slots *= 2;
  const BlockMemory memory = BlockMemory::make(slots, B, scratch);
  if (scratch.measuring()) return;
  launch(best_outputs_kernel<T>, memory.blocks(B), kThreads, memory.shared_bytes(), stream, args, B,
         memory, slots);
}

template void best_outputs(const BestOutputs<float>&, int64_t, Scratch&, Stream);
template void best_outputs(const BestOutputs<double>&, int64_t, Scratch&, Stream);
template void best_outputs(const BestOutputs<BFloat16>&, int64_t, Scratch&, Stream);
template void best_outputs(const BestOutputs<Half>&, int64_t, Scratch&, Stream);

}  // namespace hashdl::cuda
