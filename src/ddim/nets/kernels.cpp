// What torch has no single operation for, on images whose channels lie next to each other (NHWC):
// group normalisation of two images laid side by side, with the time's shift before it and SiLU
// after, and Winograd's F(2×2, 3×3) around a product (Lavin and Gray 2015, arXiv:1509.09308),
// which takes 16 multiplications where a 3×3 convolution takes 36.
//
// Sums are taken about the first pixel of each channel, so that a mean far from 0 costs no digits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using bf16 = std::uint16_t;

inline float get(float value) { return value; }

inline float get(bf16 value) {
    std::uint32_t bits = std::uint32_t(value) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}

inline void put(float& to, float value) { to = value; }

inline void put(bf16& to, float value) {  // to the nearest, ties to even
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    to = bf16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float silu(float value) {  // value/(1 + e^−value), e^z = 2^n 2^f with |f| <= 1/2
    float z = std::min(std::max(value * -1.44269504f, -126.0f), 126.0f);
    float rounded = z + 12582912.0f;  // 1.5·2^23: its last bits are the nearest integer n
    float f = z - (rounded - 12582912.0f);
    float p = 1.54035304e-4f;
    p = p * f + 1.33335581e-3f;
    p = p * f + 9.61812911e-3f;
    p = p * f + 5.55041087e-2f;
    p = p * f + 2.40226507e-1f;
    p = p * f + 6.93147181e-1f;
    p = p * f + 1.0f;
    std::int32_t bits;
    std::memcpy(&bits, &rounded, 4);
    bits = (bits << 23) + (127 << 23);
    float power;
    std::memcpy(&power, &bits, 4);
    return value / (1.0f + p * power);
}

struct Norm {
    const float *shift, *gamma, *beta;  // shift: (batch, channels) or, with a stride of 0, one row
    long stride;
    int groups, act;
    float eps;
};

template <typename T>
struct Images {
    const T *first, *second;  // (batch, height, width, c) and, side by side with it, perhaps another
    int c, more, batch, height, width;
    int channels() const { return c + more; }
    long pixels() const { return long(height) * width; }
};

// Sums of W channels and of their squares over pixels that are `step` apart.
template <typename T, int W>
void add_up(const T* x, long pixels, long step, const float* pivot, float* s, float* q) {
    float sum[W] = {}, square[W] = {}, about[W] = {};
    for (int j = 0; j < W; j++) about[j] = pivot[j];
    for (long p = 0; p < pixels; p++)
#pragma omp simd
        for (int j = 0; j < W; j++) {
            float d = get(x[p * step + j]) - about[j];
            sum[j] += d, square[j] += d * d;
        }
    for (int j = 0; j < W; j++) s[j] = sum[j], q[j] = square[j];
}

template <typename T>
void measure(const Images<T>& in, int image, long begin, long count, float* pivot, float* sums) {
    const int all = in.channels();
    for (int side = 0; side < 2; side++) {
        const int width = side ? in.more : in.c, base = side ? in.c : 0;
        if (!width) continue;
        const T* x = (side ? in.second : in.first) + image * in.pixels() * width;
        for (int c = 0; c < width; c++) pivot[base + c] = get(x[c]);
        for (int c = 0; c < width;) {
            const T* from = x + begin * width + c;
            float *about = pivot + base + c, *s = sums + base + c;
            if (width - c >= 32)
                add_up<T, 32>(from, count, width, about, s, s + all), c += 32;
            else
                add_up<T, 1>(from, count, width, about, s, s + all), c += 1;
        }
    }
}

// scale and offset of each channel, from the sums of each part of an image.
void solve(const Norm& norm, const float* sums, const float* pivot, const float* shift, int parts,
           int channels, long pixels, float* scale, float* offset) {
    const int each = channels / norm.groups;
    for (int begin = 0; begin < channels; begin += each) {
        double mean = 0, variance = 0;
        for (int c = begin; c < begin + each; c++) {
            double s = 0, q = 0;
            for (int k = 0; k < parts; k++)
                s += sums[2L * k * channels + c], q += sums[(2L * k + 1) * channels + c];
            double apart = s / pixels;
            variance += std::max(q / pixels - apart * apart, 0.0) / each;
            offset[c] = float(apart + pivot[c] + (shift ? shift[c] : 0));
            mean += offset[c] / double(each);
        }
        for (int c = begin; c < begin + each; c++)
            variance += (offset[c] - mean) * (offset[c] - mean) / each;
        const double rate = 1 / std::sqrt(variance + norm.eps);
        for (int c = begin; c < begin + each; c++) {
            scale[c] = float(rate * norm.gamma[c]);
            offset[c] = float(norm.beta[c] + ((shift ? shift[c] : 0) - mean) * rate * norm.gamma[c]);
        }
    }
}

// `count` pixels, normalised, to `out`.
template <typename T, typename U>
void write(const Images<T>& in, int image, long begin, long count, const float* scale,
           const float* offset, int act, U* out) {
    const int all = in.channels();
    for (int side = 0; side < 2; side++) {
        const int width = side ? in.more : in.c, base = side ? in.c : 0;
        const T* x = (side ? in.second : in.first) + (image * in.pixels() + begin) * width;
        const float *a = scale + base, *b = offset + base;
        U* to = out + base;
        for (long p = 0; p < count; p++, x += width, to += all)
            if (act) {
#pragma omp simd
                for (int c = 0; c < width; c++) put(to[c], silu(get(x[c]) * a[c] + b[c]));
            } else {
#pragma omp simd
                for (int c = 0; c < width; c++) put(to[c], get(x[c]) * a[c] + b[c]);
            }
    }
}

// Bᵀ d B of a 4×4 patch whose pixels are at `d`.
template <typename T>
void transform(const float* const* d, int channels, T* to) {
#pragma omp simd
    for (int c = 0; c < channels; c++) {
        float t[16];
        for (int j = 0; j < 4; j++) {
            const float d0 = d[j][c], d1 = d[4 + j][c], d2 = d[8 + j][c], d3 = d[12 + j][c];
            t[j] = d0 - d2, t[4 + j] = d1 + d2, t[8 + j] = d2 - d1, t[12 + j] = d1 - d3;
        }
        for (int i = 0; i < 4; i++) {
            T* row = to + 4L * i * channels + c;
            put(row[0], t[4 * i] - t[4 * i + 2]);
            put(row[channels], t[4 * i + 1] + t[4 * i + 2]);
            put(row[2L * channels], t[4 * i + 2] - t[4 * i + 1]);
            put(row[3L * channels], t[4 * i + 1] - t[4 * i + 3]);
        }
    }
}

// Rows of 2×2 tiles, normalised and transformed: (tile, 16, channels).
template <typename T>
void write_tiles(const Images<T>& in, int image, int begin, int end, const float* scale,
                 const float* offset, int act, T* out) {
    const int all = in.channels(), across = in.width / 2;
    const long line = long(in.width) * all;
    std::vector<float> kept(4 * line), nothing(all, 0.0f);
    auto fill = [&](int y) {
        write(in, image, long(y) * in.width, in.width, scale, offset, act, &kept[(y & 3) * line]);
    };
    if (begin) fill(2 * begin - 1);
    if (begin < end) fill(2 * begin);
    for (int row = begin; row < end; row++) {
        fill(2 * row + 1);
        if (2 * row + 2 < in.height) fill(2 * row + 2);
        for (int column = 0; column < across; column++) {
            const float* d[16];
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) {
                    const int y = 2 * row - 1 + i, x = 2 * column - 1 + j;
                    const bool outside = y < 0 || x < 0 || y >= in.height || x >= in.width;
                    d[4 * i + j] = outside ? nothing.data() : &kept[(y & 3) * line + long(x) * all];
                }
            transform(d, all, out + 16L * all * (long(row) * across + column));
        }
    }
}

