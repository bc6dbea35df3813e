// Portable scalar code: y of the next nonce is y * m mod n, until h + nonce reaches its largest value.
#include "kernels.hpp"
#include "search.hpp"
#include "sha3.hpp"

namespace {

class Scalar {
  public:
    static constexpr uint64_t lanes = 1, poll = 64;

    // With m in Montgomery form a Montgomery product steps y in plain form.
    explicit Scalar(const qm_job &job) : job_(job), step_(job_.modulus.to_montgomery(job_.base)) {}

    void seek(const U512 &nonce) {
        y_ = job_.y(nonce);
        U512 room;
        subtract(room, max512, job_.exponent(nonce));
        const uint64_t low = room.word[0];
        room.word[0] = 0;
        steps_left_ = is_zero(room) ? low : ~uint64_t{0};  // more than any slice between two seeks
    }

    uint32_t next() {
        const bool valid = job_.valid(y_);
        if (__builtin_expect(steps_left_ != 0, 1)) {
            --steps_left_;
            y_ = job_.modulus.multiply(y_, step_);
        }
        return valid;
    }

  private:
    const Sha3Job job_;
    const U512 step_;
    U512 y_{};
    uint64_t steps_left_ = 0;
};

}  // namespace

int search_sha3_scalar(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search<Scalar>(job, start, count, control, tested);
}
