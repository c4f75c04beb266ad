/* Loops for bfloat16 on a processor that multiplies and rounds it by itself (AVX-512 BF16): a vector holds two numbers to a
   lane, of which the even ones, or the odd ones, make floats by one operation, where widening LANES numbers in their order
   takes two. Such a processor takes numbers below 2^-126 for 0, and so do these loops.

   C is from TWICE to WIDEST, see in_pairs. Without such a processor nobody calls them. */

#define TWICE (2 * LANES)

#if defined(BF16) && defined(__AVX512BF16__)
#include <immintrin.h>

#define PAIRED 1
#define WIDEST 2048 /* channels of which there is room on the stack */

static int in_pairs(int64_t C) { return C >= TWICE && C <= WIDEST; }

INLINE bits pairs(const elem *at) {
    bits v;
    memcpy(&v, at, sizeof v);
    return v;
}

INLINE vec even(bits v) { return (vec)(v << 16); }
INLINE vec odd(bits v) { return (vec)(v & 0xffff0000u); }

INLINE void give(elem *at, vec v) {
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
    memcpy(at, &rounded, sizeof rounded);
}

/* Two vectors, one behind the other. */
INLINE void give_two(elem *at, vec first, vec second) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    memcpy(at, &rounded, sizeof rounded);
}

/* w as a sum of bfloat16s, high and low, 2^-16 of it off at most; gives whether the low ones are all 0. */
INLINE int split(const float *w, int64_t C, elem *high, elem *low) {
    bits some = {0};
    for (int64_t i = 0; i < C; i += LANES) {
        const int64_t k = i + LANES <= C ? i : C - LANES;
        give(high + k, get(w + k));
        const vec h = take(high + k);
        const bits finite = (bits)(((bits)h & 0x7f800000u) != 0x7f800000u);
        give(low + k, (vec)((bits)(get(w + k) - h) & finite));
        some |= (bits)take(low + k);
    }
    return !_mm512_test_epi32_mask((__m512i)some, _mm512_set1_epi32(0x7fffffff));
}

INLINE void pair_products(vec s[LANES], const elem *x, int64_t C, const elem *high, const elem *low) {
    const __m512bh h = (__m512bh)pairs(high), l = low ? (__m512bh)pairs(low) : h;
    UNROLL for (int j = 0; j < LANES; j++) {
        const __m512bh v = (__m512bh)pairs(x + j * C);
        s[j] = (vec)_mm512_dpbf16_ps((__m512)s[j], v, h);
        if (low) s[j] = (vec)_mm512_dpbf16_ps((__m512)s[j], v, l);
    }
}

/* low is NULL where w is of bfloat16s. Where C is no multiple of TWICE, the last vector has weights of its own from place C
   on, 0 for what it brings anew. */
INLINE int64_t pair_rows(const elem *x, int64_t R, int64_t C, const elem *high, const elem *low, float *out) {
    int64_t p = 0;
    for (; p + LANES <= R; p += LANES) {
        const elem *row = x + p * C;
        vec s[LANES];
        UNROLL for (int j = 0; j < LANES; j++) s[j] = (vec){0};
        for (int64_t k = 0; k + TWICE <= C; k += TWICE) pair_products(s, row + k, C, high + k, low ? low + k : NULL);
        if (C % TWICE) pair_products(s, row + C - TWICE, C, high + C, low ? low + C : NULL);
        put(out + p, folded(s));
    }
    return p;
}

/* As lane_sums, without d. */
static int64_t pair_sums(const elem *x, int64_t R, int64_t C, const float *w, float *out) {
    elem high[WIDEST + TWICE], low[WIDEST + TWICE];
    const int exact = split(w, C, high, low);
    for (int64_t l = 0; l < TWICE; l++) {
        const int counts = l >= TWICE - C % TWICE;
        high[C + l] = counts ? high[C - TWICE + l] : 0;
        low[C + l] = counts ? low[C - TWICE + l] : 0;
    }
    return exact ? pair_rows(x, R, C, high, NULL, out) : pair_rows(x, R, C, high, low, out);
}

/* S and Q of pair_columns with pixel p added. */
INLINE void pair_pixel(const elem *x, const elem *d, int64_t p, int64_t C, const float *a, const float *b, int second,
                       vec *S, vec *Q, const int count) {
    const float ap = a[p], bp = second && b ? b[p] : 1.0f;
    UNROLL for (int i = 0; i < count; i++) {
        const bits v = pairs(x + p * C + i * TWICE), w = d ? pairs(d + p * C + i * TWICE) : v;
        S[2 * i] += (d ? ap * even(w) : ap + (vec){0}) * even(v);
        S[2 * i + 1] += (d ? ap * odd(w) : ap + (vec){0}) * odd(v);
        if (second) Q[2 * i] += b ? bp * even(v) : even(v), Q[2 * i + 1] += b ? bp * odd(v) : odd(v);
    }
}

