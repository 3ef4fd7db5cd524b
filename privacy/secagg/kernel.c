/* The passes of privacy/secagg over a vector, compiled. privacy/secagg/kernel.py says what they are for.
 *
 * Each gives the very words of the NumPy code beside its caller, which is the reference. Nothing here
 * allocates, calls the system or takes another way because of a value; AES is not done here. Lengths are the
 * caller's promise. `level` names the instructions: 2 for AVX-512, 1 for AVX2, 0 for what every CPU has.
 *
 * Rounding is that of single precision, one operation at a time: build with -ffp-contract=off and without
 * -ffast-math.
 */
#include <stddef.h>
#include <stdint.h>

#define COLUMNS 1024 /* of the check word's table */
#define PIECE_ROWS 32
#define TILE 512
#define LANES_MOST 4
#define INLINE static inline __attribute__((always_inline))

struct encoding {
    const float *values;    /* the whole update */
    uint64_t count, packed; /* its coordinates, and the words that hold them */
    const int16_t *dither;  /* of the block's first word in the first lane */
    uint64_t dither_stride; /* from one lane's dither to the next lane's */
    float scale, rounder;
    int32_t offset, lane_bits;
};

/* out +-= `rows` rows of pads, a number known when this is compiled, so that each word is read and written once */
INLINE void add_rows(uint64_t *restrict out, const uint64_t *restrict pads, size_t stride, int rows, int minus,
                     size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint64_t sum = 0;
#pragma GCC unroll 4
        for (int k = 0; k < rows; k++) sum += pads[k * stride + i];
        out[i] = minus ? out[i] - sum : out[i] + sum;
    }
}

INLINE void add_all(uint64_t *out, const uint64_t *pads, size_t stride, size_t rows, int minus, size_t n) {
    for (; rows >= 4; rows -= 4, pads += 4 * stride) add_rows(out, pads, stride, 4, minus, n);
    if (rows == 3) add_rows(out, pads, stride, 3, minus, n);
    if (rows == 2) add_rows(out, pads, stride, 2, minus, n);
    if (rows == 1) add_rows(out, pads, stride, 1, minus, n);
}

/* out += the first `plus` rows of pads, out -= the `minus` rows after them, mod 2^64 */
INLINE void add(uint64_t *out, const uint64_t *pads, size_t stride, size_t plus, size_t minus, size_t n) {
    add_all(out, pads, stride, plus, 0, n);
    add_all(out, pads + plus * stride, stride, minus, 1, n);
}

INLINE int within(const float *values, size_t n, float limit) {
    int32_t bad = 0;
    for (size_t i = 0; i < n; i++) bad |= !(values[i] >= -limit && values[i] <= limit); /* also NaN */
    return !bad;
}

INLINE void encode(const struct encoding *e, size_t start, size_t n, int bits, uint64_t *out) {
    const int lanes = bits == 16 ? 4 : bits == 21 ? 3 : 2;
    int32_t steps[LANES_MOST][TILE];
    for (size_t at = 0; at < n; at += TILE) {
        const size_t size = n - at < TILE ? n - at : TILE;
        for (int lane = 0; lane < lanes; lane++) {
            const uint64_t first = lane * e->packed + start + at;
            const size_t here = first >= e->count ? 0 : e->count - first < size ? e->count - first : size;
            const float *x = e->values + first;
            const int16_t *dither = e->dither + lane * e->dither_stride + at;
            int32_t *to = steps[lane];
            for (size_t i = 0; i < here; i++) {
                union { float number; int32_t bits; } sum;
                sum.number = x[i] * e->scale + (float)dither[i];
                sum.number = sum.number + e->rounder;
                to[i] = sum.bits + e->offset;
            }
            for (size_t i = here; i < size; i++) to[i] = 0; /* the last lane may be shorter */
        }
        uint64_t *words = out + at;
        for (size_t i = 0; i < size; i++) {
            const uint32_t a = steps[0][i], b = steps[1][i], c = steps[2][i], d = steps[3][i];
            if (bits == 16) words[i] = (uint64_t)(a | b << 16) | (uint64_t)(c | d << 16) << 32;
            else if (bits == 21) words[i] = (uint64_t)a | (uint64_t)b << 21 | (uint64_t)c << 42;
            else words[i] = (uint64_t)a | (uint64_t)b << 32;
        }
    }
}

typedef uint16_t lane16 __attribute__((may_alias));
typedef uint32_t lane32 __attribute__((may_alias));

/* The k-th entry of the check word's table, below 2^32. With lanes of 21 bits the table is one lane, at `place`. */
INLINE uint64_t entry(const uint64_t *words, size_t k, int bits, int place) {
    if (bits == 16) return ((const lane16 *)words)[k];
    if (bits == 32) return ((const lane32 *)words)[k];
    return place < 42 ? words[k] >> place & ((1 << 21) - 1) : words[k] >> place;
}

/* sums[column] += entry * keys[row] over a table that is filled row by row, from the row `row` on */
INLINE void table(uint64_t *restrict sums, const uint64_t *restrict words, size_t entries, size_t row, int bits,
                  int place, const uint64_t *restrict keys) {
    for (size_t k = row * COLUMNS; k < entries; k += COLUMNS, row++) {
        const size_t size = entries - k < COLUMNS ? entries - k : COLUMNS;
        for (size_t j = 0; j < size; j++) sums[j] += entry(words, k + j, bits, place) * keys[row];
    }
}

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))

