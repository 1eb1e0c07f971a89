// What a launcher is given beside its arguments; needs no CUDA toolkit.
#pragma once

#include <cstdint>

struct CUstream_st;

namespace hashdl::cuda {

/// Stream
using Stream = CUstream_st*;

/// The training step that random numbers depend on: a number that stands on the device, where the
/// host need not know it, or else one that came along.
struct Step {
  const int64_t* device;  ///< or null
  int64_t value;
};

/// Scratch memory of a launcher, which is called twice: first without memory, to measure what it
/// takes, when it must not launch anything; then with as much as that.
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(void* memory) : memory_(static_cast<char*>(memory)) {}

  /// `count` elements, uninitialized, on a boundary of 256 bytes; null while measuring.
  template <typename T>
  T* take(int64_t count) {
    char* const at = memory_ == nullptr ? nullptr : memory_ + size_;
    size_ += (static_cast<int64_t>(sizeof(T)) * count + 255) / 256 * 256;
    return reinterpret_cast<T*>(at);
  }

  bool measuring() const { return memory_ == nullptr; }
  int64_t size() const { return size_; }  ///< bytes taken

 private:
  char* memory_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace hashdl::cuda
