#include "cpu/label_places.h"

namespace hashdl::cpu {
namespace {

/// Rows by their column.
RowMap columns_of(const int32_t* shared, int64_t S) {
  RowMap columns(S);
  for (int64_t t = 0; t < S; ++t) {
    if (shared[t] >= 0) columns.number(shared[t], static_cast<int32_t>(t));
  }
  return columns;
}

}  // namespace

LabelFinder::LabelFinder(const LabelPlaces& args)
    : args_(args), shared_(columns_of(args.shared, args.S)) {}

int64_t LabelFinder::place(int32_t label, int32_t row, int64_t column) const {
  if (label < 0) return -1;
  if (label == row) return column;
  const int32_t at = shared_.find(label);
  return args_.Q + (at >= 0 ? at : args_.S);
}

void LabelFinder::run(int64_t begin, int64_t end) const {
  for (int64_t b = begin; b < end; ++b) {
    const int32_t* rows = args_.rows + b * args_.Q;
    for (int64_t m = 0; m < args_.M; ++m) {
      const int64_t at = b * args_.M + m;
      args_.places[at] = static_cast<int32_t>(place(args_.labels[at], rows[m], m));
    }
  }
}

SharedFinder::SharedFinder(const SharedPlaces& args)
    : args_(args), shared_(columns_of(args.shared, args.S)) {}

void SharedFinder::run(int64_t begin, int64_t end) const {
  for (int64_t i = begin; i < end; ++i) {
    args_.places[i] = args_.rows[i] < 0 ? -1 : shared_.find(args_.rows[i]);
  }
}

}  // namespace hashdl::cpu
