// pack_signs and build_tables.
#include "cpu/hashing.h"

#include "ops/common.h"

namespace hashdl::ops {
namespace {

Tensor pack_signs(const Tensor& projections, int64_t bits) {
  constexpr auto op = "pack_signs";
  check_bits(bits, op);
  check_dtype(projections, ScalarType::Float, op, "projections");
  check_shape(projections, {-1, -1}, op, "projections");
  check(projections.size(1) % bits == 0, op, "projections",
        "got shape " + shape_string(projections) +
            ", wanted (*, multiple of bits = " + std::to_string(bits) + ")");
  const int64_t M = projections.size(0), L = projections.size(1) / bits;
  const Tensor source = as_contiguous(projections);
  const Tensor codes = empty(source, {M, L}, ScalarType::Int);
  const bool finite = parallel_all(M, 256, [&](int64_t begin, int64_t end) {
    return cpu::pack_signs(data<float>(source), begin, end, L, bits, mutable_data<int32_t>(codes));
  });
  check(finite, op, "projections", "got NaN or infinity, wanted finite values");
  return codes;
}

std::tuple<Tensor, Tensor> build_tables(const Tensor& codes, int64_t bits) {
  constexpr auto op = "build_tables";
  check_bits(bits, op);
  check_dtype(codes, ScalarType::Int, op, "codes");
  check_shape(codes, {-1, -1}, op, "codes");
  const int64_t N = codes.size(0), L = codes.size(1);
  const Tensor source = as_contiguous(codes);
  const Tensor offsets = empty(source, {L, (int64_t{1} << bits) + 1}, ScalarType::Int);
  const Tensor rows = empty(source, {L, N}, ScalarType::Int);
  const bool in_range = parallel_all(L, 1, [&](int64_t begin, int64_t end) {
    return cpu::build_tables(data<int32_t>(source), begin, end, N, L, bits,
                             mutable_data<int32_t>(offsets), mutable_data<int32_t>(rows));
  });
  check(in_range, op, "codes", "got a code outside [0, 2^bits)");
  return {offsets, rows};
}

}  // namespace
}  // namespace hashdl::ops

STABLE_TORCH_LIBRARY_IMPL(hashdl, CPU, m) {
  m.impl("pack_signs", TORCH_BOX(&hashdl::ops::pack_signs));
  m.impl("build_tables", TORCH_BOX(&hashdl::ops::build_tables));
}
