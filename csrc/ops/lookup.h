// A checked look-up, for the ops that make one.
#pragma once

#include "cpu/lookup.h"
#include "ops/common.h"

namespace hashdl::ops {

class LookupCall {
 public:
  /// Checks everything but values, and makes the outputs; hits where they are `counted`, which they
  /// are on a GPU. Else there is room for no more candidates (`args.C`) than some sample can find.
  /// `op` is named in errors.
  LookupCall(const char* op, const Tensor& buckets, const Tensor& offsets, const Tensor& rows,
             int64_t cap, int64_t candidates, bool counted, int64_t seed, const Tensor& step);

  /// What a Finder over `args` found wrong; any thread.
  void note(const cpu::LookupChecks& checks);

  /// Throws when something was found wrong.
  void check_noted() const;

  Tensor found;                ///< (B, C), written by a Finder over `args`
  std::optional<Tensor> hits;  ///< likewise
  cpu::Lookup args;

 private:
  const char* op_;
  Tensor buckets_, ends_, table_rows_;  ///< keep alive what args points to
  std::atomic<bool> buckets_ok_{true}, tables_ok_{true};
};

}  // namespace hashdl::ops
