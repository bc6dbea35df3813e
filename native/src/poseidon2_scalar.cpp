// Portable scalar code. Two permutations decide almost every nonce: all nonces with the same high 32 bytes share the
// first two of the five, and the last is needed only if the first 8 bytes of the hash do not decide.
#include "kernels.hpp"
#include "poseidon2.hpp"
#include "poseidon2_span.hpp"
#include "search.hpp"

namespace {

constexpr uint64_t largest_diagonal() {
    uint64_t largest = 0;
    for (uint64_t entry : internal_diagonal) largest = entry > largest ? entry : largest;
    return largest;
}

// Each step expects elements that include the round's constants, and adds those of the next round.
// They stay functions: rounds unrolled in one place exceed the instruction cache and the registers (-10 %).

[[gnu::noinline]] void external_step(uint64_t (&x)[width], const uint64_t (&next_constants)[width]) {
    u128 wide[width];
    for (int i = 0; i < width; ++i) wide[i] = seventh_power(x[i]);
    external_layer(wide);
    // 28 * 2^64 + 2^64 < 2^96
    for (int i = 0; i < width; ++i) x[i] = reduce96(wide[i] + next_constants[i]);
}

[[gnu::noinline]] void internal_step(uint64_t (&x)[width], uint64_t next_constant) {
    // With d + 1 <= 2^64 - 17, a product is at most (2^64 - 17) 2^64, and less than 12 * 2^64 is added to it.
    static_assert(largest_diagonal() <= ~uint64_t{0} - 17);
    u128 rest = 0;
    for (int i = 1; i < width; ++i) rest += x[i];
    const u128 rest_and_constant = rest + next_constant;
    const uint64_t power = seventh_power(x[0]);
    const u128 sum = rest + power;
    x[0] = reduce128(static_cast<u128>(internal_diagonal[0] + 1) * power + rest_and_constant);
    for (int i = 1; i < width; ++i) x[i] = reduce128(static_cast<u128>(internal_diagonal[i]) * x[i] + sum);
}

// The rounds from the second on, except for the layer that ends the last one.
void rounds_after_first(uint64_t (&x)[width]) {
    constexpr uint64_t first_internal[width] = {internal_round_constants[0]};
    for (int r = 2; r < 4; ++r) external_step(x, external_round_constants_initial[r]);
    external_step(x, first_internal);
    for (int r = 1; r < 22; ++r) internal_step(x, internal_round_constants[r]);
    internal_step(x, 0);
    for (int i = 0; i < width; ++i) x[i] = add(x[i], external_round_constants_terminal[0][i]);
    for (int r = 1; r < 4; ++r) external_step(x, external_round_constants_terminal[r]);
    for (uint64_t &element : x) element = seventh_power(element);
}

// The elements before the second S-boxes.
void start(const Start<Counting> &from, uint32_t low, uint64_t (&x)[width]) {
    const uint64_t varying = __builtin_bswap32(low);
    for (int i = 0; i < width; ++i) x[i] = add(from.before[i], column7[i] * varying);
    external_step(x, external_round_constants_initial[1]);
}

void start(const Start<Walk> &from, uint32_t low, uint64_t (&x)[width]) {
    const uint64_t along = from.factor * low;
    const uint64_t power3 = seventh_power(add(from.before3, along)),
                   power7 = seventh_power(add(from.before7, goldilocks_p - along));
    // 9 * 2^64 + 2^64 < 2^96
    for (int i = 0; i < width; ++i)
        x[i] = reduce96(static_cast<u128>(power3) * column3[i] + static_cast<u128>(power7) * column7[i] + from.rest[i]);
}

template <class Order_>
class Scalar {
  public:
    using Order = Order_;
    static constexpr uint64_t lanes = 1, poll = 32;

    explicit Scalar(const qm_job &job) : span_(job) {}

    void seek(const U512 &position) {
        low_ = span_.offset(position);
        start_ = Start<Order>(span_.seek(position));
    }

    uint32_t next() {
        uint64_t x[width];
        start(start_, low_++, x);
        rounds_after_first(x);

        // The layer that ends one permutation and the one that begins the next, with the last block between them.
        u128 wide[width];
        for (int i = 0; i < width; ++i) wide[i] = x[i];
        external_layer(wide);
        wide[0] += 1;
        wide[1] += 1;
        external_layer(wide);
        // 28 * (28 * 2^64 + 1) + 2^64 < 2^96
        for (int i = 0; i < width; ++i) x[i] = reduce96(wide[i] + external_round_constants_initial[0][i]);
        external_step(x, external_round_constants_initial[1]);
        rounds_after_first(x);

        // Row 0 of the last layer; its entries add up to 28.
        u128 out = 0;
        for (int i = 0; i < width; ++i) out += static_cast<u128>(row0[i]) * x[i];
        const uint64_t top = __builtin_bswap64(canonical(reduce96(out)));
        // If the first 8 bytes equal those of the target, the others decide.
        if (__builtin_expect(top > span_.top_target(), 1)) return 0;
        return span_.valid(low_ - 1);
    }

  private:
    // Row 0 of the external matrix.
    static constexpr uint64_t row0[width] = {4, 6, 2, 2, 2, 3, 1, 1, 2, 3, 1, 1};

    Span<Order> span_;
    Start<Order> start_{State{}};
    uint32_t low_ = 0;
};

}  // namespace

int search_poseidon2_scalar(const qm_job &job, U512 start, uint64_t count, qm_control *control, uint64_t *tested) {
    return search_in_order<Scalar>(job, start, count, control, tested);
}
