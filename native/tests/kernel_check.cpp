// Checks the field, the big integers and every kernel that this processor can run; built under ASan and UBSan.
//
// Without input: hostile constants, edges of the ABI, and every kernel against `baseline`, hit by hit; with any argument
// these are left out. On standard input, one vector a line, numbers in hexadecimal except COUNT (FIRST is `-` for none):
//     permutation IN x 12 OUT x 12
//     poseidon2-hash HEADER NONCE HASH
//     poseidon2-search HEADER TARGET START COUNT FIRST
//     sha3-distance HEADER M N NONCE Y DISTANCE
//     sha3-search HEADER M N TARGET START COUNT FIRST
// Exits with 1 and a line for every mismatch, the first 50 of them.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "cpu.hpp"
#include "goldilocks.hpp"
#include "keccak.hpp"
#include "montgomery.hpp"
#include "poseidon2.hpp"
#include "poseidon2_probe.hpp"
#include "quantus_miner.h"
#include "search.hpp"
#include "sha3_probe.hpp"
#include "wide.hpp"

namespace {

int failures = 0;

void expect(bool passed, const std::string &what) {
    if (passed) return;
    if (++failures <= 50) std::cout << "mismatch: " << what << "\n";
}

// splitmix64
struct Random {
    uint64_t state = 1;
    uint64_t next() {
        uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return z ^ z >> 31;
    }
};

U512 small(uint64_t value) {
    return {{value}};
}

U512 plus(const U512 &a, uint64_t b) {
    U512 sum;
    add(sum, a, small(b));
    return sum;
}

U512 minus(const U512 &a, uint64_t b) {
    U512 difference;
    subtract(difference, a, small(b));
    return difference;
}

bool equal(const U512 &a, const U512 &b) {
    return std::memcmp(&a, &b, sizeof a) == 0;
}

// Hexadecimal digits as a big-endian integer of `size` bytes.
std::vector<uint8_t> unhex(const std::string &text, size_t size) {
    std::vector<uint8_t> bytes(size);
    const std::string padded = std::string(2 * size - std::min(2 * size, text.size()), '0') + text;
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(std::stoul(padded.substr(2 * i, 2), nullptr, 16));
    return bytes;
}

U512 unhex512(const std::string &text) {
    return load_be512(unhex(text, 64).data());
}

std::string kernel_label(int kernel) {
    return std::string(qm_kernel_pow(kernel) == QM_SHA3 ? "sha3 " : "poseidon2 ") + qm_kernel_name(kernel);
}

std::vector<int> supported(int pow) {
    std::vector<int> found;
    for (int kernel = 0; kernel < qm_kernel_count(); ++kernel)
        if (qm_kernel_supported(kernel) && (pow < 0 || qm_kernel_pow(kernel) == pow)) found.push_back(kernel);
    return found;
}

struct Result {
    int outcome;
    uint64_t tested, hashes;
};

Result run(int kernel, const qm_job &job, const U512 &start, uint64_t count, bool stopped = false) {
    qm_control control;
    qm_control_reset(&control);
    if (stopped) qm_control_stop(&control);
    uint8_t bytes[64];
    store_be512(bytes, start);
    uint64_t tested = ~uint64_t{0};
    const int outcome = qm_search(kernel, &job, bytes, count, &control, &tested);
    return {outcome, tested, qm_control_hashes(&control)};
}

// Checks a search against the first valid nonce's place in the slice, or none where it is `count`.
void expect_first(int kernel, const qm_job &job, const U512 &start, uint64_t count, uint64_t first,
                  const std::string &what) {
    const Result got = run(kernel, job, start, count);
    const uint64_t tested = first < count ? first + 1 : count;
    expect(got.outcome == (first < count ? QM_FOUND : QM_EXHAUSTED) && got.tested == tested && got.hashes == tested,
           kernel_label(kernel) + ": " + what + ": outcome " + std::to_string(got.outcome) + ", tested " +
               std::to_string(got.tested) + ", counted " + std::to_string(got.hashes) + ", expected tested " +
               std::to_string(tested));
}

std::vector<uint64_t> valid_nonces(int kernel, const qm_job &job, U512 start, uint64_t count) {
    std::vector<uint64_t> found;
    for (uint64_t done = 0; done < count;) {
        const Result got = run(kernel, job, plus(start, done), count - done);
        done += got.tested;
        if (got.outcome == QM_FOUND) found.push_back(done - 1);
        if (got.outcome != QM_FOUND && got.outcome != QM_EXHAUSTED) return {};
    }
    return found;
}

std::vector<uint64_t> hostile_values() {
    return {0, 1, 2, 7, 0xfffffffe, 0xffffffff, 0x100000000, 0x100000001, 0x80000000, 0x00000001ffffffff,
            0x8000000080000000, uint64_t{1} << 63, (uint64_t{1} << 63) - 1, 0xfffffffe00000000, 0xfffffffeffffffff,
            0xffffffff00000000, 0xffffffff00000001, 0xffffffff00000002, 0xfffffffffffffffe, 0xffffffffffffffff};
}

uint64_t residue(u128 x) {
    return static_cast<uint64_t>(x % goldilocks_p);
}

void check_field() {
    std::vector<uint64_t> values = hostile_values();
    Random random;
    for (int i = 0; i < 200; ++i) values.push_back(random.next());
    for (uint64_t a : values) {
        expect(canonical(a) == residue(a), "canonical");
        uint64_t power = 1;
        for (int i = 0; i < 7; ++i) power = residue(static_cast<u128>(power) * residue(a));
        expect(residue(seventh_power(a)) == power, "seventh_power");
        for (uint64_t b : values) {
            const u128 wide = static_cast<u128>(b) << 64 | a;
            const u128 narrow = static_cast<u128>(b & epsilon) << 64 | a;
            expect(residue(reduce128(wide)) == residue(wide), "reduce128");
            expect(residue(reduce96(narrow)) == residue(narrow), "reduce96");
            expect(residue(add(a, b)) == residue(static_cast<u128>(a) + b), "add");
            expect(residue(mul(a, b)) == residue(static_cast<u128>(a) * b), "mul");
            for (int i = 0; i < 20; ++i)
                expect(residue(mul_add(a, b, values[static_cast<size_t>(i)])) ==
                           residue(static_cast<u128>(a) * b % goldilocks_p + values[static_cast<size_t>(i)]),
                       "mul_add");
        }
    }
}

#if defined __x86_64__ || defined __aarch64__
// Every pair of hostile values in every lane, against the scalar field.
void check_poseidon2_vector(const Poseidon2Probe &probe) {
    const auto product = [](uint64_t a, uint64_t b) { return residue(static_cast<u128>(a) * b); };
    const auto check = [&probe](bool passed, const char *what) {
        expect(passed, std::string(probe.name) + ": " + what);
    };
    const uint64_t half_r = uint64_t{1} << 32, r = product(half_r, half_r);
    const size_t lanes = static_cast<size_t>(probe.lanes);
    std::vector<uint64_t> values = hostile_values();
    for (uint64_t k = 1; k < 65536; k = 3 * k + 1) values.push_back(k << 48);  // squares that are multiples of 2^96
    Random random;
    while (values.size() < 48) values.push_back(random.next());
    const auto value = [&values](size_t i) { return values[i % values.size()]; };

    for (size_t a = 0; a < values.size(); ++a)
        for (size_t b = 0; b < values.size(); ++b) {
            uint64_t squares[8], products[8], low[8], high[8], y[8], combined[8], tops[8];
            for (size_t i = 0; i < lanes; ++i) {
                squares[i] = products[i] = low[i] = tops[i] = value(a + i);
                y[i] = high[i] = value(b + 3 * i);
                combined[i] = i % 2 ? value(a + i) >> 1 : value(a + i) >> 20;
            }
            const uint64_t constant = std::min(value(b), ~uint64_t{0} - (uint64_t{1} << 45));
            uint64_t limbs[8];
            for (size_t i = 0; i < lanes; ++i) limbs[i] = y[i] >> 20;
            probe.square(squares);
            probe.multiply(products, y);
            probe.limb_product(low, high);
            probe.recombine(combined, limbs, constant);
            const uint32_t not_above = probe.not_above(tops, value(b));
            for (size_t i = 0; i < lanes; ++i) {
                const uint64_t x = value(a + i), before = i % 2 ? x >> 1 : x >> 20;
                check(product(squares[i], r) == product(x, x), "square");
                check(product(products[i], r) == product(x, y[i]), "multiply");
                const uint64_t bias = uint64_t{1} << 33;
                check(low[i] > 0 && low[i] < 2 * bias && high[i] <= 2 * epsilon &&
                          residue(static_cast<u128>(high[i]) * half_r + low[i] + goldilocks_p - bias) ==
                              product(x, y[i]),
                      "limb_product");
                check(product(combined[i], half_r) ==
                          residue(static_cast<u128>(limbs[i]) * half_r + before + product(constant, half_r)),
                      "recombine");
                check((not_above >> i & 1) == (__builtin_bswap64(canonical(x)) <= value(b)), "not_above");
            }
        }

    // The layers of whole states: linear_layer adds offsets, the same for all states.
    std::vector<uint64_t> offset;
    for (size_t turn = 0; turn < 2000; ++turn) {
        uint64_t x[width * 8] = {}, y[width * 8];
        for (size_t i = 0; i < width * lanes && turn; ++i)
            x[i] = turn < values.size() ? value(turn) : turn % 2 ? value(random.next()) : random.next();
        std::memcpy(y, x, sizeof x);
        probe.linear_layer(y);
        if (!turn)
            for (size_t i = 0; i < width; ++i) offset.push_back(y[lanes * i]);
        for (size_t lane = 0; lane < lanes; ++lane) {
            uint64_t sum = 0;
            for (size_t i = 0; i < width; ++i) sum = residue(static_cast<u128>(sum) + x[lanes * i + lane]);
            for (size_t i = 0; i < width; ++i)
                check(residue(y[lanes * i + lane]) == residue(static_cast<u128>(sum) + residue(offset[i]) +
                                                              product(internal_diagonal[i], x[lanes * i + lane])),
                      "linear_layer");
        }
        std::memcpy(y, x, sizeof x);
        probe.external_step(y);
        for (size_t lane = 0; lane < lanes; ++lane) {
            State state;
            for (size_t i = 0; i < width; ++i) state.element[i] = x[lanes * i + lane];
            external_round(state, {});
            // Scaled by 2^-352 = 2^32, and the bias of 28 * 2^33 by 2^-32.
            for (size_t i = 0; i < width; ++i)
                check(residue(y[lanes * i + lane]) == residue(product(state.element[i], half_r) + u128{56}),
                      "external_step");
        }
    }
}
#endif

// The external layer against its matrix, and the bound stated for it.
void check_external_layer() {
    const int matrix[4][4] = {{2, 3, 1, 1}, {1, 2, 3, 1}, {1, 1, 2, 3}, {3, 1, 1, 2}};
    Random random;
    for (int turn = 0; turn < 100; ++turn) {
        u128 x[width], y[width] = {};
        for (u128 &element : x) element = turn ? random.next() : ~uint64_t{0};
        for (int i = 0; i < width; ++i)
            for (int j = 0; j < width; ++j)
                y[i] += x[j] * static_cast<u128>((i / 4 == j / 4 ? 2 : 1) * matrix[i % 4][j % 4]);
        external_layer(x);
        for (int i = 0; i < width; ++i) {
            expect(x[i] == y[i], "external_layer");
            expect(x[i] <= static_cast<u128>(~uint64_t{0}) * 28, "external_layer's bound");
        }
    }
}

// a * b mod n by doubling and adding.
U512 slow_multiply(const U512 &a, const U512 &b, const U512 &n) {
    U512 product{};
    const auto add_mod = [&n](U512 &value, const U512 &addend) {
        U512 less;
        const bool carry = add(value, value, addend);
        if (!subtract(less, value, n) || carry) value = less;
    };
    for (int i = 511; i >= 0; --i) {
        add_mod(product, product);
        if (b.word[i / 64] >> (i % 64) & 1) add_mod(product, a);
    }
    return product;
}

void check_montgomery() {
    Random random;
    std::vector<U512> moduli = {small(1), small(3), small(0xffffffffffffffff), max512, minus(max512, 2)};
    for (int bits : {65, 256, 257, 511, 512})
        for (int i = 0; i < 3; ++i) {
            U512 n{};
            for (int bit = 0; bit < bits - 1; ++bit) n.word[bit / 64] |= (random.next() & 1) << (bit % 64);
            n.word[0] |= 1;
            n.word[(bits - 1) / 64] |= uint64_t{1} << ((bits - 1) % 64);
            moduli.push_back(n);
        }
    for (const U512 &n : moduli) {
        const Modulus modulus(n);
        std::vector<U512> values = {small(0), minus(n, 1)};
        if (!equal(n, small(1))) values.push_back(small(1));
        while (values.size() < 6) {
            U512 value;
            for (uint64_t &word : value.word) word = random.next();
            values.push_back(slow_multiply(minus(n, 1), value, n));  // < n
        }
        for (const U512 &a : values) {
            for (const U512 &b : values)
                expect(equal(modulus.multiply(a, modulus.to_montgomery(b)), slow_multiply(a, b, n)), "multiply");
            U512 power = slow_multiply(minus(n, 1), minus(n, 1), n);  // 1 mod n
            for (uint64_t exponent = 0; exponent < 20; ++exponent) {
                expect(equal(modulus.power(a, small(exponent)), power), "power");
                power = slow_multiply(power, a, n);
            }
            // a^MAX = a^(2^512) / a: 512 squarings against the whole exponent
            U512 square = a;
            for (int i = 0; i < 512; ++i) square = slow_multiply(square, square, n);
            expect(equal(slow_multiply(modulus.power(a, max512), a, n), square), "power of MAX");
        }
    }
}

void check_keccak() {
    // hashlib.sha3_512(bytes(64)) and of bytes(range(64))
    const U512 of_zeros = unhex512("243d92f5a1328a4cc9f4cb6da60ee6f7b362472f7ad4fc117e3646c85061574c"
                                   "12e110bdfcd98d90f0d19b6bff5b44a7c69da1975c3a8522095eb9217e553c28");
    expect(equal(sha3_512(small(0)), of_zeros), "sha3_512 of zeros");
    U512 counting;
    for (uint64_t i = 0; i < 8; ++i) counting.word[7 - i] = 0x0001020304050607 + 0x0808080808080808 * i;
    const U512 of_counting = unhex512("cb29601efbee71f4dfbb7f1c2bdaeafdb212df6ae35f8bb1ee6c0a245b99f3f3"
                                      "5a82957567a30cfb01ae28b94c7223a62c5c786e8624b8faddcb913e3ab2ce71");
    expect(equal(sha3_512(counting), of_counting), "sha3_512 of 0..63");
    for (const U512 &message : {small(0), counting, max512})
        expect(sha3_512_top(message) == sha3_512(message).word[7], "sha3_512_top");
}

#ifdef __x86_64__
// Moduli and operands at which a wrong carry, quotient or last subtraction would show.
void check_sha3_lanes(const Sha3Probe &probe) {
    const auto power_of_2 = [](int bit) {
        U512 value{};
        value.word[bit / 64] = uint64_t{1} << (bit % 64);
        return value;
    };
    Random random;
    std::vector<U512> moduli = {small(1), small(3), small(0xffffffffffffffff), max512, minus(max512, 2)};
    for (int bit : {29, 52, 58, 64, 104, 256, 468, 493, 504, 511}) {  // limbs begin at multiples of 29 or 52
        moduli.push_back(plus(power_of_2(bit), 1));
        moduli.push_back(minus(power_of_2(bit), 1));
    }
    for (int i = 0; i < 12; ++i) {
        U512 n{};
        for (int word = 0; word < 8 - i % 3 * 3; ++word) n.word[word] = random.next();
        n.word[0] |= 1;
        moduli.push_back(n);
    }
    for (const U512 &n : moduli) {
        std::vector<U512> values = {small(0), minus(n, 1)};
        if (!equal(n, small(1))) values.push_back(small(1));
        U512 middle{};
        for (int word = 0; word < 8; ++word)
            middle.word[word] = n.word[word] >> 1 | (word < 7 ? n.word[word + 1] << 63 : 0);
        values.push_back(middle);
        while (values.size() < 10) {
            U512 value;
            for (uint64_t &word : value.word) word = random.next();
            values.push_back(slow_multiply(minus(n, 1), value, n));  // < n
        }
        for (const U512 &w : values)
            for (size_t first = 0; first < values.size(); first += 2) {  // every value in more than one lane
                U512 y[8], wanted[8];
                uint64_t top[8];
                for (size_t lane = 0; lane < 8; ++lane) {
                    y[lane] = values[(first + lane) % values.size()];
                    wanted[lane] = slow_multiply(y[lane], w, n);
                }
                probe.multiply(y, w, n);
                probe.sha3_512_top(top, y);
                for (int lane = 0; lane < probe.lanes; ++lane) {
                    expect(equal(y[lane], wanted[lane]), std::string(probe.name) + ": multiply");
                    expect(top[lane] == sha3_512(y[lane]).word[7], std::string(probe.name) + ": sha3_512_top");
                }
            }
    }
}
#endif

qm_job example_job(int pow) {
    qm_job job{};
    Random random{static_cast<uint64_t>(pow) + 7};
    for (uint8_t &byte : job.header) byte = static_cast<uint8_t>(random.next());
    for (uint8_t &byte : job.base) byte = static_cast<uint8_t>(random.next());
    for (uint8_t &byte : job.modulus) byte = static_cast<uint8_t>(random.next());
    job.modulus[0] |= 0x80;
    job.modulus[63] |= 1;
    return job;
}

void set_target(qm_job &job, uint64_t top) {
    std::memset(job.target, 0xff, sizeof job.target);
    store_be64(job.target, top);
}

const U512 last_of_walks{{~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}, (1 << 27) - 1}};

