// Arithmetic modulo an odd n < 2^512, in Montgomery form with R = 2^512.
#pragma once

#include <cstdint>

#include "wide.hpp"

namespace {

// An odd number is its own inverse modulo 8. Each step doubles the number of correct bits: 3, 6, 12, 24, 48, 96.
inline uint64_t inverse_mod_2_64(uint64_t odd) {
    uint64_t inverse = odd;
    for (int i = 0; i < 5; ++i) inverse *= 2 - odd * inverse;
    return inverse;
}

class Modulus {
  public:
    explicit Modulus(const U512 &n) : n_(n), negated_inverse_(-inverse_mod_2_64(n.word[0])) {
        U512 power{};
        power.word[0] = 1;
        subtract_if(power, false);  // 1 mod 1 is 0
        for (int i = 0; i < 1024; ++i) {
            const bool carry = add(power, power, power);
            subtract_if(power, carry);
            if (i == 511) r_ = power;
        }
        r2_ = power;
    }

    // a * b / R mod n. a, b < 2^512 with a * b < n * 2^512 (one of them < n is enough); the result is < n.
    // Before the last step t = (a b + q n) / R with q < R, so t < 2 n < 2^513.
    U512 multiply(const U512 &a, const U512 &b) const {
        uint64_t t[9] = {};
        for (int i = 0; i < 8; ++i) {
            // t <- (t + a * b[i] + q * n) / 2^64, with two carry chains; t < a + n < 2^513 after each pass.
            u128 product = static_cast<u128>(a.word[0]) * b.word[i] + t[0];
            const uint64_t q = static_cast<uint64_t>(product) * negated_inverse_;
            u128 reduction = static_cast<u128>(q) * n_.word[0] + static_cast<uint64_t>(product);
#pragma GCC unroll 8
            for (int j = 1; j < 8; ++j) {
                // (2^64 - 1)^2 + 2 (2^64 - 1) = 2^128 - 1
                product = static_cast<u128>(a.word[j]) * b.word[i] + t[j] + static_cast<uint64_t>(product >> 64);
                reduction = static_cast<u128>(q) * n_.word[j] + static_cast<uint64_t>(product) +
                            static_cast<uint64_t>(reduction >> 64);
                t[j - 1] = static_cast<uint64_t>(reduction);
            }
            const u128 top = (product >> 64) + (reduction >> 64) + t[8];
            t[7] = static_cast<uint64_t>(top);
            t[8] = static_cast<uint64_t>(top >> 64);
        }
        U512 result;
        for (int j = 0; j < 8; ++j) result.word[j] = t[j];
        subtract_if(result, t[8] != 0);
        return result;
    }

    // a < n, in and out of Montgomery form.
    U512 to_montgomery(const U512 &a) const { return multiply(a, r2_); }

    // base^exponent mod n; base < n, in plain form like the result.
    U512 power(const U512 &base, const U512 &exponent) const {
        const U512 factor = to_montgomery(base);
        U512 result = r_;
        bool started = false;
        for (int i = 511; i >= 0; --i) {
            if (started) result = multiply(result, result);
            if (exponent.word[i / 64] >> (i % 64) & 1) {
                result = multiply(result, factor);
                started = true;
            }
        }
        return multiply(result, U512{{1}});
    }

    const U512 &value() const { return n_; }

  private:
    // value + carry * 2^512 < 2 n on entry, value < n on return.
    void subtract_if(U512 &value, bool carry) const {
        U512 less;
        const bool borrow = subtract(less, value, n_);
        if (carry || !borrow) value = less;
    }

    const U512 n_;
    const uint64_t negated_inverse_;  // -1/n mod 2^64
    U512 r_{}, r2_{};                 // R mod n, R^2 mod n
};

}  // namespace