template <typename T>
void normalise(const Images<T>& in, const Norm& norm, int tiled, int threads, T* out) {
    const int all = in.channels(), lines = tiled ? in.height / 2 : in.height;
    const int parts = std::min(in.batch >= threads ? 1 : threads, lines);
    const long size = in.pixels() * all * (tiled ? 4 : 1), pixels = in.pixels();
    std::vector<float> sums(2L * in.batch * parts * all), pivots(long(in.batch) * all);
    auto look = [&](int image, int part) {
        const long begin = pixels * part / parts, end = pixels * (part + 1) / parts;
        measure(in, image, begin, end - begin, &pivots[long(image) * all],
                &sums[2L * (image * parts + part) * all]);
    };
    auto finish = [&](int image, int part) {
        std::vector<float> scale(all), offset(all);
        solve(norm, &sums[2L * image * parts * all], &pivots[long(image) * all],
              norm.shift ? norm.shift + image * norm.stride : nullptr, parts, all, pixels,
              scale.data(), offset.data());
        const int begin = lines * part / parts, end = lines * (part + 1) / parts;
        T* to = out + image * size;
        if (tiled)
            write_tiles(in, image, begin, end, scale.data(), offset.data(), norm.act, to);
        else
            write(in, image, long(begin) * in.width, long(end - begin) * in.width, scale.data(),
                  offset.data(), norm.act, to + long(begin) * in.width * all);
    };
    if (parts == 1) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int image = 0; image < in.batch; image++) look(image, 0), finish(image, 0);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int j = 0; j < in.batch * parts; j++) look(j / parts, j % parts);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int j = 0; j < in.batch * parts; j++) finish(j / parts, j % parts);
}

