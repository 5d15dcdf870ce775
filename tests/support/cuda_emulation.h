// Enough of CUDA's language to run the kernels of interpreter.cu on the CPU: a std::thread for each thread of a block.
#pragma once
#include <barrier>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

struct Dimensions { unsigned x, y, z; };
static Dimensions blockIdx, blockDim;
static thread_local Dimensions threadIdx;
static std::unique_ptr<std::barrier<>> block_barrier;

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static  // blocks run one after the other, so they can share it
#define __syncthreads() block_barrier->arrive_and_wait()
using std::isfinite;

static float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename Kernel>
static void emulate(unsigned grid_x, unsigned grid_y, unsigned threads, Kernel kernel) {
    blockDim = {threads, 1, 1};
    block_barrier = std::make_unique<std::barrier<>>(threads);
    for (unsigned y = 0; y < grid_y; y++)
        for (unsigned x = 0; x < grid_x; x++) {
            blockIdx = {x, y, 0};
            std::vector<std::thread> pool;
            for (unsigned t = 0; t < threads; t++)
                pool.emplace_back([&kernel, t] {
                    threadIdx = {t, 0, 0};
                    kernel();
                });
            for (auto& thread : pool) thread.join();
        }
}