void check_invalid() {
    for (int kernel : supported(-1)) {
        const std::string label = kernel_label(kernel);
        qm_job job = example_job(qm_kernel_pow(kernel));
        expect(run(kernel, job, small(1), 0).outcome == QM_INVALID, label + ": count 0 is accepted");
        expect(run(kernel, job, max512, 2).outcome == QM_INVALID, label + ": a slice past the last nonce is accepted");
        expect(run(kernel, job, minus(max512, ~uint64_t{0} - 2), ~uint64_t{0}).outcome == QM_INVALID,
               label + ": a long slice past the last nonce is accepted");
        expect(run(kernel, job, max512, 1).outcome == QM_EXHAUSTED, label + ": the last nonce is refused");
        job.order = QM_WALK + 1;
        expect(run(kernel, job, small(1), 1).outcome == QM_INVALID, label + ": an unknown order is accepted");
        job.order = QM_WALK;
        const bool walks = qm_kernel_pow(kernel) == QM_POSEIDON2;
        expect(run(kernel, job, last_of_walks, 1).outcome == (walks ? QM_EXHAUSTED : QM_INVALID),
               label + ": the last position of the walks");
        expect(run(kernel, job, last_of_walks, 2).outcome == QM_INVALID, label + ": a walk past the last is accepted");
        job.order = QM_COUNTING;
        if (walks) continue;
        qm_job bad = job;
        bad.modulus[63] &= 0xfe;
        expect(run(kernel, bad, small(1), 1).outcome == QM_INVALID, label + ": an even modulus is accepted");
        bad = job;
        std::memset(bad.modulus, 0, 32);
        std::memcpy(bad.modulus + 32, bad.base, 32);
        bad.modulus[63] |= 1;
        std::memcpy(bad.base, bad.modulus + 32, 32);
        expect(run(kernel, bad, small(1), 1).outcome == QM_INVALID, label + ": base = modulus is accepted");
        bad.base[31] &= 0xfe;
        expect(run(kernel, bad, small(1), 1).outcome == QM_EXHAUSTED, label + ": base = modulus - 1 is refused");
        std::memset(bad.modulus, 0, 64);
        expect(run(kernel, bad, small(1), 1).outcome == QM_INVALID, label + ": modulus 0 is accepted");
        bad.modulus[63] = 1;
        expect(run(kernel, bad, small(1), 1).outcome == QM_INVALID, label + ": modulus 1, base not 0 is accepted");
    }
    const qm_job job = example_job(QM_POSEIDON2);
    for (int kernel : {-1, qm_kernel_count(), 1 << 30}) {
        expect(run(kernel, job, small(1), 1).outcome == QM_INVALID, "a kernel that is not there is accepted");
        expect(!qm_kernel_supported(kernel) && qm_kernel_pow(kernel) == QM_INVALID && !*qm_kernel_name(kernel),
               "a kernel that is not there is described");
    }
    for (int kernel = 0; kernel < qm_kernel_count(); ++kernel)
        if (!qm_kernel_supported(kernel))
            expect(run(kernel, job, small(1), 1).outcome == QM_INVALID, "a kernel not supported here runs");
}

