// qpow-sha3 as its kernels see it: y(nonce) = m^min(h + nonce, MAX) mod n.
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
          limit(load_be512(job.limit)),
          header_(load_be256(job.header)),
          target_(sha3_512(y(U512{}))) {}

    // min(h + nonce, MAX)
    U512 exponent(const U512 &nonce) const {
        U512 sum;
        return add(sum, header_, nonce) ? max512 : sum;
    }

    U512 y(const U512 &nonce) const { return modulus.power(base, exponent(nonce)); }

    bool valid(const U512 &y_of_nonce) const {
        U512 distance = sha3_512(y_of_nonce);
        for (int i = 0; i < 8; ++i) distance.word[i] ^= target_.word[i];
        return less_or_equal(distance, limit);
    }

    const Modulus modulus;
    const U512 base, limit;

  private:
    const U512 header_, target_;
};

}  // namespace
