// The words of CUDA C++ that kernels of gridnn use, for a CPU: put before a .cu file, g++ compiles it.
//
// What is there is what kernels need; what is not there does not compile, and is to be added with a test.
// Not modelled: weak order of memory between blocks, blocks that wait for each other, inline PTX (which is to have a
// twin in C++ where __CUDA_ARCH__ is not defined; copies into shared memory have CUDA's own names here).
// CuPy compiles with -ftz=true: -DFLUSH=1 makes zeros of the numbers of float that are below the least normal one.
#pragma once

#include <dlfcn.h>
#include <link.h>

#include <cmath>
#include <tuple>
#include <type_traits>
#include <utility>
#if FLUSH && defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __shared__ thread_local  // static at block scope, and `extern` may stand before it
#define __constant__ static const

#define threadIdx (shim::now->index)
#define blockIdx (shim::block_index)
#define blockDim (shim::block_dim)
#define gridDim (shim::grid_dim)
#define warpSize 32

#define __syncthreads() shim::wait_for_block(__LINE__)
#define __syncwarp(...) shim::sync_warp(__LINE__, ##__VA_ARGS__)
#define __shfl_sync(mask, value, lane) shim::shuffle(mask, value, (lane) & 31, __LINE__)
#define __shfl_xor_sync(mask, value, bits) shim::shuffle(mask, value, (threadIdx_lane() ^ (bits)) & 31, __LINE__)
#define __shfl_down_sync(mask, value, by) \
    shim::shuffle(mask, value, threadIdx_lane() + (by) < 32 ? threadIdx_lane() + (by) : threadIdx_lane(), __LINE__)
#define __shfl_up_sync(mask, value, by) \
    shim::shuffle(mask, value, threadIdx_lane() >= (by) ? threadIdx_lane() - (by) : threadIdx_lane(), __LINE__)
#define __ballot_sync(mask, vote) \
    static_cast<unsigned>(shim::wait_for_warp(shim::Op::BALLOT, mask, (vote) ? 1 : 0, 0, __LINE__))
#define __any_sync(mask, vote) (__ballot_sync(mask, vote) != 0)
#define __all_sync(mask, vote) (__ballot_sync(mask, !(vote)) == 0)
#define __pipeline_memcpy_async(to, from, bytes, ...) shim::copy_later(__LINE__, to, from, bytes, ##__VA_ARGS__)
#define __pipeline_commit() (++shim::now->batch)
#define __pipeline_wait_prior(but_the_last) shim::wait_for_copies(but_the_last)
#define threadIdx_lane() shim::lane_of(shim::now)

using std::erfc;  // of float in float: without these C's are meant, which compute in double
using std::exp;
using std::max;
using std::min;
using std::sqrt;
using std::tanh;

template <class T>
static T __ldg(const T* at) {
    return *at;
}
template <class T>
static T atomicAdd(T* at, T value) {
    T before = *at;
    *at = before + value;
    return before;
}
static float __int_as_float(unsigned bits) {
    float found;
    memcpy(&found, &bits, sizeof found);
    return found;
}
static float __uint_as_float(unsigned bits) { return __int_as_float(bits); }
static unsigned __float_as_uint(float x) {
    unsigned found;
    memcpy(&found, &x, sizeof found);
    return found;
}
static float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static double rsqrt(double x) { return 1.0 / sqrt(x); }
static unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
static unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t(a) * b >> 32); }

namespace shim {

static void sync_warp(int line, unsigned mask = ~0u) { wait_for_warp(Op::NONE, mask, 0, 0, line); }

static void copy_later(int line, void* to, const void* from, size_t bytes, size_t zeros = 0) {
    start_copy(to, from, bytes, zeros, line);
}

template <class T>
static T shuffle(unsigned mask, T value, unsigned lane, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = wait_for_warp(Op::SHUFFLE, mask, bits, lane, line);
    memcpy(&value, &bits, sizeof value);
    return value;
}

// Shared memory is the thread-local memory of the library a kernel is in.
struct Shared {
    unsigned char* start = nullptr;
    size_t bytes = 0;
};

static thread_local volatile unsigned char touched;

static Shared shared_memory() {
    Dl_info mine;
    touched = 1;  // until then this thread has none
    if (!dladdr(reinterpret_cast<void*>(&shared_memory), &mine)) return {};
    std::pair<void*, Shared> asked{mine.dli_fbase, {}};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto& [base, found] = *static_cast<std::pair<void*, Shared>*>(data);
            if (reinterpret_cast<void*>(info->dlpi_addr) != base) return 0;
            for (int i = 0; i < info->dlpi_phnum; ++i)
                if (info->dlpi_phdr[i].p_type == PT_TLS)
                    found = {static_cast<unsigned char*>(info->dlpi_tls_data), info->dlpi_phdr[i].p_memsz};
            return 1;
        },
        &asked);
    return asked.second;
}

