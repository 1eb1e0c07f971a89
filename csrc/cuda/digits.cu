#include "cuda/digits.h"

#include "cuda/digit_code.h"
#include "cuda/runs.h"

namespace hashdl::cuda {
namespace {

constexpr int kThreads = 256;

/// A thread a code, whose values it reads one after the other from lines in L1.
__global__ void pack_digits_kernel(PackDigits args) {
  const int64_t i = thread_index();
  if (i >= args.codes) return;
  args.out[i] = checked_digit_code(
      args.projections + i * cpu::all_slots(args.K), args.K,
      "hashdl::pack_digits: projections: got NaN or infinity, wanted finite values");
}

struct DigitBegins {
  const int32_t* begins;
  __device__ bool operator()(int64_t c) const {
    require(begins[c] == 1 || (begins[c] == 0 && c > 0),
            "hashdl::densified_projections: functions: wanted 1 where a digit begins, else 0, in "
            "the first row");
    return begins[c] == 1;
  }
};

constexpr uint64_t kNothing = ~uint64_t{0};

/// The rank of a vector's largest coordinate that is not zero, kNothing where all are.
__device__ uint64_t top_of(const float* vector, int64_t D) {
  uint64_t best = kNothing;
  for (int64_t i = threadIdx.x; i < D; i += kThreads) {
    require(vector[i] - vector[i] == 0.0f,
            "hashdl::densified_projections: vectors: got NaN or infinity, wanted finite values");
    const uint64_t rank = rank_of(vector[i], i);
    if (vector[i] != 0.0f && rank < best) best = rank;
  }
  return block_reduce<kThreads>(best, kNothing, [](uint64_t part) { return warp_min(part); });
}

/// One digit of a vector whose largest coordinate is `top`.
__device__ void fill_digit(const Densify& args, const float* vector, int64_t top, int64_t first,
                           int64_t slots, float* values) {
  for (int64_t t = 0; t < args.T; ++t) {
    const int32_t* const coordinates = args.functions + t * args.C + first;
    for (int64_t s = 0; s < slots; ++s) {
      require(coordinates[s] >= 0 && coordinates[s] < args.D,
              "hashdl::densified_projections: functions: got a coordinate outside 0 to D - 1");
    }
    if (cpu::fill_slots(vector, coordinates, slots, values)) return;
  }
  values[cpu::last_slot(args.functions[first], top, slots)] = vector[top];
}

/// A block a vector, a thread a digit.
__global__ void __launch_bounds__(kThreads) densify_kernel(Densify args, Runs digits) {
  const float* const vector = args.vectors + blockIdx.x * args.D;
  float* const values = args.values + blockIdx.x * args.C;
  const uint64_t top = top_of(vector, args.D);
  if (top == kNothing) {
    for (int64_t c = threadIdx.x; c < args.C; c += kThreads) values[c] = 0.0f;
    return;
  }
  const auto at = static_cast<int64_t>(top & 0xffffffffu);
  for (int64_t i = threadIdx.x; i < *digits.count; i += kThreads) {
    const int64_t first = digits.starts[i], slots = digits.starts[i + 1] - first;
    fill_digit(args, vector, at, first, slots, values + first);
  }
}

}  // namespace

void pack_digits(const PackDigits& args, Stream stream) {
  launch(pack_digits_kernel, blocks_for(args.codes, kThreads), kThreads, 0, stream, args);
}

void densify(const Densify& args, Scratch& scratch, Stream stream) {
  const Runs digits = Runs::make(args.C, scratch);
  if (scratch.measuring()) return;
  find_runs(DigitBegins{args.begins}, args.C, digits, stream);
  launch(densify_kernel, args.M, kThreads, 0, stream, args, digits);
}

}  // namespace hashdl::cuda