void check_edges() {
    const auto power_of_2 = [](int bit) {
        U512 value{};
        value.word[bit / 64] = uint64_t{1} << (bit % 64);
        return value;
    };
    for (int kernel : supported(-1)) {
        qm_job job = example_job(qm_kernel_pow(kernel));
        set_target(job, ~uint64_t{0});  // every nonce but zero is valid
        expect_first(kernel, job, small(0), 1, 1, "the zero nonce alone");
        expect_first(kernel, job, small(0), 2, 1, "nonces 0 and 1");
        expect_first(kernel, job, small(1), 5, 0, "nonce 1");
        expect_first(kernel, job, max512, 1, 0, "the last nonce");
        for (int bit : {32, 64, 256}) expect_first(kernel, job, power_of_2(bit), 3, 0, "a power of two");
        expect_first(kernel, job, minus(power_of_2(512 - 1), 1), ~uint64_t{0}, 0, "the longest count");

        const Result stopped = run(kernel, job, small(1), 5, true);
        expect(stopped.outcome == QM_STOPPED && stopped.tested == 0 && stopped.hashes == 0,
               kernel_label(kernel) + ": a stop before the search");

        std::memset(job.target, 0, sizeof job.target);
        for (uint64_t count : {1, 2, 7, 8, 9, 31, 33, 70})
            for (uint64_t before : {0, 1, 5}) {
                expect_first(kernel, job, small(before), count, count, "none from zero");
                expect_first(kernel, job, minus(power_of_2(32), before), count, count, "none across 2^32");
            }
        expect_first(kernel, job, minus(max512, 69), 70, 70, "none to the last nonce");
    }
}