AVX2 INLINE __m256i entries4(const uint64_t *words, size_t k, int bits, int place) {
    if (bits == 16) return _mm256_cvtepu16_epi64(_mm_loadu_si64((const lane16 *)words + k));
    if (bits == 32) return _mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i *)((const lane32 *)words + k)));
    const __m256i lanes = _mm256_srli_epi64(_mm256_loadu_si256((const __m256i *)(words + k)), place);
    return place < 42 ? _mm256_and_si256(lanes, _mm256_set1_epi64x((1 << 21) - 1)) : lanes;
}

/* The same for whole groups of four rows; how many rows. Entries are below 2^32, so two multiplications of halves
 * make a product mod 2^64, and the upper one is shifted once for all four. */
AVX2 INLINE size_t table4(uint64_t *sums, const uint64_t *words, size_t entries, int bits, int place,
                          const uint64_t *keys) {
    size_t row = 0;
    for (; (row + 4) * COLUMNS <= entries; row += 4) {
        __m256i low_keys[4], high_keys[4];
        for (int r = 0; r < 4; r++) {
            low_keys[r] = _mm256_set1_epi64x(keys[row + r]);
            high_keys[r] = _mm256_srli_epi64(low_keys[r], 32);
        }
        for (size_t j = 0; j < COLUMNS; j += 4) {
            __m256i low = _mm256_loadu_si256((const __m256i *)(sums + j)), high = _mm256_setzero_si256();
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                const __m256i values = entries4(words, (row + r) * COLUMNS + j, bits, place);
                low = _mm256_add_epi64(low, _mm256_mul_epu32(values, low_keys[r]));
                high = _mm256_add_epi64(high, _mm256_mul_epu32(values, high_keys[r]));
            }
            low = _mm256_add_epi64(low, _mm256_slli_epi64(high, 32));
            _mm256_storeu_si256((__m256i *)(sums + j), low);
        }
    }
    return row;
}
#define GROUPS(entries, bits, place) table4(sums, words, entries, bits, place, keys)
#endif
#define NO_GROUPS(entries, bits, place) 0

/* Over packed words; with lanes of 21 bits at most a piece of them, which gives a piece of the table for each lane */
#define PRODUCT_IN(groups)                                                                                \
    if (bits == 16) {                                                                                     \
        table(sums, words, 4 * n, groups(4 * n, 16, 0), 16, 0, keys);                                     \
    } else if (bits == 32) {                                                                              \
        table(sums, words, 2 * n, groups(2 * n, 32, 0), 32, 0, keys);                                     \
    } else {                                                                                              \
        table(sums, words, n, groups(n, 21, 0), 21, 0, keys);                                             \
        keys += PIECE_ROWS;                                                                               \
        table(sums, words, n, groups(n, 21, 21), 21, 21, keys);                                           \
        keys += PIECE_ROWS;                                                                               \
        table(sums, words, n, groups(n, 21, 42), 21, 42, keys);                                           \
    }

#define LEVEL(name, target, groups)                                                                       \
    target static void add_##name(uint64_t *out, const uint64_t *pads, size_t stride, size_t plus,        \
                                  size_t minus, size_t n) {                                               \
        add(out, pads, stride, plus, minus, n);                                                           \
    }                                                                                                     \
    target static int within_##name(const float *values, size_t n, float limit) {                         \
        return within(values, n, limit);                                                                  \
    }                                                                                                     \
    target static void encode_##name(const struct encoding *e, size_t start, size_t n, uint64_t *out) {   \
        if (e->lane_bits == 16) encode(e, start, n, 16, out);                                             \
        else if (e->lane_bits == 21) encode(e, start, n, 21, out);                                        \
        else encode(e, start, n, 32, out);                                                                \
    }                                                                                                     \
    target static void product_##name(uint64_t *sums, const uint64_t *words, size_t n, int bits,          \
                                      const uint64_t *keys) {                                             \
        PRODUCT_IN(groups)                                                                                \
    }

LEVEL(any, , NO_GROUPS)
#if defined(__x86_64__)
LEVEL(avx2, AVX2, GROUPS)
LEVEL(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))), GROUPS)
#define AT(level, name, ...) \
    ((level) == 2 ? name##_avx512(__VA_ARGS__) : (level) == 1 ? name##_avx2(__VA_ARGS__) : name##_any(__VA_ARGS__))
#else
#define AT(level, name, ...) ((void)(level), name##_any(__VA_ARGS__))
#endif
#define PUBLIC __attribute__((visibility("default")))

PUBLIC int medveil_best_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2")) return 0;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
               ? 2
               : 1;
#else
    return 0;
#endif
}

PUBLIC void medveil_add(int level, uint64_t *out, const uint64_t *pads, size_t stride, size_t plus, size_t minus,
                        size_t n) {
    AT(level, add, out, pads, stride, plus, minus, n);
}

PUBLIC int medveil_within(int level, const float *values, size_t n, float limit) {
    return AT(level, within, values, n, limit);
}

PUBLIC void medveil_encode(int level, const struct encoding *e, size_t start, size_t n, uint64_t *out) {
    AT(level, encode, e, start, n, out);
}

PUBLIC void medveil_product(int level, uint64_t *sums, const uint64_t *words, size_t n, int bits,
                            const uint64_t *keys) {
    AT(level, product, sums, words, n, bits, keys);
}
