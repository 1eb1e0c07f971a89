// The buckets that queries probe in each table, for codes of any kind.
#pragma once

#include <algorithm>

#include "cuda/probing.h"
#include "ops/common.h"

namespace hashdl::ops {

/// Of projections (B, L K), and of scores (B, L W): see hashdl.ops. `op` is named in errors.
Tensor probe_signs(const Tensor& projections, int64_t bits, int64_t probes, const char* op);
Tensor best_columns(const Tensor& scores, int64_t groups, int64_t count, const char* op);

inline constexpr auto kNotFinite =
    "got NaN or infinity, wanted finite values (is the input finite?)";

/// Buckets int32 (B, L, P) of checked projections (B, L * width), by a Sequence of the code's kind.
/// `pack` writes the own codes of some tables, and tells whether all values are finite; `on_gpu`
/// launches the kernel.
template <typename Sequence, typename Pack, typename OnGpu>
Tensor probe(const Tensor& projections, int64_t L, int64_t width, int64_t bits, int64_t probes,
             const char* op, const Pack& pack, const OnGpu& on_gpu) {
  check(probes >= 1, op, "probes",
        [&] { return "got " + std::to_string(probes) + ", wanted 1 or more"; });
  const int64_t B = projections.size(0), P = std::min(probes, int64_t{1} << bits);
  const Tensor source = as_contiguous(projections);
  const Tensor buckets = empty(source, {B, L, P}, ScalarType::Int);
  if constexpr (kCuda) {
    if (is_cuda(source)) {
      const cuda::Probe args{data<float>(source), mutable_data<int32_t>(buckets), B, L, bits, P};
      run_with_scratch(source, [&](cuda::Scratch& scratch, cuda::Stream stream) {
        on_gpu(args, scratch, stream);
      });
      return buckets;
    }
  }
  const bool finite = parallel_all(B, 8, [&](int64_t begin, int64_t end) {
    const float* values = data<float>(source);
    int32_t* out = mutable_data<int32_t>(buckets);
    std::vector<int32_t> memory(Sequence::bytes(bits, P) / 4);
    Sequence sequence(bits, P, memory.data());
    std::vector<int32_t> own((end - begin) * L);
    const bool ok = pack(values + begin * L * width, (end - begin) * L, own.data());
    for (int64_t i = begin * L; ok && i < end * L; ++i) {
      sequence.fill(values + i * width, own[i - begin * L], out + i * P);
    }
    return ok;
  });
  check(finite, op, "projections", kNotFinite);
  return buckets;
}

}  // namespace hashdl::ops
