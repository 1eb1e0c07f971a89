// pack_signs, build_tables, limit_buckets and mark_rows_.
#include "cpu/hashing.h"

#include <algorithm>
#include <atomic>

#include "cuda/hashing.h"
#include "ops/common.h"

namespace hashdl::ops {
namespace {

Tensor pack_signs(const Tensor& projections, int64_t bits) {
  constexpr auto op = "pack_signs";
  check_sign_projections(projections, bits, op);
  const int64_t M = projections.size(0), L = projections.size(1) / bits;
  const Tensor source = as_contiguous(projections);
  const Tensor codes = empty(source, {M, L}, ScalarType::Int);
  if constexpr (kCuda) {
    if (is_cuda(source)) {
      run_on_gpu(source, [&](cuda::Stream stream) {
        cuda::pack_signs({data<float>(source), mutable_data<int32_t>(codes), M, L, bits}, stream);
      });
      return codes;
    }
  }
  const bool finite = parallel_all(M, 256, [&](int64_t begin, int64_t end) {
    return cpu::pack_signs(data<float>(source), begin, end, L, bits, mutable_data<int32_t>(codes));
  });
  check(finite, op, "projections", "got NaN or infinity, wanted finite values");
  return codes;
}

// Rows of a table that are worth a thread of their own.
constexpr int64_t kPartRows = 1 << 14;

/// Builds tables of N rows one after the other, each by several threads.
class TableBuilder {
 public:
  TableBuilder(const Tensor& like, int64_t N, int64_t K)
      : N_(N),
        K_(K),
        shelves_(int64_t{1} << cpu::high_bits(K)),
        // Parts change nothing but the time: there may be as many as there are threads.
        P_(std::clamp<int64_t>(N / kPartRows, 1, torch::stable::get_num_threads())),
        counts_(P_ * shelves_),
        ends_(shelves_ + 1),
        sorted_(empty(like, {N, 2}, ScalarType::Int)) {}

  /// False when a code lies outside [0, 2^K).
  bool build(const int32_t* codes, int32_t* offsets, int32_t* rows) {
    auto* sorted = reinterpret_cast<cpu::Coded*>(mutable_data<int32_t>(sorted_));
    const bool in_range = each_part([&](int64_t begin, int64_t end, int32_t* counts) {
      return cpu::count_codes(codes, begin, end, K_, counts);
    });
    if (!in_range) return false;
    cpu::place_shelves(counts_.data(), P_, K_, ends_.data());
    each_part([&](int64_t begin, int64_t end, int32_t* places) {
      cpu::fill_shelves(codes, begin, end, K_, places, sorted);
      return true;
    });
    const int64_t grain = (shelves_ + P_ - 1) / P_;
    torch::stable::parallel_for(0, shelves_, grain, [&](int64_t begin, int64_t end) {
      cpu::fill_buckets(sorted, ends_.data(), begin, end, K_, offsets, rows);
    });
    offsets[int64_t{1} << K_] = static_cast<int32_t>(N_);
    return true;
  }

 private:
  /// Calls body(first row, end, counts of the part) for each part; true when every part was.
  template <typename Body>
  bool each_part(const Body& body) {
    return parallel_all(P_, 1, [&](int64_t begin, int64_t end) {
      bool ok = true;
      for (int64_t p = begin; p < end; ++p) {
        ok &= body(N_ * p / P_, N_ * (p + 1) / P_, counts_.data() + p * shelves_);
      }
      return ok;
    });
  }