// Aᵀ m A of a tile at `m`, with the bias and perhaps a patch of another image added; `to` and
// `from` are its upper row, the lower one is `down` further.
template <bool added, typename T>
void untransform(const T* m, const T* bias, const T* from, int channels, long down, T* to) {
#pragma omp simd
    for (int c = 0; c < channels; c++) {
        float t[8];
        for (int j = 0; j < 4; j++) {
            const T* n = m + long(j) * channels + c;
            const float m0 = get(n[0]), m1 = get(n[4L * channels]);
            const float m2 = get(n[8L * channels]), m3 = get(n[12L * channels]);
            t[j] = m0 + m1 + m2, t[4 + j] = m1 - m2 - m3;
        }
        const float b = get(bias[c]);
        for (int i = 0; i < 2; i++) {
            const long left = i * down + c, right = left + channels;
            const float y0 = t[4 * i] + t[4 * i + 1] + t[4 * i + 2] + b;
            const float y1 = t[4 * i + 1] - t[4 * i + 2] - t[4 * i + 3] + b;
            put(to[left], added ? y0 + get(from[left]) : y0);
            put(to[right], added ? y1 + get(from[right]) : y1);
        }
    }
}

template <typename T>
void gather(const T* tiles, const T* bias, const T* other, int batch, int height, int width,
            int channels, int threads, T* out) {
    const int across = width / 2, rows = batch * height / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < across; column++) {
            const T* m = tiles + 16L * channels * (long(row) * across + column);
            const long at = (2L * row * width + 2 * column) * channels;
            const long down = long(width) * channels;
            if (other)
                untransform<true>(m, bias, other + at, channels, down, out + at);
            else
                untransform<false>(m, bias, out, channels, down, out + at);
        }
}

}  // namespace

#define EXPORTED(T, NAME)                                                                          \
    extern "C" void normalise_##NAME(T* out, const T* first, const T* second, int c, int more,     \
                                     int batch, int height, int width, const float* shift,         \
                                     long stride, const float* gamma, const float* beta,           \
                                     int groups, float eps, int act, int tiled, int threads) {     \
        normalise<T>({first, second, c, more, batch, height, width},                               \
                     {shift, gamma, beta, stride, groups, act, eps}, tiled, threads, out);         \
    }                                                                                              \
    extern "C" void gather_##NAME(T* out, const T* tiles, const T* bias, const T* other,           \
                                  int batch, int height, int width, int channels, int threads) {   \
        gather<T>(tiles, bias, other, batch, height, width, channels, threads, out);               \
    }

EXPORTED(float, float32)
EXPORTED(bf16, bfloat16)
