// What torch has no single operation for, on images whose channels lie next to each other (NHWC):
// group normalisation of two images laid side by side, with the time's shift before it and SiLU
// after, and Winograd's F(2×2, 3×3) around a product (Lavin and Gray 2015, arXiv:1509.09308),
// which takes 16 multiplications where a 3×3 convolution takes 36.

#include "products.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

namespace {

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

// The mean of W channels and the sum of squares about it, over pixels that are `step` apart: block
// by block in float, about the block's own mean while it is in the cache, merged in double.
template <typename T, int W>
void add_up(const T* x, long pixels, long step, double* mean, double* squares) {
    const long block = 128;
    for (int j = 0; j < W; j++) mean[j] = squares[j] = 0;
    for (long begin = 0; begin < pixels; begin += block) {
        const long count = std::min(block, pixels - begin);
        const T* from = x + begin * step;
        float middle[W], first[W], sum[W] = {}, square[W] = {};
        for (int j = 0; j < W; j++) first[j] = get(from[j]), middle[j] = 0;
        for (long p = 0; p < count; p++)
#pragma omp simd
            for (int j = 0; j < W; j++) middle[j] += get(from[p * step + j]) - first[j];
        for (int j = 0; j < W; j++) middle[j] = first[j] + middle[j] / float(count);
        for (long p = 0; p < count; p++)
#pragma omp simd
            for (int j = 0; j < W; j++) {
                const float d = get(from[p * step + j]) - middle[j];
                sum[j] += d, square[j] += d * d;
            }
        const double share = double(count) / double(begin + count);
        for (int j = 0; j < W; j++) {
            const double rest = sum[j] / double(count), apart = middle[j] + rest - mean[j];
            squares[j] += square[j] - rest * sum[j] + apart * apart * double(begin) * share;
            mean[j] += apart * share;
        }
    }
}

template <typename T>
void measure(const Images<T>& in, int image, long begin, long count, double* mean) {
    double* squares = mean + in.channels();
    for (int side = 0; side < 2; side++) {
        const int width = side ? in.more : in.c, base = side ? in.c : 0;
        const T* x = (side ? in.second : in.first) + (image * in.pixels() + begin) * width;
        int c = 0;
        for (; c + 32 <= width; c += 32)
            add_up<T, 32>(x + c, count, width, mean + base + c, squares + base + c);
        for (; c < width; c++)
            add_up<T, 1>(x + c, count, width, mean + base + c, squares + base + c);
    }
}

// scale and offset of each channel, from the moments of each part of an image.
void solve(const Norm& norm, const double* moments, const float* shift, int parts, int channels,
           long pixels, float* scale, float* offset) {
    const int each = channels / norm.groups;
    auto portion = [&](int k) { return pixels * (k + 1) / parts - pixels * k / parts; };
    for (int begin = 0; begin < channels; begin += each) {
        double mean = 0, squares = 0, seen = 0;
        for (int c = begin; c < begin + each; c++)
            for (int k = 0; k < parts; k++) {
                const double count = double(portion(k));
                if (!count) continue;
                const double* part = moments + 2L * k * channels;
                const double apart = part[c] + (shift ? shift[c] : 0) - mean;
                squares += part[channels + c] + apart * apart * seen * count / (seen + count);
                mean += apart * count / (seen + count);
                seen += count;
            }
        const double rate = 1 / std::sqrt(squares / seen + norm.eps);
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
                for (int c = 0; c < width; c++) put(to[c], silu<std::is_same<T, float>::value>(get(x[c]) * a[c] + b[c]));
            } else {
#pragma omp simd
                for (int c = 0; c < width; c++) put(to[c], get(x[c]) * a[c] + b[c]);
            }
    }
}

// Bᵀ d B of a 4×4 patch whose pixels are at `d`; its 16 parts are `apart` from each other.
template <typename T>
void transform(const float* const* d, int channels, long apart, T* to) {
#pragma omp simd
    for (int c = 0; c < channels; c++) {
        float t[16];
        for (int j = 0; j < 4; j++) {
            const float d0 = d[j][c], d1 = d[4 + j][c], d2 = d[8 + j][c], d3 = d[12 + j][c];
            t[j] = d0 - d2, t[4 + j] = d1 + d2, t[8 + j] = d2 - d1, t[12 + j] = d1 - d3;
        }
        for (int i = 0; i < 4; i++) {
            T* row = to + 4 * i * apart + c;
            put(row[0], t[4 * i] - t[4 * i + 2]);
            put(row[apart], t[4 * i + 1] + t[4 * i + 2]);
            put(row[2 * apart], t[4 * i + 2] - t[4 * i + 1]);
            put(row[3 * apart], t[4 * i + 1] - t[4 * i + 3]);
        }
    }
}

// Rows of 2×2 tiles, normalised and transformed: (tile, 16, channels), or (16, tile, channels) with
// `apart` between the 16.
template <typename T>
void write_tiles(const Images<T>& in, int image, int begin, int end, const float* scale,
                 const float* offset, int act, long apart, T* out) {
    const int all = in.channels(), across = in.width / 2;
    const long step = apart == all ? 16L * all : all;
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
            transform(d, all, apart, out + step * (long(row) * across + column));
        }
    }
}

