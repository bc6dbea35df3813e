// Hashes one nonce of qpow-poseidon2, to confirm what the kernels find: the specification, written down a second time.
//
// It shares nothing with the kernels, not even their constants, and is plain enough to compare with the specification
// line by line: every element is canonical at all times. The constants are decimal here, and hexadecimal in the file that
// the kernels and the Python reference read; a test compares all three.
#include <cstdint>

#include "quantus_miner.h"

namespace {

using u128 = unsigned __int128;

constexpr uint64_t prime = 18446744069414584321u;  // 2^64 - 2^32 + 1
constexpr int width = 12, rate = 8, outer_rounds = 8, inner_rounds = 22;

constexpr uint64_t outer_constants[outer_rounds][width] = {
    {
        13835875475997267463u, 13593300247443167546u, 8256098654959761401u, 16497527840820049068u,
        15411522637299147849u, 17020150177669596865u, 5219051110225758042u, 7790297870083302641u,
        16425486905783891643u, 15683309641931586601u, 16544887301834777006u, 3043822364766212060u,
    },
    {
        12511554865575947557u, 2815218757487154454u, 5397191216188696727u, 6263167237941024378u,
        2268298353185649950u, 3891183183650783080u, 16503280268681069520u, 18218637884622147757u,
        14810472806729743006u, 4746652143794040382u, 17167206695294637949u, 15175925601089995781u,
    },
    {
        9033104775021388674u, 9921017235607945260u, 12923798861715797527u, 15786281414702354803u,
        8714540470225280152u, 2761431909488453770u, 11068269652872909615u, 7255476598362472915u,
        17152841886271966136u, 5752572615743285230u, 6296806204286062663u, 17660184115874751421u,
    },
    {
        2188234123236287607u, 7071885762696490733u, 12261132718627234478u, 7190250995558642684u,
        4297991823969990112u, 2588908926796910813u, 12309391821249485402u, 16850936440481388618u,
        14821697447947797068u, 10388886288248231395u, 6579267572940231471u, 16030945643832113911u,
    },
    {
        8895389066387410030u, 1460701038096849270u, 9232424000661355656u, 7869694012000561090u,
        11674967405510647539u, 17791439039604636207u, 3816678204163591524u, 12701925137758912458u,
        7268169701857820838u, 1067589902488001943u, 2070308862709674891u, 7382496027314534074u,
    },
    {
        6944427652715851265u, 4599841608850341455u, 16721906878468876749u, 17856999528157411150u,
        17553134374929059977u, 7890458318273453558u, 17906430202258692747u, 6331829681132802170u,
        1650501125073619501u, 2395319349875521589u, 12750456425164666614u, 15628562918670685207u,
    },
    {
        16472031182362063631u, 8519479891090086696u, 650980590610947853u, 8543868547028952308u,
        1027758676635423666u, 10647516517072103279u, 11022005145419959786u, 16418258577134197184u,
        2230831754333088463u, 802979627989531812u, 7080627001952875303u, 6853960081492534406u,
    },
    {
        18303760418668938283u, 8239306592877361155u, 16622244490604654200u, 6274074331584152849u,
        17886681876111343804u, 3231554205214632021u, 9020704674996646513u, 9632659917939292177u,
        5954679916794327224u, 5786083536133615252u, 13610804294834768633u, 16186843687143828937u,
    },
};

constexpr uint64_t inner_constants[inner_rounds] = {
    10950354654605269091u, 15119356940911695088u, 7612059357007237638u, 12236395664799796772u,
    2977570947024676277u, 6373970340753430342u, 9946283046412846796u, 4463022581802230821u,
    4150295645638148407u, 4490915162115027274u, 10829504123483496140u, 4597224039659100030u,
    10266435449820638573u, 9552757317149730134u, 17182064290885366998u, 2165695174462817354u,
    1097317823465564870u, 1947274085218180819u, 1813898247148918694u, 17786016722733367904u,
    4522584789973874566u, 6140884543838897619u,
};

constexpr uint64_t inner_diagonal[width] = {
    14102670999874605824u, 15585654191999307702u, 940187017142450255u, 8747386241522630711u,
    6750641561540124747u, 7440998025584530007u, 6136358134615751536u, 12413576830284969611u,
    11675438539028694709u, 17580553691069642926u, 892707462476851331u, 15167485180850043744u,
};

// x mod prime. With e = 2^32 - 1, 2^64 = e mod prime. Replacing 2^64 by e makes any x < 2^97, that < 2^66, and that
// < 2^64 + 2^34 < 2 prime.
uint64_t reduce(u128 x) {
    for (int i = 0; i < 3; ++i) x = static_cast<uint64_t>(x) + (x >> 64) * 0xffffffff;
    return static_cast<uint64_t>(x < prime ? x : x - prime);
}

uint64_t seventh_power(uint64_t x) {
    const uint64_t square = reduce(u128{x} * x), cube = reduce(u128{square} * x);
    return reduce(u128{reduce(u128{cube} * cube)} * x);
}

struct Elements {
    uint64_t x[width] = {};

    void mix_outer() {
        constexpr u128 matrix[4][4] = {{2, 3, 1, 1}, {1, 2, 3, 1}, {1, 1, 2, 3}, {3, 1, 1, 2}};
        u128 y[width] = {}, sums[4] = {};  // below 7 * 2^64 and 21 * 2^64
        for (int i = 0; i < width; ++i) {
            for (int j = 0; j < 4; ++j) y[i] += matrix[i % 4][j] * x[i - i % 4 + j];
            sums[i % 4] += y[i];
        }
        for (int i = 0; i < width; ++i) x[i] = reduce(y[i] + sums[i % 4]);
    }

    void mix_inner() {
        u128 sum = 0;
        for (const uint64_t element : x) sum += element;
        for (int i = 0; i < width; ++i) x[i] = reduce(u128{inner_diagonal[i]} * x[i] + sum);
    }

    void outer_round(int round) {
        for (int i = 0; i < width; ++i) x[i] = seventh_power(reduce(u128{x[i]} + outer_constants[round][i]));
        mix_outer();
    }

    void permute() {
        mix_outer();
        for (int round = 0; round < outer_rounds / 2; ++round) outer_round(round);
        for (const uint64_t constant : inner_constants) {
            x[0] = seventh_power(reduce(u128{x[0]} + constant));
            mix_inner();
        }
        for (int round = outer_rounds / 2; round < outer_rounds; ++round) outer_round(round);
    }
};

}  // namespace

extern "C" void qm_poseidon2_hash(const uint8_t header[32], const uint8_t nonce[64], uint8_t hash[64]) {
    // 24 elements of 4 bytes each, then a 1 that ends the bytes, a 1 that ends the message, and zeros to a whole block.
    uint64_t message[4 * rate] = {};
    for (int i = 0; i < 96; ++i) {
        const uint64_t byte = i < 32 ? header[i] : nonce[i - 32];
        message[i / 4] |= byte << 8 * (i % 4);
    }
    message[24] = message[25] = 1;
    Elements state;
    for (int block = 0; block < 4; ++block) {
        for (int i = 0; i < rate; ++i) state.x[i] = reduce(u128{state.x[i]} + message[block * rate + i]);
        state.permute();
    }
    for (int i = 0; i < 64; ++i) {
        if (i == 32) state.permute();
        hash[i] = static_cast<uint8_t>(state.x[i % 32 / 8] >> 8 * (i % 8));
    }
}
