// Marks functions that the CUDA kernels use as well.
#pragma once

#if defined(__CUDACC__)
#define HASHDL_HOST_DEVICE __host__ __device__
#else
#define HASHDL_HOST_DEVICE
#endif
