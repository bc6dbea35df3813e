// The reference for speed: hashes every nonce in full, with five permutations and nothing shared between nonces.
#include "kernels.hpp"
#include "poseidon2.hpp"
#include "search.hpp"

namespace {

template <class Order_>
class Baseline {
  public:
    using Order = Order_;
    static constexpr uint64_t lanes = 1, poll = 16;

    explicit Baseline(const qm_job &job) : header_(job.header), target_(load_be512(job.target)) {}

    void seek(const U512 &position) { position_ = position; }

    uint32_t next() {
        uint8_t bytes[64];
        store_be512(bytes, Order::nonce(position_));
        State state = midstate(header_, bytes);
        absorb(state, bytes + 32);
        ++position_.word[0];
        return less_or_equal(finish_hash(state), target_);
    }

  private:
    const uint8_t *header_;
    const U512 target_;
    U512 position_{};
};

}  // namespace

int search_poseidon2_baseline(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search_in_order<Baseline>(job, start, count, control, tested);
}
