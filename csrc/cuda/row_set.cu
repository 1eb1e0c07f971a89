#include "cuda/row_set.h"

namespace hashdl::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void fill_kernel(SharedRowMap shared, const int32_t* rows) {
  const int64_t t = thread_index();
  if (t >= shared.T || rows[t] < 0) return;
  RowMap map(shared.words, shared.slots);
  atomicMin(&map.number(map.insert(rows[t])), static_cast<uint32_t>(t));
}

}  // namespace

SharedRowMap SharedRowMap::make(int64_t T, Scratch& scratch) {
  if (T == 0) return {nullptr, 0, 0};
  const int64_t slots = map_slots(T);
  return {scratch.take<int32_t>(map_words(slots)), slots, T};
}

void SharedRowMap::fill(const int32_t* rows, Stream stream) const {
  if (T == 0) return;
  fill_bytes(words, 0xff, map_words(slots), stream);  // rows -1, numbers kNoNumber
  launch(fill_kernel, blocks_for(T, kThreads), kThreads, 0, stream, *this, rows);
}

}  // namespace hashdl::cuda
