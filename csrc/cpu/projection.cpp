#include "cpu/projection.h"

#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

// Rows of functions that are added at once: so many reads for one store.
constexpr int kRows = 4;

/// out += sum over R rows of x[r] * functions[r].
template <int R>
HASHDL_INLINE void add_rows(const float (&x)[R], const float* const (&functions)[R], int64_t F,
                            float* out) {
  constexpr int64_t lanes = VecOf<float>::lanes;
  int64_t f = 0;
  for (; f + lanes <= F; f += lanes) {
    Vec<float> sum = load(out + f);
    for (int r = 0; r < R; ++r) sum += x[r] * load(functions[r] + f);
    store(out + f, sum);
  }
  for (; f < F; ++f) {
    for (int r = 0; r < R; ++r) out[f] += x[r] * functions[r][f];
  }
}

template <int R, typename T>
HASHDL_INLINE void add_features(const Project<T>& args, const T* x, const int32_t* features,
                                float* out) {
  float values[R];
  const float* functions[R];
  for (int r = 0; r < R; ++r) {
    values[r] = static_cast<float>(load1(x + features[r]));
    functions[r] = args.functions + features[r] * args.F;
  }
  add_rows<R>(values, functions, args.F, out);
}

/// Functions of inputs that are 0 are not read: after a ReLU, half of them.
template <typename T>
void project(const Project<T>& args, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    const T* x = args.x + b * args.d;
    float* out = args.projections + b * args.F;
    int64_t count = 0;
    for (int64_t k = 0; k < args.d; ++k) {
      args.features[count] = static_cast<int32_t>(k);
      count += load1(x + k) != 0;
    }
    const float* last = args.functions + args.d * args.F;  // of the 1
    for (int64_t f = 0; f < args.F; ++f) out[f] = last[f];
    int64_t i = 0;
    for (; i + kRows <= count; i += kRows) add_features<kRows>(args, x, args.features + i, out);
    for (; i < count; ++i) add_features<1>(args, x, args.features + i, out);
  }
}

}  // namespace

template <typename T>
const ProjectionKernels<T>& projection_kernels() {
  static constexpr ProjectionKernels<T> kernels{project<T>};
  return kernels;
}

template const ProjectionKernels<float>& projection_kernels<float>();
template const ProjectionKernels<double>& projection_kernels<double>();
template const ProjectionKernels<BFloat16>& projection_kernels<BFloat16>();
template const ProjectionKernels<Half>& projection_kernels<Half>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
