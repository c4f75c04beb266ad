/* The sums of loops.c for maps that lie with their channels together: C numbers a pixel, too few for a loop over them to
   reach its stride. Several pixels go together in vectors of the processor's width, and no part of a vector is idle:
   where C is no multiple of it, the last one begins earlier and counts what it brings anew. C is at least LANES.

   Vectors are those of GCC and Clang; a sum's order depends on the width, so on the processor, and on nothing else. */

#if defined(__AVX512F__)
#define LANES 16
#define EACH(F, h) F(0, h), F(1, h), F(2, h), F(3, h), F(4, h), F(5, h), F(6, h), F(7, h), \
                   F(8, h), F(9, h), F(10, h), F(11, h), F(12, h), F(13, h), F(14, h), F(15, h)
#elif defined(__AVX__)
#define LANES 8
#define EACH(F, h) F(0, h), F(1, h), F(2, h), F(3, h), F(4, h), F(5, h), F(6, h), F(7, h)
#else
#define LANES 4
#define EACH(F, h) F(0, h), F(1, h), F(2, h), F(3, h)
#endif
#define NEAREST 4096 /* numbers of a map that stay in the first-level cache between two sums over them */
#define UNROLL _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t places __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits __attribute__((vector_size(4 * LANES)));
typedef elem piece __attribute__((vector_size(sizeof(elem) * LANES)));

INLINE vec get(const float *at) {
    vec v;
    memcpy(&v, at, sizeof v);
    return v;
}

INLINE void put(float *at, vec v) { memcpy(at, &v, sizeof v); }

INLINE vec take(const elem *at) {
    piece p;
    memcpy(&p, at, sizeof p);
#ifdef BF16
    return (vec)(__builtin_convertvector(p, bits) << 16);
#else
    return p;
#endif
}

/* Blocks of 2h lanes of a and b, each folded to h: a's, b's, a's, b's. */
#define LOW(l, h) ((l) / (2 * (h)) * 2 * (h) + ((l) % (2 * (h)) < (h) ? (l) % (2 * (h)) : (l) % (2 * (h)) - (h) + LANES))
#define HIGH(l, h) (LOW(l, h) + (h))
#ifdef __clang__
#define FOLD(a, b, h) (__builtin_shufflevector(a, b, EACH(LOW, h)) + __builtin_shufflevector(a, b, EACH(HIGH, h)))
#else
#define FOLD(a, b, h) (__builtin_shuffle(a, b, (places){EACH(LOW, h)}) + __builtin_shuffle(a, b, (places){EACH(HIGH, h)}))
#endif

/* The sums of LANES vectors as one. */
INLINE vec folded(vec s[LANES]) {
#if LANES == 16
    UNROLL for (int i = 0; i < 8; i++) s[i] = FOLD(s[i], s[i + 8], 8);
#endif
#if LANES >= 8
    UNROLL for (int i = 0; i < 4; i++) s[i] = FOLD(s[i], s[i + 4], 4);
#endif
    UNROLL for (int i = 0; i < 2; i++) s[i] = FOLD(s[i], s[i + 2], 2);
    return FOLD(s[0], s[1], 1);
}

/* out_p = sum_c w_c x_pc (with d: w_c d_pc x_pc) for R pixels; gives how many of them it has done, all but the last few. */
INLINE int64_t lane_sums(const elem *x, const elem *d, int64_t R, int64_t C, const float *w, float *out) {
    const int64_t rest = C % LANES, last = C - LANES;
    int64_t p = 0;
    vec left = get(w + last);
    for (int64_t l = 0; l < LANES - rest; l++) left[l] = 0;
    for (; p + LANES <= R; p += LANES) {
        const elem *row = x + p * C, *other = d ? d + p * C : row;
        vec s[LANES];
        UNROLL for (int j = 0; j < LANES; j++) s[j] = (vec){0};
        for (int64_t k = 0; k + LANES <= C; k += LANES) {
            const vec f = get(w + k);
            UNROLL for (int j = 0; j < LANES; j++)
                s[j] += (d ? f * take(other + j * C + k) : f) * take(row + j * C + k);
        }
        if (rest)
            UNROLL for (int j = 0; j < LANES; j++)
                s[j] += (d ? left * take(other + j * C + last) : left) * take(row + j * C + last);
        put(out + p, folded(s));
    }
    return p;
}