// Hit by hit against baseline, across the ends of walks and where they begin.
void check_walks() {
    const std::vector<int> kernels = supported(QM_POSEIDON2);
    qm_job job = example_job(QM_POSEIDON2);
    job.order = QM_WALK;
    const uint64_t count = 1500;
    const U512 ends[] = {small(count), small(uint64_t{1} << 27), small(uint64_t{5} << 61), U512{{0, 0, 0, 0, 1}},
                         last_of_walks};
    for (const U512 &end : ends)
        for (int i = 0; i < 2; ++i) {
            set_target(job, i ? ~uint64_t{0} / 3 : ~uint64_t{0} / 20);
            const U512 start = minus(end, &end == &ends[0] || &end == &ends[4] ? count - 1 : count / 2);
            const auto wanted = valid_nonces(kernels[0], job, start, count);
            expect(!wanted.empty(), "baseline finds no nonce of a walk to compare with");
            for (int kernel : kernels)
                expect(valid_nonces(kernel, job, start, count) == wanted,
                       kernel_label(kernel) + ": not the nonces of baseline in walks");
        }
}

// Hit by hit against baseline, around every word boundary.
void check_against_baseline() {
    for (int pow : {int{QM_POSEIDON2}, int{QM_SHA3}}) {
        const std::vector<int> kernels = supported(pow);
        qm_job job = example_job(pow);
        for (int turn = 0; turn < 12; ++turn) {
            set_target(job, turn % 2 ? ~uint64_t{0} / 3 : ~uint64_t{0} / 20);
            U512 start{};
            const char *const where[] = {"0", "2^32", "2^64", "2^256", "2^511", "2^512"};
            const int bits[] = {-1, 32, 64, 256, 511, 512};
            const int place = turn / 2;
            const uint64_t count = pow == QM_SHA3 ? 150 : 1500;
            if (place) {
                if (bits[place] < 512) start.word[bits[place] / 64] = uint64_t{1} << (bits[place] % 64);
                start = minus(start, bits[place] < 512 ? count / 2 : count);
            }
            if (turn == 3) {  // a modulus of 257 bits
                std::memset(job.modulus, 0, 31);
                job.modulus[31] = 1;
            }
            if (turn == 10) {  // the exponent of qpow-sha3 saturates within the slice
                std::memset(job.header, 0, sizeof job.header);
                job.header[31] = 70;
            }
            if (turn == 11) job.base[0] ^= 1;  // to a value that is not valid, after one that is
            const auto wanted = valid_nonces(kernels[0], job, start, count);
            expect(!wanted.empty(), "baseline finds no nonce to compare with");
            if (pow == QM_SHA3 && turn >= 10)
                expect((wanted.back() == count - 1) == (turn == 10), "the saturated value is not as meant");
            for (int kernel : kernels)
                expect(valid_nonces(kernel, job, start, count) == wanted,
                       kernel_label(kernel) + ": not the nonces of baseline around " + where[place]);
        }
    }
}

