// Products of matrices, of fp32 and, by its own instruction, of bf16; both for AVX-512.

#pragma once

#include "numbers.h"

#include <type_traits>
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define PRODUCTS 1
#else
#define PRODUCTS 0
#endif

namespace {

#if PRODUCTS

// A number, or two neighbours of bf16, times 16 columns of them, added to 16 sums.
inline __m512 times(const float* x, __m512i columns, __m512 sums) {
    return _mm512_fmadd_ps(_mm512_set1_ps(*x), _mm512_castsi512_ps(columns), sums);
}

inline __m512 times(const bf16* x, __m512i columns, __m512 sums) {
    std::int32_t both;
    std::memcpy(&both, x, 4);
    return _mm512_dpbf16_ps(sums, (__m512bh)_mm512_set1_epi32(both), (__m512bh)columns);
}

inline void store(float* to, __mmask16 some, __m512 sums) { _mm512_mask_storeu_ps(to, some, sums); }

inline void store(bf16* to, __mmask16 some, __m512 sums) {
    _mm256_mask_storeu_epi16(to, some, (__m256i)_mm512_cvtneps_pbh(sums));
}

// P rows of `a`, each `depth` long, by N blocks of 16 columns of `b`.
template <int P, int N, typename T>
void multiply(const T* a, int depth, const T* b, int columns, T* c, long apart) {
    constexpr int deep = 4 / sizeof(T), lanes = 16 * deep;
    __m512 sums[P][N] = {};
    for (int k = 0; k < depth; k += deep, b += lanes) {
        __m512i row[N];
#pragma GCC unroll 2
        for (int n = 0; n < N; n++) row[n] = _mm512_loadu_si512(b + 16L * n * depth);
#pragma GCC unroll 8
        for (int i = 0; i < P; i++)
#pragma GCC unroll 2
            for (int n = 0; n < N; n++)
                sums[i][n] = times(a + long(i) * depth + k, row[n], sums[i][n]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < P; i++)
#pragma GCC unroll 2
        for (int n = 0; n < N; n++) {
            const int left = columns - 16 * n;
            store(c + i * apart + 16 * n, left < 16 ? (1 << left) - 1 : 0xffff, sums[i][n]);
        }
}

// `rows` of `a` by one or two blocks of columns.
template <int N, typename T>
void multiply(const T* a, int rows, int depth, const T* b, int columns, T* c, long apart) {
    int i = 0;
    for (; i + 8 <= rows; i += 8)
        multiply<8, N>(a + long(i) * depth, depth, b, columns, c + i * apart, apart);
    for (; i + 4 <= rows; i += 4)
        multiply<4, N>(a + long(i) * depth, depth, b, columns, c + i * apart, apart);
    for (; i < rows; i++)
        multiply<1, N>(a + long(i) * depth, depth, b, columns, c + i * apart, apart);
}

// Several products c = a bᵀ, of a (rows, depth) and b, laid out as (columns / 16, depth / 2, 16, 2)
// or, of fp32, (columns / 16, depth, 16); they are so far apart in a and in c.
template <typename T>
void products(const T* a, long a_apart, const T* b, T* c, long c_apart, int count, int rows,
              int depth, int columns, int threads) {
    const int blocks = (columns + 15) / 16, pairs = (blocks + 1) / 2;
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2)
    for (int each = 0; each < count; each++)
        for (int pair = 0; pair < pairs; pair++) {
            const int left = columns - 32 * pair;
            const T* from = b + 16L * depth * (long(each) * blocks + 2 * pair);
            T* to = c + each * c_apart + 32L * pair;
            if (left > 16)
                multiply<2>(a + each * a_apart, rows, depth, from, left, to, columns);
            else
                multiply<1>(a + each * a_apart, rows, depth, from, left, to, columns);
        }
}

#endif

}  // namespace
