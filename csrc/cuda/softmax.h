// Log probabilities of labels under a softmax over active rows, and their gradient: a block a
// sample. The arguments are those of the CPU kernels.
#pragma once

#include "cpu/label_places.h"
#include "cpu/softmax.h"
#include "cuda/scratch.h"

namespace hashdl::cuda {

/// Where the labels of B samples stand; by a map of the shared rows.
void find_labels(const cpu::LabelPlaces& args, int64_t B, Scratch& scratch, Stream stream);

/// Where rows stand among those that a batch shares.
void find_shared(const cpu::SharedPlaces& args, Scratch& scratch, Stream stream);

template <typename T>
void log_prob(const cpu::LogProbForward<T>& args, int64_t B, Stream stream);

template <typename T>
void log_prob_backward(const cpu::LogProbBackward<T>& args, int64_t B, Stream stream);

}  // namespace hashdl::cuda