// The search loop with eight lanes: what is valid before the slice, after it or at zero does not count.
struct Sieve {
    using Order = Counting;
    static constexpr uint64_t lanes = 8, poll = 16;
    explicit Sieve(const qm_job &) {}
    static bool valid(uint64_t low) { return low % 11 == 0 || low % 13 == 0; }
    void seek(const U512 &nonce) { low = nonce.word[0]; }
    uint32_t next() {
        uint32_t mask = 0;
        for (uint64_t i = 0; i < lanes; ++i) mask |= uint32_t{valid(low++)} << i;
        return mask;
    }
    uint64_t low = 0;
};

void check_lanes() {
    for (uint64_t base : {uint64_t{0}, (uint64_t{1} << 32) - 40, ~uint64_t{0} - 40})
        for (uint64_t start = base; start < base + 40; ++start)
            for (uint64_t count = 1; count < 40; ++count) {
                uint64_t first = 0;
                while (first < count && ((start == 0 && first == 0) || !Sieve::valid(start + first))) ++first;
                qm_control control;
                qm_control_reset(&control);
                uint64_t tested = 0;
                const int outcome = search<Sieve>(qm_job{}, small(start), count, &control, &tested);
                expect(outcome == (first < count ? QM_FOUND : QM_EXHAUSTED) &&
                           tested == (first < count ? first + 1 : count) && qm_control_hashes(&control) == tested,
                       "a search of " + std::to_string(count) + " from " + std::to_string(start) + " with 8 lanes");
            }
}

