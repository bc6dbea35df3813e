// The reference for speed: computes y of every nonce by exponentiation.
#include "kernels.hpp"
#include "search.hpp"
#include "sha3.hpp"

namespace {

class Baseline {
  public:
    using Order = Counting;
    static constexpr uint64_t lanes = 1, poll = 2;

    explicit Baseline(const qm_job &job) : job_(job) {}

    void seek(const U512 &nonce) { nonce_ = nonce; }

    uint32_t next() {
        const bool valid = job_.valid(job_.y(nonce_));
        ++nonce_.word[0];
        return valid;
    }

  private:
    const Sha3Job job_;
    U512 nonce_{};
};

}  // namespace

int search_sha3_baseline(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search<Baseline>(job, start, count, control, tested);
}
