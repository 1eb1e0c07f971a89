// lookup.
#include "ops/lookup.h"

#include <algorithm>

#include "cuda/lookup.h"

namespace hashdl::ops {
namespace {

/// How many rows any sample can find, at most: where a look-up has room for far more, its arrays
/// would take longer to fill than a single query to answer. Of buckets (B, L, P) and offsets
/// (L, width), which a Finder checks.
int64_t most_found(const Tensor& buckets, const Tensor& offsets, int64_t cap, int64_t candidates) {
  const int64_t B = buckets.size(0), L = buckets.size(1), P = buckets.size(2);
  const int64_t width = offsets.size(1);
  const int32_t* code = data<int32_t>(buckets);
  int64_t most = 0;
  for (int64_t b = 0; b < B && most < candidates; ++b) {
    int64_t found = 0;
    for (int64_t l = 0; l < L; ++l) {
      const int32_t* ends = data<int32_t>(offsets) + l * width;
      for (int64_t p = 0; p < P; ++p, ++code) {
        if (*code < 0 || *code >= width - 1) continue;
        const int64_t size = int64_t{ends[*code + 1]} - ends[*code];
        found += std::clamp(size, int64_t{0}, cap);
      }
    }
    most = std::max(most, found);
  }
  return std::min(most, candidates);
}

}  // namespace

LookupCall::LookupCall(const char* op, const Tensor& buckets, const Tensor& offsets,
                       const Tensor& rows, int64_t cap, int64_t candidates, bool counted,
                       int64_t seed, const Tensor& step)
    : op_(op) {
  check_dtype(buckets, ScalarType::Int, op, "buckets");
  check_dtype(offsets, ScalarType::Int, op, "offsets");
  check_dtype(rows, ScalarType::Int, op, "rows");
  check_shape(rows, {-1, -1}, op, "rows");
  const int64_t L = rows.size(0), N = rows.size(1);
  check_shape(offsets, {L, -1}, op, "offsets");
  check(offsets.size(1) >= 1, op, "offsets",
        [&] { return "got shape " + shape_string(offsets) + ", wanted (L, buckets + 1)"; });
  check_shape(buckets, {-1, L, -1}, op, "buckets");
  check(cap >= 1, op, "cap", [&] { return "got " + std::to_string(cap) + ", wanted 1 or more"; });
  check(candidates >= 0, op, "candidates",
        [&] { return "got " + std::to_string(candidates) + ", wanted 0 or more"; });
  check_one_device(op, {buckets, offsets, rows});
  const int64_t B = buckets.size(0);
  buckets_ = as_contiguous(buckets);
  ends_ = as_contiguous(offsets);
  table_rows_ = as_contiguous(rows);
  if (!counted) candidates = most_found(buckets_, ends_, cap, candidates);
  found = empty(buckets_, {B, candidates}, ScalarType::Int);
  if (counted) hits = empty(buckets_, {B, candidates}, ScalarType::Int);
  args = {data<int32_t>(buckets_),
          data<int32_t>(ends_),
          data<int32_t>(table_rows_),
          mutable_data<int32_t>(found),
          counted ? mutable_data<int32_t>(*hits) : nullptr,
          N,
          L,
          buckets.size(2),
          candidates,
          offsets.size(1),
          cap,
          seed,
          read_step(step, op)};
}

void LookupCall::note(const cpu::LookupChecks& checks) {
  if (!checks.buckets_ok) buckets_ok_.store(false, std::memory_order_relaxed);
  if (!checks.tables_ok) tables_ok_.store(false, std::memory_order_relaxed);
}

void LookupCall::check_noted() const {
  check(buckets_ok_, op_, "buckets",
        [&] { return "got a bucket outside -1 to " + std::to_string(args.width - 2); });
  check(tables_ok_, op_, "offsets", "got a bucket that ends before it starts, or outside rows");
}

namespace {

std::tuple<Tensor, Tensor> lookup(const Tensor& buckets, const Tensor& offsets, const Tensor& rows,
                                  int64_t cap, int64_t candidates, int64_t seed,
                                  const Tensor& step) {
  LookupCall call("lookup", buckets, offsets, rows, cap, candidates, true, seed, step);
  if constexpr (kCuda) {
    if (is_cuda(buckets)) {
      run_with_scratch(buckets, [&](cuda::Scratch& scratch, cuda::Stream stream) {
        cuda::lookup(call.args, buckets.size(0), step_for_gpu(step), scratch, stream);
      });
      return {call.found, *call.hits};
    }
  }
  torch::stable::parallel_for(0, buckets.size(0), 1, [&](int64_t begin, int64_t end) {
    call.note(cpu::Finder(call.args).run(begin, end));
  });
  call.check_noted();
  return {call.found, *call.hits};
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) { m.impl("lookup", TORCH_BOX(&hashdl::ops::lookup)); }