// What a launch computes with: as the device does, and afterwards as before.
struct Rounding {
#if FLUSH && defined(__SSE__)
    const unsigned before = _mm_getcsr();
    Rounding() { _mm_setcsr(before | 0x8040); }  // results and operands
    ~Rounding() { _mm_setcsr(before); }
#else
    Rounding() {}
#endif
};

struct Launch {
    const unsigned *grid, *block;
    unsigned dynamic_bytes;
    void** arguments;
    const int* widths;
    int count, order;
    unsigned seed;
    unsigned char* dynamic;  // the dynamic shared memory of the file, and how much the shim has of it
    size_t most_bytes;
};

template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
}

template <class... A>
static int launch(void (*kernel)(A...), const Launch& asked) {
    failed = false;
    const int widths[] = {static_cast<int>(sizeof(A))..., 0};
    if (asked.count != static_cast<int>(sizeof...(A)))
        say("%d arguments for a kernel of %d", asked.count, static_cast<int>(sizeof...(A)));
    for (int i = 0; i < asked.count && !failed; ++i)
        if (asked.widths[i] != widths[i])
            say("argument %d has %d bytes, the kernel reads %d", i, asked.widths[i], widths[i]);
    grid_dim = {asked.grid[0], asked.grid[1], asked.grid[2]};
    block_dim = {asked.block[0], asked.block[1], asked.block[2]};
    const uint64_t threads_ = uint64_t(block_dim.x) * block_dim.y * block_dim.z;
    if (threads_ < 1 || threads_ > 1024 || block_dim.z > 64) say("a block of %u x %u x %u", block_dim.x, block_dim.y, block_dim.z);
    if (!grid_dim.x || !grid_dim.y || !grid_dim.z || grid_dim.y > 65535 || grid_dim.z > 65535)
        say("a grid of %u x %u x %u", grid_dim.x, grid_dim.y, grid_dim.z);
    if (asked.dynamic_bytes > asked.most_bytes) say("%u bytes of dynamic shared memory", asked.dynamic_bytes);
    if (failed) return 1;

    auto target = std::make_pair(kernel, asked.arguments);
    body_arguments = &target;
    body = [](void* both) {
        auto& [function, arguments] = *static_cast<decltype(target)*>(both);
        call(function, arguments, std::index_sequence_for<A...>());
    };
    const Rounding rounding;
    std::mt19937 random(asked.seed);
    const Shared shared = shared_memory();
    if (!shared.start) return say("the shared memory is not found"), 1;
    const uint64_t blocks = uint64_t(grid_dim.x) * grid_dim.y * grid_dim.z;
    for (uint64_t i = 0; i < blocks && !failed; ++i) {
        const uint64_t at = asked.order == REVERSE ? blocks - 1 - i : i;
        block_index = {unsigned(at % grid_dim.x), unsigned(at / grid_dim.x % grid_dim.y), unsigned(at / grid_dim.x / grid_dim.y)};
        memset(shared.start, 0xff, shared.bytes);  // not a number
        run_block(asked.order, random);
        for (size_t byte = asked.dynamic_bytes; byte < asked.most_bytes && !failed; ++byte)
            if (asked.dynamic[byte] != 0xff) say("byte %zu of dynamic shared memory of %u is written", byte, asked.dynamic_bytes);
    }
    if (failed) fibers.abandon();
    return failed;
}

}  // namespace shim

extern "C" __attribute__((visibility("default"))) const char* shim_message() { return shim::message; }
