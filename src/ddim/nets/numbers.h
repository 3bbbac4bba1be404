// Numbers of both kinds, and the powers of e that are made of them.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

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

// 2^z = 2^n 2^f with |f| <= 1/2, for z from −128 to 128, where those beyond are put; for bf16 with
// fewer terms, to 2e-5. Limits are those of integers, for a compiler makes slow ones of floats that
// may be nan.
template <bool exact>
inline float power(float z) {
    std::int32_t bits;
    std::memcpy(&bits, &z, 4);
    bits = std::min(bits, 0x43000000);                                // 128, of which 2^z is inf
    bits = std::int32_t(std::min(std::uint32_t(bits), 0xc3000000u));  // −128
    std::memcpy(&z, &bits, 4);
    const float rounded = __builtin_rintf(z), f = z - rounded;
    float p = 9.61812911e-3f;
    if (exact) p = (1.54035304e-4f * f + 1.33335581e-3f) * f + p;
    p = p * f + 5.55041087e-2f;
    p = p * f + 2.40226507e-1f;
    p = p * f + 6.93147181e-1f;
    p = p * f + 1.0f;
    bits = (std::max(std::int32_t(rounded), -127) + 127) << 23;
    float whole;
    std::memcpy(&whole, &bits, 4);
    return p * whole;
}

template <bool exact>
inline float silu(float value) {
    return value / (1.0f + power<exact>(value * -1.44269504f));
}

}  // namespace