// A stop from another thread ends a search without end; what it tested was counted.
void check_stop() {
    for (int kernel : supported(-1)) {
        qm_job job = example_job(qm_kernel_pow(kernel));
        qm_control control;
        qm_control_reset(&control);
        const uint8_t start[64] = {1};
        uint64_t tested = 0;
        int outcome = QM_INVALID;
        std::thread searcher([&] { outcome = qm_search(kernel, &job, start, ~uint64_t{0}, &control, &tested); });
        while (qm_control_hashes(&control) == 0) std::this_thread::yield();
        qm_control_stop(&control);
        searcher.join();
        expect(outcome == QM_STOPPED && tested > 0 && tested == qm_control_hashes(&control),
               kernel_label(kernel) + ": a stop from another thread");
    }
}

qm_job read_job(std::istream &line, int pow) {
    qm_job job{};
    std::string header, m, n;
    line >> header;
    std::memcpy(job.header, unhex(header, 32).data(), 32);
    if (pow == QM_SHA3) {
        line >> m >> n;
        std::memcpy(job.base, unhex(m, 64).data() + 32, 32);
        std::memcpy(job.modulus, unhex(n, 64).data(), 64);
    }
    return job;
}

void check_permutation(std::istream &line, const std::string &what) {
    State state;
    std::string word;
    for (uint64_t &element : state.element) {
        line >> word;
        element = std::stoull(word, nullptr, 16);
    }
    permute(state);
    for (uint64_t element : state.element) {
        line >> word;
        expect(canonical(element) == std::stoull(word, nullptr, 16), what);
    }
}