/* As lane_columns, for "count" vectors of pairs: of each the sums of its even numbers, then those of its odd ones. */
INLINE void pair_columns(const elem *x, const elem *d, int64_t R, int64_t C, const float *a, const float *b, int second,
                         float *s, float *q, const int count) {
    vec S[2][8], Q[2][8];
    int64_t p = 0;
    UNROLL for (int i = 0; i < 2 * count; i++) {
        S[0][i] = get(s + i * LANES), Q[0][i] = second ? get(q + i * LANES) : (vec){0};
        S[1][i] = Q[1][i] = (vec){0};
    }
    if (count == 1)
        for (; p + 2 <= R; p += 2)
            UNROLL for (int i = 0; i < 2; i++) pair_pixel(x, d, p + i, C, a, b, second, S[i], Q[i], count);
    for (; p < R; p++) pair_pixel(x, d, p, C, a, b, second, S[0], Q[0], count);
    UNROLL for (int i = 0; i < 2 * count; i++) {
        put(s + i * LANES, S[0][i] + S[1][i]);
        if (second) put(q + i * LANES, Q[0][i] + Q[1][i]);
    }
}

/* What pair_columns makes, in the order of the channels. */
INLINE void ordered(const float *halves, int64_t count, float *out) {
    for (int64_t k = 0; k < count; k += TWICE)
        UNROLL for (int64_t l = 0; l < LANES; l++) out[k + 2 * l] = halves[k + l], out[k + 2 * l + 1] = halves[k + LANES + l];
}

/* As lane_adds. Channels behind the last vector of pairs are taken as there, in vectors that begin earlier. */
INLINE void pair_adds(const elem *x, const elem *d, int64_t R, int64_t C, const float *a, const float *b, int second,
                      float *s, float *q) {
    const int64_t rest = C % TWICE, whole = C - rest, skip = (rest > LANES ? TWICE : LANES) - rest;
    const int64_t rows = 2 * NEAREST / C < 8 ? 8 : 2 * NEAREST / C;
    float S[WIDEST + TWICE], Q[WIDEST + TWICE];
    memset(S, 0, (whole + TWICE) * sizeof(float));
    if (second) memset(Q, 0, (whole + TWICE) * sizeof(float));
    for (int64_t p = 0; p < R; p += rows) {
        const int64_t n = R - p < rows ? R - p : rows;
        const elem *xp = x + p * C, *dp = d ? d + p * C : NULL;
        const float *ap = a + p, *bp = second && b ? b + p : NULL;
        int64_t k = 0;
#define ADDED(how, k, to, count) how(xp + (k), d ? dp + (k) : NULL, n, C, ap, bp, second, S + (to), Q + (to), count)
        for (; k + 4 * TWICE <= C; k += 4 * TWICE) ADDED(pair_columns, k, k, 4);
        if (k + 3 * TWICE <= C) ADDED(pair_columns, k, k, 3);
        else if (k + 2 * TWICE <= C) ADDED(pair_columns, k, k, 2);
        else if (k + TWICE <= C) ADDED(pair_columns, k, k, 1);
        if (rest > LANES) ADDED(lane_columns, C - TWICE, whole, 2);
        else if (rest) ADDED(lane_columns, C - LANES, whole, 1);
    }
    ordered(S, whole, s);
    memcpy(s + whole, S + whole + skip, rest * sizeof(float));
    if (!second) return;
    ordered(Q, whole, q);
    memcpy(q + whole, Q + whole + skip, rest * sizeof(float));
}

/* A row of gated() in loops.c, of LANES numbers at least. */
INLINE void pair_gated(const elem *x, elem *out, int64_t n, float f, const float *h, int add, float v, const float *e) {
    int64_t i = 0;
#define GATED(i) (take(x + (i)) * (add ? f + get(h + (i)) : f * get(h + (i))) + (e ? v * get(e + (i)) : (vec){0}))
    for (; i + TWICE <= n; i += TWICE) give_two(out + i, GATED(i), GATED(i + LANES));
    for (; i < n; i += LANES) {
        const int64_t k = i + LANES <= n ? i : n - LANES;
        give(out + k, GATED(k));
    }
}
/* A row of updated() in loops.c; gives how many numbers it has done, all but the last few. */
INLINE int64_t pair_updated(elem *out, int64_t n, float a, const float *b, float v, const float *w, float f, const float *h) {
    int64_t i = 0;
#define UPDATED(i) (take(out + (i)) + (b ? a * get(b + (i)) + v * get(w + (i)) : (vec){0}) + (h ? f + get(h + (i)) : f + (vec){0}))
    for (; i + TWICE <= n; i += TWICE) give_two(out + i, UPDATED(i), UPDATED(i + LANES));
    for (; i + LANES <= n; i += LANES) give(out + i, UPDATED(i));
    return i;
}
#else
#define PAIRED 0
#define in_pairs(C) 0
/* never called */
int64_t pair_sums(const elem *x, int64_t R, int64_t C, const float *w, float *out);
void pair_adds(const elem *x, const elem *d, int64_t R, int64_t C, const float *a, const float *b, int second, float *s, float *q);
void pair_gated(const elem *x, elem *out, int64_t n, float f, const float *h, int add, float v, const float *e);
int64_t pair_updated(elem *out, int64_t n, float a, const float *b, float v, const float *w, float f, const float *h);
#endif
