// The yardstick: every nonce hashed in full, five permutations, nothing shared between nonces.
#include "kernels.hpp"
#include "poseidon2.hpp"
#include "search.hpp"

namespace {

class Baseline {
  public:
    static constexpr uint64_t lanes = 1, poll = 16;

    explicit Baseline(const qm_job &job) : header_(job.header), limit_(load_be512(job.limit)) {}

    void seek(const U512 &nonce) { nonce_ = nonce; }

    uint32_t next() {
        uint8_t bytes[64];
        store_be512(bytes, nonce_);
        State state = midstate(header_, bytes);
        absorb(state, bytes + 32);
        ++nonce_.word[0];
        return less_or_equal(finish_hash(state), limit_);
    }

  private:
    const uint8_t *header_;
    const U512 limit_;
    U512 nonce_{};
};

}  // namespace

int search_poseidon2_baseline(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search<Baseline>(job, start, count, control, tested);
}