// The nonce's value, exactly: valid where the target is the value, not valid where it is one less.
void check_value(std::istream &line, int pow, const std::string &what) {
    qm_job job = read_job(line, pow);
    std::string nonce_text, y_text, value_text;
    line >> nonce_text;
    if (pow == QM_SHA3) {
        line >> y_text;
        const U512 nonce = unhex512(nonce_text);
        U512 exponent;
        if (add(exponent, load_be256(job.header), nonce)) exponent = max512;
        expect(equal(Modulus(load_be512(job.modulus)).power(load_be256(job.base), exponent), unhex512(y_text)), what);
    }
    line >> value_text;
    const U512 nonce = unhex512(nonce_text), value = unhex512(value_text);
    for (int kernel : supported(pow)) {
        store_be512(job.target, value);
        expect_first(kernel, job, nonce, 1, is_zero(nonce) ? 1 : 0, what);
        if (is_zero(value)) continue;
        store_be512(job.target, minus(value, 1));
        expect_first(kernel, job, nonce, 1, 1, what);
    }
}

void check_search(std::istream &line, int pow, const std::string &what) {
    qm_job job = read_job(line, pow);
    std::string target, start_text, first_text;
    uint64_t count = 0;
    line >> target >> start_text >> count >> first_text;
    std::memcpy(job.target, unhex(target, 64).data(), 64);
    const U512 start = unhex512(start_text);
    uint64_t first = count;
    if (first_text != "-") {
        U512 offset;
        subtract(offset, unhex512(first_text), start);
        first = offset.word[0];
    }
    for (int kernel : supported(pow)) {
        // The yardsticks are slow: of a long search they do the last part before the hit.
        const uint64_t most = pow == QM_SHA3 ? 300 : 4000;
        const uint64_t last = first < count ? first : count - 1;
        const bool slow = std::strcmp(qm_kernel_name(kernel), "baseline") == 0;
        const uint64_t skip = slow && last >= most ? last - most : 0;
        expect_first(kernel, job, plus(start, skip), slow ? last + 1 - skip : count,
                     slow ? first - skip : first, what);
    }
}

