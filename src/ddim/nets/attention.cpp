// Attention, whole for narrow heads, and a softmax for the others: torch's of bf16 is slow.

#include "numbers.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

namespace {

constexpr int W = 16, D = 8;  // queries side by side, and channels at a time
typedef float Lanes __attribute__((vector_size(4 * W)));

// The products of D channels of W queries with those of each key, added to what is there, if any.
void score(const float* q, const float* keys, int count, int width, bool first, Lanes* scores) {
    Lanes mine[D];
    std::memcpy(mine, q, sizeof mine);
    for (int j = 0; j < count; j++, keys += width) {
        Lanes sum = mine[0] * keys[0];
        for (int c = 1; c < D; c++) sum += mine[c] * keys[c];
        scores[j] = first ? sum : scores[j] + sum;
    }
}

// 2^(score − the highest of its query) in place of each score; their sums.
template <bool exact>
Lanes share(int count, Lanes* scores) {
    Lanes top = scores[0], total = {};
    for (int j = 1; j < count; j++)
#pragma omp simd
        for (int l = 0; l < W; l++) top[l] = std::max(top[l], scores[j][l]);
    for (int j = 0; j < count; j++) {
        Lanes e;
#pragma omp simd
        for (int l = 0; l < W; l++)
            e[l] = power<exact>(scores[j][l] - top[l]) + 0 * scores[j][l];  // a nan stays one
        scores[j] = e, total += e;
    }
    return total;
}

// D channels of the values, by their shares of a total.
void mix(const Lanes* shares, const Lanes& total, const float* values, int count, int width,
         float* out) {
    Lanes sum[D] = {};
    for (int j = 0; j < count; j++, values += width)
        for (int c = 0; c < D; c++) sum[c] += shares[j] * values[c];
    for (int c = 0; c < D; c++) sum[c] /= total;
    std::memcpy(out, sum, sizeof sum);
}

// softmax(q kᵀ / √width) v, from tokens (batch, count, 3, heads, width) to (batch, count, heads,
// width); width is a multiple of D.
template <typename T>
void attend(const T* tokens, int batch, int count, int heads, int width, int threads, T* out) {
    constexpr bool exact = std::is_same<T, float>::value;
    const long all = long(heads) * width, size = long(count) * width;
    const float scale = 1.44269504f / std::sqrt(float(width));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int job = 0; job < batch * heads; job++) {
        static thread_local std::vector<float> kept;
        static thread_local std::vector<Lanes> scores;
        kept.resize(2 * size + 2L * W * width), scores.resize(count);
        float *keys = kept.data(), *values = keys + size, *q = values + size, *mixed = q + W * width;
        const long head = long(job % heads) * width, line = long(job / heads) * count;
        const T* from = tokens + line * 3 * all + head;
        T* to = out + line * all + head;
        for (int j = 0; j < count; j++)
            for (int c = 0; c < width; c++) {
                keys[long(j) * width + c] = get(from[3 * all * j + all + c]);
                values[long(j) * width + c] = get(from[3 * all * j + 2 * all + c]);
            }
        for (int begin = 0; begin < count; begin += W) {
            const int lanes = std::min(W, count - begin);
            for (int l = 0; l < W; l++)
                for (int c = 0; c < width; c++)
                    q[c * W + l] = l < lanes ? scale * get(from[3 * all * (begin + l) + c]) : 0;
            for (int c = 0; c < width; c += D)
                score(q + c * W, keys + c, count, width, !c, scores.data());
            const Lanes total = share<exact>(count, scores.data());
            for (int c = 0; c < width; c += D)
                mix(scores.data(), total, values + c, count, width, mixed + c * W);
            for (int l = 0; l < lanes; l++)
                for (int c = 0; c < width; c++) put(to[all * (begin + l) + c], mixed[c * W + l]);
        }
    }
}

// e^x / Σ e^x of each row, in place.
template <typename T>
void softmax(T* x, long rows, int width, int threads) {
    constexpr bool exact = std::is_same<T, float>::value;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < rows; i++) {
        static thread_local std::vector<float> kept;
        kept.resize(width);
        float *e = kept.data(), top = get(x[i * width]), sum = 0;
        T* row = x + i * width;
#pragma omp simd reduction(max : top)
        for (int j = 0; j < width; j++) top = std::max(top, get(row[j]));
#pragma omp simd reduction(+ : sum)
        for (int j = 0; j < width; j++) {
            const float z = (get(row[j]) - top) * 1.44269504f;
            e[j] = power<exact>(z) + 0 * get(row[j]);  // a nan stays one
            sum += e[j];
        }
        const float rate = 1 / sum;
#pragma omp simd
        for (int j = 0; j < width; j++) put(row[j], e[j] * rate);
    }
}

}  // namespace

#define EXPORTED(T, NAME)                                                                          \
    extern "C" void attend_##NAME(T* out, const T* tokens, int batch, int count, int heads,        \
                                  int width, int threads) {                                        \
        attend<T>(tokens, batch, count, heads, width, threads, out);                               \
    }                                                                                              \
    extern "C" void softmax_##NAME(T* x, long rows, int width, int threads) {                      \
        softmax<T>(x, rows, width, threads);                                                       \
    }

EXPORTED(float, float32)
EXPORTED(bf16, bfloat16)
