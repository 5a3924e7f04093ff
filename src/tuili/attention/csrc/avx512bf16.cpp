// The kernels for bfloat16 on x86-64 processors with AVX-512 and its bfloat16 dot product.
#if defined(__x86_64__)
#include <immintrin.h>
#define TUILI_AVX512
#define TUILI_BF16_DOT
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#endif

namespace {
constexpr int W = 16;
}
#include "attend.h"

const tuili::Kernels tuili::avx512bf16_kernels = {pack_strip<Pair>, normalize<Pair>, attend<Pair>,
    nullptr, nullptr, nullptr};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
