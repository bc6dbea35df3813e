// qpow-sha3 for its kernels: y(nonce) = m^min(h + nonce, MAX) mod n.
#pragma once

#include <cstdint>

#include "keccak.hpp"
#include "montgomery.hpp"
#include "quantus_miner.h"
#include "wide.hpp"

namespace {

class Sha3Job {
  public:
    explicit Sha3Job(const qm_job &job)
        : modulus(load_be512(job.modulus)),
          base(load_be256(job.base)),
          target(load_be512(job.target)),
          header_(load_be256(job.header)),
          origin_(sha3_512(y(U512{}))) {}

    // min(h + nonce, MAX)
    U512 exponent(const U512 &nonce) const {
        U512 sum;
        return add(sum, header_, nonce) ? max512 : sum;
    }

    U512 y(const U512 &nonce) const { return modulus.power(base, exponent(nonce)); }

    // The 64 most significant bits of the distance nearly always decide, and they cost less than all of it.
    bool valid(const U512 &y_of_nonce) const {
        if ((sha3_512_top(y_of_nonce) ^ origin_top()) > target.word[7]) return false;
        U512 distance = sha3_512(y_of_nonce);
        for (int i = 0; i < 8; ++i) distance.word[i] ^= origin_.word[i];
        return less_or_equal(distance, target);
    }

    uint64_t origin_top() const { return origin_.word[7]; }

    const Modulus modulus;
    const U512 base, target;

  private:
    const U512 header_, origin_;
};

// Steps y from nonce to nonce by multiplication, until h + nonce reaches its largest value.
class Sha3Sequence {
  public:
    // With m in Montgomery form a Montgomery product steps y in plain form.
    explicit Sha3Sequence(const Sha3Job &job) : job_(job), factor_(job.modulus.to_montgomery(job.base)) {}

    void seek(const U512 &nonce) {
        y = job_.y(nonce);
        U512 left;
        subtract(left, max512, job_.exponent(nonce));
        room = left.word[0];
        left.word[0] = 0;
        if (!is_zero(left)) room = ~uint64_t{0};
    }

    void step() {
        if (__builtin_expect(room == 0, 0)) return;
        --room;
        y = job_.modulus.multiply(y, factor_);
    }

    U512 y{};
    uint64_t room = 0;  // how much the exponent can still grow, or more than is needed until the next seek

  private:
    const Sha3Job &job_;
    const U512 factor_;
};

}  // namespace