  int64_t N_, K_, shelves_, P_;
  std::vector<int32_t> counts_, ends_;
  Tensor sorted_;
};

std::tuple<Tensor, Tensor> build_tables(const Tensor& codes, int64_t bits) {
  constexpr auto op = "build_tables";
  check_bits(bits, op);
  check_dtype(codes, ScalarType::Int, op, "codes");
  check_shape(codes, {-1, -1}, op, "codes");
  const int64_t L = codes.size(0), N = codes.size(1), buckets = int64_t{1} << bits;
  const Tensor source = as_contiguous(codes);
  const Tensor offsets = empty(source, {L, buckets + 1}, ScalarType::Int);
  const Tensor rows = empty(source, {L, N}, ScalarType::Int);
  if constexpr (kCuda) {
    if (is_cuda(source)) {
      const cuda::BuildTables args{data<int32_t>(source),
                                   mutable_data<int32_t>(offsets),
                                   mutable_data<int32_t>(rows),
                                   L,
                                   N,
                                   bits};
      run_with_scratch(source, [&](cuda::Scratch& scratch, cuda::Stream stream) {
        cuda::build_tables(args, scratch, stream);
      });
      return {offsets, rows};
    }
  }
  TableBuilder builder(source, N, bits);
  for (int64_t l = 0; l < L; ++l) {
    const bool in_range = builder.build(data<int32_t>(source) + l * N,
                                        mutable_data<int32_t>(offsets) + l * (buckets + 1),
                                        mutable_data<int32_t>(rows) + l * N);
    check(in_range, op, "codes", "got a code outside [0, 2^bits)");
  }
  return {offsets, rows};
}

// Buckets that are worth a thread of their own.
constexpr int64_t kPartBuckets = 1 << 10;

std::tuple<Tensor, Tensor> limit_buckets(const Tensor& offsets, const Tensor& rows,
                                         int64_t capacity, std::string replacement, int64_t seed,
                                         int64_t first_table) {
  constexpr auto op = "limit_buckets";
  check_dtype(rows, ScalarType::Int, op, "rows");
  check_shape(rows, {-1, -1}, op, "rows");
  const int64_t L = rows.size(0), N = rows.size(1);
  check_dtype(offsets, ScalarType::Int, op, "offsets");
  check_shape(offsets, {L, -1}, op, "offsets");
  const int64_t buckets = offsets.size(1) - 1;
  check(buckets >= 0, op, "offsets",
        "got shape " + shape_string(offsets) + ", wanted (L, buckets + 1)");
  check(capacity >= 1, op, "capacity", "got " + std::to_string(capacity) + ", wanted 1 or more");
  check(replacement == "fifo" || replacement == "reservoir", op, "replacement",
        "got '" + replacement + "', wanted one of ['fifo', 'reservoir']");
  const Tensor source = as_contiguous(rows), ends = as_contiguous(offsets);
  check_one_device(op, {source, ends});
  // No product: a capacity may be as large as an int64.
  const int64_t width = buckets == 0 || capacity > N / buckets ? N : capacity * buckets;
  const Tensor limited_offsets = empty(source, {L, buckets + 1}, ScalarType::Int);
  const Tensor limited_rows = empty(source, {L, width}, ScalarType::Int);
  for (int64_t l = 0; l < L; ++l) {
    const cpu::LimitBuckets args{data<int32_t>(ends) + l * (buckets + 1),
                                 data<int32_t>(source) + l * N,
                                 mutable_data<int32_t>(limited_offsets) + l * (buckets + 1),
                                 mutable_data<int32_t>(limited_rows) + l * width,
                                 buckets,
                                 N,
                                 capacity,
                                 replacement == "reservoir",
                                 seed,
                                 first_table + l};
    if constexpr (kCuda) {
      if (is_cuda(source)) {
        run_with_scratch(source, [&](cuda::Scratch& scratch, cuda::Stream stream) {
          cuda::limit_buckets(args, width, scratch, stream);
        });
        continue;
      }
    }
    check(cpu::limit_offsets(args), op, "offsets",
          "got a bucket that ends before it starts, or outside rows");
    torch::stable::parallel_for(0, buckets, kPartBuckets, [&](int64_t begin, int64_t end) {
      cpu::limit_rows(args, begin, end);
    });
    std::fill(args.limited_rows + args.limited_offsets[buckets], args.limited_rows + width, -1);
  }
  return {limited_offsets, limited_rows};
}

/// Rows that one thread marks sooner than another is woken.
constexpr int64_t kMarkGrain = 1 << 17;

/// Bytes of marks whose lines two threads would take from each other again and again.
constexpr int64_t kContended = 1 << 18;

void mark_rows_(const Tensor& dirty, const Tensor& rows, int64_t bits) {
  constexpr auto op = "mark_rows_";
  check_dtype(dirty, ScalarType::Byte, op, "dirty");
  check_shape(dirty, {-1}, op, "dirty");
  check_in_place(dirty, op, "dirty");
  check_dtype(rows, ScalarType::Int, op, "rows");
  check(bits >= 0 && bits <= 255, op, "bits", "got " + std::to_string(bits) + ", wanted 0 to 255");
  const Tensor ids = as_contiguous(rows);
  check_rows(ids, -1, dirty.size(0), op, "rows");
  check_one_device(op, {dirty, ids});
  uint8_t* marks = mutable_data<uint8_t>(dirty);
  if constexpr (kCuda) {
    if (is_cuda(dirty)) {
      const cuda::MarkRows args{marks, data<int32_t>(ids), ids.numel(), dirty.size(0),
                                static_cast<uint8_t>(bits)};
      return run_on_gpu(dirty, [&](cuda::Stream stream) { cuda::mark_rows(args, stream); });
    }
  }
  const int32_t* row = data<int32_t>(ids);
  // A row may stand in the ranges of two threads: both write the same byte.
  const int64_t grain = dirty.size(0) < kContended ? std::max(ids.numel(), kMarkGrain) : kMarkGrain;
  torch::stable::parallel_for(0, ids.numel(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      // Without a look at what is there: whether a row is marked already nothing foretells.
      if (row[i] >= 0) {
        std::atomic_ref(marks[row[i]]).store(static_cast<uint8_t>(bits), std::memory_order_relaxed);
      }
    }
  });
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) {
  m.impl("pack_signs", TORCH_BOX(&hashdl::ops::pack_signs));
  m.impl("build_tables", TORCH_BOX(&hashdl::ops::build_tables));
  m.impl("limit_buckets", TORCH_BOX(&hashdl::ops::limit_buckets));
  m.impl("mark_rows_", TORCH_BOX(&hashdl::ops::mark_rows_));
}