// apart: 0 for images, or between the 16 parts of tiles.
template <typename T>
void normalise(const Images<T>& in, const Norm& norm, long apart, int threads, T* out) {
    const int all = in.channels(), lines = apart ? in.height / 2 : in.height;
    const int parts = std::min(in.batch >= threads ? 1 : threads, lines);
    const long pixels = in.pixels(), tiled = apart == all ? 4 * pixels : pixels / 4;
    const long size = (apart ? tiled : pixels) * all;
    std::vector<double> moments(2L * in.batch * parts * all);
    auto look = [&](int image, int part) {
        const long begin = pixels * part / parts, end = pixels * (part + 1) / parts;
        measure(in, image, begin, end - begin, &moments[2L * (long(image) * parts + part) * all]);
    };
    auto finish = [&](int image, int part) {
        std::vector<float> scale(all), offset(all);
        solve(norm, &moments[2L * image * parts * all],
              norm.shift ? norm.shift + image * norm.stride : nullptr, parts, all, pixels,
              scale.data(), offset.data());
        const int begin = lines * part / parts, end = lines * (part + 1) / parts;
        T* to = out + image * size;
        if (apart)
            write_tiles(in, image, begin, end, scale.data(), offset.data(), norm.act, apart, to);
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
void untransform(const T* m, long apart, const T* bias, const T* from, int channels, long down, T* to) {
#pragma omp simd
    for (int c = 0; c < channels; c++) {
        float t[8];
        for (int j = 0; j < 4; j++) {
            const T* n = m + j * apart + c;
            const float m0 = get(n[0]), m1 = get(n[4 * apart]);
            const float m2 = get(n[8 * apart]), m3 = get(n[12 * apart]);
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
void gather(const T* tiles, long apart, const T* bias, const T* other, int batch, int height,
            int width, int channels, int threads, T* out) {
    const int across = width / 2, rows = batch * height / 2;
    const long step = apart == channels ? 16L * channels : channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < across; column++) {
            const T* m = tiles + step * (long(row) * across + column);
            const long at = (2L * row * width + 2 * column) * channels;
            const long down = long(width) * channels;
            if (other)
                untransform<true>(m, apart, bias, other + at, channels, down, out + at);
            else
                untransform<false>(m, apart, bias, out, channels, down, out + at);
        }
}

// A normalisation and the convolution, of `some` images at a time, so that tiles stay in the cache.
template <typename T>
void winograd(const Images<T>& in, const Norm& norm, const T* weights, const T* bias,
              const T* other, int channels, int some, int threads, T* out) {
#if PRODUCTS
    static thread_local std::vector<T> kept;
    const int all = in.channels();
    for (int begin = 0; begin < in.batch; begin += some) {
        Images<T> now = in;
        Norm its = norm;
        now.batch = std::min(some, in.batch - begin);
        now.first += begin * in.pixels() * in.c, now.second += begin * in.pixels() * in.more;
        its.shift = norm.shift ? norm.shift + begin * norm.stride : nullptr;
        const long tiles = now.batch * in.pixels() / 4, to = begin * in.pixels() * channels;
        const long apart = tiles * all + 32, mixed = tiles * channels + 32;
        kept.resize(std::max(kept.size(), std::size_t(16 * (apart + mixed))));
        normalise(now, its, apart, threads, kept.data());
        products(kept.data(), apart, weights, kept.data() + 16 * apart, mixed, 16, int(tiles), all,
                 channels, threads);
        gather(kept.data() + 16 * apart, mixed, bias, other ? other + to : other, now.batch,
               in.height, in.width, channels, threads, out + to);
    }
    if (kept.size() > std::size_t(1) << 23) std::vector<T>().swap(kept);  // as of great images
#endif
}

}  // namespace

extern "C" int multiplies() { return PRODUCTS; }

#define EXPORTED(T, NAME)                                                                          \
    extern "C" void normalise_##NAME(T* out, const T* first, const T* second, int c, int more,     \
                                     int batch, int height, int width, const float* shift,         \
                                     long stride, const float* gamma, const float* beta,           \
                                     int groups, float eps, int act, int tiled, int threads) {     \
        normalise<T>({first, second, c, more, batch, height, width},                               \
                     {shift, gamma, beta, stride, groups, act, eps}, tiled ? c + more : 0,         \
                     threads, out);                                                                \
    }                                                                                              \
    extern "C" void gather_##NAME(T* out, const T* tiles, const T* bias, const T* other,           \
                                  int batch, int height, int width, int channels, int threads) {   \
        gather<T>(tiles, channels, bias, other, batch, height, width, channels, threads, out);     \
    } \
    extern "C" void winograd_##NAME(T* out, const T* first, const T* second, int c, int more,      \
                                    int batch, int height, int width, const float* shift,          \
                                    long stride, const float* gamma, const float* beta,            \
                                    int groups, float eps, int act, const T* weights,              \
                                    const T* bias, const T* other, int channels, int some,         \
                                    int threads) {                                                 \
        winograd<T>({first, second, c, more, batch, height, width},                                \
                    {shift, gamma, beta, stride, groups, act, eps}, weights, bias, other,          \
                    channels, some, threads, out);                                                 \
    }

EXPORTED(float, float32)
EXPORTED(bf16, bfloat16)
