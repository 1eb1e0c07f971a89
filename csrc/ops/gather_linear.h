// Checks of a linear layer, for the ops that compute some of its rows.
#pragma once

#include <algorithm>

#include "cpu/gather_linear.h"
#include "cpu/row_groups.h"
#include "ops/common.h"

namespace hashdl::ops {

/// weight (N, d) floating, x (B, d) of its dtype.
void check_weight_and_input(const Tensor& x, const Tensor& weight, const char* op);

/// (N,) of the weight's dtype, if there is one.
void check_bias(const std::optional<Tensor>& bias, const Tensor& weight, const char* op);

/// The pairs of `rows` (P) and `extra` (E) by row, on all threads: see cpu::RowGrouper.
cpu::RowGroups group_by_row(const int32_t* rows, int64_t P, const int32_t* extra, int64_t E,
                            int64_t N);

/// Parts of a backward pass to the weight.
inline constexpr int64_t kGroupParts = 64;

/// Runs body(first group, end of groups) over all groups in parallel, in parts with about as many
/// pairs: rows that many samples share may stand together.
template <typename Body>
void for_groups(const cpu::RowGroups& groups, const Body& body) {
  const int64_t U = static_cast<int64_t>(groups.row.size());
  torch::stable::parallel_for(0, kGroupParts, 1, [&](int64_t begin, int64_t end) {
    const auto first_group = [&](int64_t part) {
      const int64_t pair = groups.start[U] * part / kGroupParts;
      return std::lower_bound(groups.start.begin(), groups.start.end() - 1, pair) -
             groups.start.begin();
    };
    body(first_group(begin), end == kGroupParts ? U : first_group(end));
  });
}

}  // namespace hashdl::ops
