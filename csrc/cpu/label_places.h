// Where each label stands among its sample's logits [z | s]: at a column of its own rows, or at one
// of the rows that the batch shares. And where any row stands among those.
#pragma once

#include <cstdint>

#include "cpu/row_set.h"

namespace hashdl::cpu {

struct LabelPlaces {
  const int32_t* labels;  ///< (B, M), -1 = none
  const int32_t* rows;    ///< (B, Q): label m is row m, or is not among them
  const int32_t* shared;  ///< (S), distinct, -1 = padding
  int32_t* places;        ///< (B, M), written: column, -1 = no label, Q + S = a row not active
  int64_t M, Q, S;
};

class LabelFinder {
 public:
  explicit LabelFinder(const LabelPlaces& args);

  /// Fills the places of samples [begin, end).
  void run(int64_t begin, int64_t end) const;

 private:
  int64_t place(int32_t label, int32_t row, int64_t column) const;

  LabelPlaces args_;
  RowMap shared_;
};

struct SharedPlaces {
  const int32_t* rows;    ///< (count), -1 = padding
  const int32_t* shared;  ///< (S), distinct, -1 = padding
  int32_t* places;        ///< (count), written: column of `shared`, -1 = it is not there
  int64_t count, S;
};

class SharedFinder {
 public:
  explicit SharedFinder(const SharedPlaces& args);

  /// Fills the places of rows [begin, end).
  void run(int64_t begin, int64_t end) const;

 private:
  SharedPlaces args_;
  RowMap shared_;
};

}  // namespace hashdl::cpu