/* S and Q of lane_columns with pixel p added. */
INLINE void lane_pixel(const elem *x, const elem *d, int64_t p, int64_t C, const float *a, const float *b, int second,
                       vec *S, vec *Q, const int count) {
    const float ap = a[p], bp = second && b ? b[p] : 1.0f;
    UNROLL for (int i = 0; i < count; i++) {
        const vec v = take(x + p * C + i * LANES);
        S[i] += (d ? ap * take(d + p * C + i * LANES) : ap + (vec){0}) * v;
        if (second) Q[i] += b ? bp * v : v;
    }
}

/* "count" vectors, at most 4 to stay in registers, of s_c += sum_p a_p x_pc (with d: a_p d_pc x_pc) and
   q_c += sum_p b_p x_pc for R pixels; those of every other pixel by themselves, as an addition waits for the one before. */
INLINE void lane_columns(const elem *x, const elem *d, int64_t R, int64_t C, const float *a, const float *b, int second,
                         float *s, float *q, const int count) {
    vec S[2][4], Q[2][4];
    int64_t p = 0;
    UNROLL for (int i = 0; i < count; i++) {
        S[0][i] = get(s + i * LANES), Q[0][i] = second ? get(q + i * LANES) : (vec){0};
        S[1][i] = Q[1][i] = (vec){0};
    }
    if (count <= 3) /* four are enough to be under way */
        for (; p + 2 <= R; p += 2)
            UNROLL for (int i = 0; i < 2; i++) lane_pixel(x, d, p + i, C, a, b, second, S[i], Q[i], count);
    for (; p < R; p++) lane_pixel(x, d, p, C, a, b, second, S[0], Q[0], count);
    UNROLL for (int i = 0; i < count; i++) {
        put(s + i * LANES, S[0][i] + S[1][i]);
        if (second) put(q + i * LANES, Q[0][i] + Q[1][i]);
    }
}

/* s_c = sum_p a_p x_pc (with d: a_p d_pc x_pc), q_c = sum_p b_p x_pc, b = NULL stands for ones; q only with second */
INLINE void lane_adds(const elem *x, const elem *d, int64_t R, int64_t C, const float *a, const float *b, int second,
                      float *s, float *q) {
    const int64_t rest = C % LANES, rows = NEAREST / C < 8 ? 8 : NEAREST / C;
    float S[LANES] = {0}, Q[LANES] = {0}; /* of the last vector, which begins earlier */
    memset(s, 0, C * sizeof(float));
    if (second) memset(q, 0, C * sizeof(float));
    for (int64_t p = 0; p < R; p += rows) {
        const int64_t n = R - p < rows ? R - p : rows;
        const elem *xp = x + p * C, *dp = d ? d + p * C : NULL;
        const float *ap = a + p, *bp = second && b ? b + p : NULL;
        int64_t k = 0;
#define COLUMNS_AT(k, s, q, count) lane_columns(xp + (k), d ? dp + (k) : NULL, n, C, ap, bp, second, s, q, count)
        for (; k + 4 * LANES <= C; k += 4 * LANES) COLUMNS_AT(k, s + k, q + k, 4);
        if (k + 3 * LANES <= C) COLUMNS_AT(k, s + k, q + k, 3);
        else if (k + 2 * LANES <= C) COLUMNS_AT(k, s + k, q + k, 2);
        else if (k + LANES <= C) COLUMNS_AT(k, s + k, q + k, 1);
        if (rest) COLUMNS_AT(C - LANES, S, Q, 1);
    }
    for (int64_t l = LANES - rest; rest && l < LANES; l++) {
        s[C - LANES + l] = S[l];
        if (second) q[C - LANES + l] = Q[l];
    }
}

/* out_pc = x_pc * (s_p + g_c), with add, or x_pc * s_p * g_c for R pixels of a float map; and e_p u_c more where there is
   a u */
INLINE void lane_gated(const float *x, float *out, int64_t R, int64_t C, const float *g, const float *s, int add,
                       const float *u, const float *e) {
    for (int64_t p = 0; p < R; p++) {
        const float sp = s[p], ep = u ? e[p] : 0.0f;
        for (int64_t k = 0; k < C; k += LANES) {
            const int64_t at = k + LANES <= C ? k : C - LANES;
            const vec v = get(x + p * C + at) * (add ? sp + get(g + at) : sp * get(g + at));
            put(out + p * C + at, u ? v + ep * get(u + at) : v);
        }
    }
}