// Hostile constants, edges of the ABI, and every kernel against `baseline`, hit by hit.
void check_without_vectors() {
    check_field();
    check_external_layer();
    check_montgomery();
    check_keccak();
#ifdef __x86_64__
    if (cpu_has_avx2()) check_poseidon2_vector(poseidon2_avx2_probe);
    if (cpu_has_avx512()) check_poseidon2_vector(poseidon2_avx512vl_probe);
    if (cpu_has_avx512()) check_poseidon2_vector(poseidon2_avx512_probe);
    if (cpu_has_avx2()) check_sha3_lanes(sha3_avx2_probe);
    if (cpu_has_avx512()) check_sha3_lanes(sha3_avx512bw_probe);
    if (cpu_has_avx512_ifma()) check_sha3_lanes(sha3_avx512_probe);
#endif
#ifdef __aarch64__
    check_poseidon2_vector(poseidon2_neon_probe);
#endif
    check_invalid();
    check_edges();
    check_against_baseline();
    check_walks();
    check_lanes();
    check_stop();
}

}  // namespace

int main(int argc, char **) {
    if (argc == 1) check_without_vectors();
    int lines = 0;
    for (std::string text; std::getline(std::cin, text); ++lines) {
        std::istringstream line(text);
        std::string kind;
        line >> kind;
        const std::string what = "line " + std::to_string(lines + 1) + ": " + text;
        if (kind == "permutation") check_permutation(line, what);
        else if (kind == "poseidon2-hash") check_value(line, QM_POSEIDON2, what);
        else if (kind == "sha3-distance") check_value(line, QM_SHA3, what);
        else if (kind == "poseidon2-search") check_search(line, QM_POSEIDON2, what);
        else if (kind == "sha3-search") check_search(line, QM_SHA3, what);
        else expect(false, what + ": no such kind of vector");
        expect(!line.fail(), what + ": cut short");
    }
    std::cout << supported(-1).size() << " kernels, " << lines << " vectors, " << failures << " mismatches\n";
    return failures != 0;
}
