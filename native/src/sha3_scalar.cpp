// Portable scalar code: y of the next nonce is y * m mod n, until h + nonce reaches its largest value.
#include "kernels.hpp"
#include "search.hpp"
#include "sha3.hpp"

namespace {

class Scalar {
  public:
    using Order = Counting;
    static constexpr uint64_t lanes = 1, poll = 64;

    explicit Scalar(const qm_job &job) : job_(job), sequence_(job_) {}

    void seek(const U512 &nonce) { sequence_.seek(nonce); }

    uint32_t next() {
        const bool valid = job_.valid(sequence_.y);
        sequence_.step();
        return valid;
    }

  private:
    const Sha3Job job_;
    Sha3Sequence sequence_;
};

}  // namespace

int search_sha3_scalar(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search<Scalar>(job, start, count, control, tested);
}
