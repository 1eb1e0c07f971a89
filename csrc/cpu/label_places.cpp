#include "cpu/label_places.h"

namespace hashdl::cpu {

LabelFinder::LabelFinder(const LabelPlaces& args) : args_(args), shared_(args.S) {
  for (int64_t t = 0; t < args.S; ++t) {
    if (args.shared[t] >= 0) shared_.number(args.shared[t], static_cast<int32_t>(t));
  }
}

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

}  // namespace hashdl::cpu
