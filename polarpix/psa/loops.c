/* The four passes of the collapsed form over a map, on the CPU. polarpix/psa/loops.py compiles this file when it is first
   needed and calls it; polarpix/psa/passes.py has the formulas and the letters.

   A map is B samples of C channels and P pixels, float or (-DBF16) bfloat16; everything else is float. It lies with its
   pixels together (contiguous) or with its channels together (last). A tile is n pixels of one sample with all their
   channels, small enough to stay in the cache between the two loops of a pass. Sums over pixels are taken within a tile,
   then over the tiles in order: the number of threads changes no bit of the result. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TILE 1024 /* most pixels of a tile; see tile() in loops.py */
#define SMALL 16384 /* below this many numbers a map, waking other threads costs more than they save */
#define SIMD _Pragma("omp simd")
#define INLINE static inline __attribute__((always_inline)) /* arguments that are NULL are known where it is called */

#ifdef BF16
typedef uint16_t elem;
INLINE float up(elem v) {
    union { uint32_t bits; float value; } w = {(uint32_t)v << 16};
    return w.value;
}
INLINE elem down(float v) { /* to nearest, ties to even */
    union { float value; uint32_t bits; } w = {v};
    return v != v ? 0x7fc0 : (elem)((w.bits + 0x7fff + ((w.bits >> 16) & 1)) >> 16);
}
#else
typedef float elem;
INLINE float up(elem v) { return v; }
INLINE elem down(float v) { return v; }
#endif

#include "lanes.c"
#include "pairs.c"

typedef struct { int64_t B, C, P, last, n, T, threads; } Map;

typedef struct { int64_t b, p, n; ptrdiff_t x; } Tile; /* sample, first pixel, pixels, where it begins in the map */

static Tile tile_of(const Map *map, int64_t i) {
    int64_t b = i / map->T, p = i % map->T * map->n;
    int64_t n = map->P - p < map->n ? map->P - p : map->n;
    return (Tile){b, p, n, b * map->C * map->P + p * (map->last ? map->C : 1)};
}

static int threads_for(const Map *map) { return map->B * map->C * map->P < SMALL ? 1 : (int)map->threads; }

#define FOR_TILES(map) \
    _Pragma("omp parallel for schedule(static) num_threads(threads_for(map))") \
    for (int64_t i = 0; i < map->B * map->T; i++)

/* e^v to two units in the last place, 0 below e^-87; without a branch, so that loops over it become vector code. */
INLINE float exp_(float v) {
    v = v < -87.0f ? -87.0f : v > 88.0f ? 88.0f : v;
    float k = rintf(v * 1.44269504f);
    float f = v - k * 0.693359375f + k * 2.12194440e-4f;
    float y = ((((1.9875691500e-4f * f + 1.3981999507e-3f) * f + 8.3334519073e-3f) * f + 4.1665795894e-2f) * f
               + 1.6666665459e-1f) * f + 5.0000001201e-1f;
    union { int32_t bits; float value; } two_to_k = {((int32_t)k + 127) << 23};
    return (y * f * f + f + 1.0f) * two_to_k.value;
}

/* The two contractions of R rows of n numbers, "step" apart. Which of them sums over channels and which over pixels is
   for the memory layout to say. With d, x stands for the product d*x in the first sum; b = NULL stands for ones in the
   second, which is left out where second is 0. Four rows at a time, to have enough sums under way.

   sums: s_j = sum_i a_i x_ji, q_j = sum_i b_i x_ji */
INLINE void sums(const elem *x, const elem *d, int64_t R, int64_t n, ptrdiff_t step, const float *a, const float *b,
                 int second, float *s, float *q) {
    int64_t j = 0;
    for (; j + 4 <= R; j += 4) {
        const elem *x0 = x + j * step, *x1 = x0 + step, *x2 = x1 + step, *x3 = x2 + step;
        const elem *d0 = d ? d + j * step : x0, *d1 = d0 + step, *d2 = d1 + step, *d3 = d2 + step;
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0, q0 = 0, q1 = 0, q2 = 0, q3 = 0;
        _Pragma("omp simd reduction(+ : s0, s1, s2, s3, q0, q1, q2, q3)") for (int64_t i = 0; i < n; i++) {
            const float v0 = up(x0[i]), v1 = up(x1[i]), v2 = up(x2[i]), v3 = up(x3[i]), w = a[i];
            s0 += d ? w * up(d0[i]) * v0 : w * v0;
            s1 += d ? w * up(d1[i]) * v1 : w * v1;
            s2 += d ? w * up(d2[i]) * v2 : w * v2;
            s3 += d ? w * up(d3[i]) * v3 : w * v3;
            if (second) {
                const float f = b ? b[i] : 1.0f;
                q0 += f * v0;
                q1 += f * v1;
                q2 += f * v2;
                q3 += f * v3;
            }
        }
        s[j] = s0, s[j + 1] = s1, s[j + 2] = s2, s[j + 3] = s3;
        if (second) q[j] = q0, q[j + 1] = q1, q[j + 2] = q2, q[j + 3] = q3;
    }
    for (; j < R; j++) {
        const elem *xj = x + j * step, *dj = d ? d + j * step : xj;
        float s0 = 0, q0 = 0;
        _Pragma("omp simd reduction(+ : s0, q0)") for (int64_t i = 0; i < n; i++) {
            s0 += a[i] * (d ? up(dj[i]) : 1.0f) * up(xj[i]);
            if (second) q0 += (b ? b[i] : 1.0f) * up(xj[i]);
        }
        s[j] = s0;
        if (second) q[j] = q0;
    }
}

/* adds: s_i = sum_j a_j x_ji, q_i = sum_j b_j x_ji */
INLINE void adds(const elem *x, const elem *d, int64_t R, int64_t n, ptrdiff_t step, const float *a, const float *b,
                 int second, float *s, float *q) {
    int64_t j = 0;
    memset(s, 0, n * sizeof(float));
    if (second) memset(q, 0, n * sizeof(float));
    for (; j + 4 <= R; j += 4) {
        const elem *x0 = x + j * step, *x1 = x0 + step, *x2 = x1 + step, *x3 = x2 + step;
        const elem *d0 = d ? d + j * step : x0, *d1 = d0 + step, *d2 = d1 + step, *d3 = d2 + step;
        const float a0 = a[j], a1 = a[j + 1], a2 = a[j + 2], a3 = a[j + 3];
        const float b0 = second && b ? b[j] : 1, b1 = second && b ? b[j + 1] : 1;
        const float b2 = second && b ? b[j + 2] : 1, b3 = second && b ? b[j + 3] : 1;
        SIMD for (int64_t i = 0; i < n; i++) {
            const float v0 = up(x0[i]), v1 = up(x1[i]), v2 = up(x2[i]), v3 = up(x3[i]);
            s[i] += d ? (a0 * up(d0[i]) * v0 + a1 * up(d1[i]) * v1) + (a2 * up(d2[i]) * v2 + a3 * up(d3[i]) * v3)
                      : (a0 * v0 + a1 * v1) + (a2 * v2 + a3 * v3);
            if (second) q[i] += b ? (b0 * v0 + b1 * v1) + (b2 * v2 + b3 * v3) : (v0 + v1) + (v2 + v3);
        }
    }
    for (; j < R; j++) {
        const elem *xj = x + j * step, *dj = d ? d + j * step : xj;
        SIMD for (int64_t i = 0; i < n; i++) {
            s[i] += a[j] * (d ? up(dj[i]) : 1.0f) * up(xj[i]);
            if (second) q[i] += (b ? b[j] : 1.0f) * up(xj[i]);
        }
    }
}

/* out_p = sum_c w_c x_cp (with d: w_c d_cp x_cp) of a tile */
INLINE void over_channels(const Map *map, Tile t, const elem *x, const elem *d, const float *w, float *out) {
    const int64_t C = map->C;
    if (!map->last) {
        adds(x, d, C, t.n, map->P, w, NULL, 0, out, NULL);
        return;
    }
    int64_t done = 0;
    if (in_pairs(C) && !d) done = pair_sums(x, t.n, C, w, out);
    else if (C >= LANES) done = lane_sums(x, d, t.n, C, w, out);
    sums(x + done * C, d ? d + done * C : NULL, t.n - done, C, C, w, NULL, 0, out + done, NULL);
}

/* Whether sums over pixels with the channels together keep to registers: longer rows, and bfloat16 that has to be widened,
   are no slower in the compiler's loops. */
static int in_lanes(int64_t C) { return C >= LANES && C <= 16 * LANES && sizeof(elem) == sizeof(float); }

/* s_c = sum_p a_p x_cp (with d: a_p d_cp x_cp), q_c = sum_p b_p x_cp of a tile */
INLINE void over_pixels(const Map *map, Tile t, const elem *x, const elem *d, const float *a, const float *b, int second,
                        float *s, float *q) {
    if (map->last && in_pairs(map->C)) pair_adds(x, d, t.n, map->C, a, b, second, s, q);
    else if (map->last && in_lanes(map->C)) lane_adds(x, d, t.n, map->C, a, b, second, s, q);
    else if (map->last) adds(x, d, t.n, map->C, map->C, a, b, second, s, q);
    else sums(x, d, map->C, t.n, map->P, a, b, second, s, q);
}

/* out_ji = x_ji * (f_j + h_i), with add, or x_ji * f_j * h_i; and v_j e_i more where there is a v */
INLINE void gated(const elem *x, elem *out, int64_t R, int64_t n, ptrdiff_t step, const float *f, const float *h, int add,
                  const float *v, const float *e) {
    for (int64_t j = 0; j < R; j++) {
        const elem *xj = x + j * step;
        elem *o = out + j * step;
        const float fj = f[j], vj = v ? v[j] : 0.0f;
        if (PAIRED && n >= LANES) {
            pair_gated(xj, o, n, fj, h, add, vj, v ? e : NULL);
            continue;
        }
        SIMD for (int64_t i = 0; i < n; i++) {
            const float product = up(xj[i]) * (add ? fj + h[i] : fj * h[i]);
            o[i] = down(v ? product + vj * e[i] : product);
        }
    }
}

/* out = x (g + s) or x g s, and u_c e_p more where there is a u, of a tile: g and u one a channel, s and e one a pixel */
static void gate_tile(const Map *map, Tile t, const elem *x, elem *out, const float *g, const float *s, int add,
                      const float *u, const float *e) {
    const int64_t C = map->C, P = map->P;
#ifndef BF16 /* which the compiler's own loops round faster */
    if (map->last && C >= LANES) {
        if (u && add) lane_gated(x, out, t.n, C, g, s, 1, u, e);
        else if (u) lane_gated(x, out, t.n, C, g, s, 0, u, e);
        else if (add) lane_gated(x, out, t.n, C, g, s, 1, NULL, NULL);
        else lane_gated(x, out, t.n, C, g, s, 0, NULL, NULL);
        return;
    }
#endif
    if (map->last && u && add) gated(x, out, t.n, C, C, s, g, 1, e, u);
    else if (map->last && u) gated(x, out, t.n, C, C, s, g, 0, e, u);
    else if (map->last && add) gated(x, out, t.n, C, C, s, g, 1, NULL, NULL);
    else if (map->last) gated(x, out, t.n, C, C, s, g, 0, NULL, NULL);
    else if (u && add) gated(x, out, C, t.n, P, g, s, 1, u, e);
    else if (u) gated(x, out, C, t.n, P, g, s, 0, u, e);
    else if (add) gated(x, out, C, t.n, P, g, s, 1, NULL, NULL);
    else gated(x, out, C, t.n, P, g, s, 0, NULL, NULL);
}

/* out [B, P] = sum_c w_c x_cp (with d: w_c d_cp x_cp), w [B, C] */
void psa_rows(const Map *map, const elem *x, const elem *d, const float *w, float *out) {
    FOR_TILES(map) {
        const Tile t = tile_of(map, i);
        float *o = out + t.b * map->P + t.p;
        if (d) over_channels(map, t, x + t.x, d + t.x, w + t.b * map->C, o);
        else over_channels(map, t, x + t.x, NULL, w + t.b * map->C, o);
    }
}

/* The read of a tile into one [2C + 2]: sum_p e^(r_p - most) x_p, sum_p x_p, most and sum_p e^(r_p - most), with r = w x
   in row [t.n]. Without a query, w = NULL, only the second. */
static void read_tile(const Map *map, Tile t, const elem *x, const float *w, float *row, float *one) {
    const int64_t C = map->C;
    float a[TILE], most = -INFINITY, sum = 0;
    if (w) {
        over_channels(map, t, x + t.x, NULL, w, row);
        _Pragma("omp simd reduction(max : most)") for (int64_t p = 0; p < t.n; p++) most = row[p] > most ? row[p] : most;
        _Pragma("omp simd reduction(+ : sum)") for (int64_t p = 0; p < t.n; p++) sum += a[p] = exp_(row[p] - most);
    } else {
        memset(a, 0, t.n * sizeof(float));
    }
    over_pixels(map, t, x + t.x, NULL, a, NULL, 1, one, one + C);
    one[2 * C] = most;
    one[2 * C + 1] = sum;
}

/* The tiles' sums of sample b put together, for the channels k .. k + n. */
static void merge_read(const Map *map, const float *part, int64_t b, int64_t k, int64_t n, int query, float *stat, float *c,
                       float *m) {
    const int64_t C = map->C, K = 2 * C + 2;
    const float *first = part + b * map->T * K;
    float most = -INFINITY, sum = 0, *cb = c + b * C + k, *mb = m + b * C + k;
    memset(cb, 0, n * sizeof(float));
    memset(mb, 0, n * sizeof(float));
    for (int64_t t = 0; t < map->T; t++) most = first[t * K + 2 * C] > most ? first[t * K + 2 * C] : most;
    for (int64_t t = 0; t < map->T; t++) {
        const float *one = first + t * K, factor = query ? exp_(one[2 * C] - most) : 0.0f;
        sum += factor * one[2 * C + 1];
        SIMD for (int64_t l = 0; l < n; l++) {
            cb[l] += factor * one[k + l];
            mb[l] += one[C + k + l];
        }
    }
    SIMD for (int64_t l = 0; l < n; l++) {
        cb[l] /= sum;
        mb[l] /= (float)map->P;
    }
    if (k) return;
    stat[2 * b] = most;
    stat[2 * b + 1] = 1.0f / sum;
}

/* r [B, P] = w x with its greatest value and the inverse of its sum of e^(r - greatest) in stat [B, 2],
   c [B, C] = sum_p softmax(r)_p x_p, m [B, C] = mean_p x_p. Without a query, w = NULL, only m.
   part [B*T, 2C + 2] is work space. */
void psa_read(const Map *map, const elem *x, const float *w, float *r, float *stat, float *c, float *m, float *part) {
    FOR_TILES(map) {
        const Tile t = tile_of(map, i);
        read_tile(map, t, x, w, w ? r + t.b * map->P + t.p : NULL, part + i * (2 * map->C + 2));
    }
    for (int64_t b = 0; b < map->B; b++) merge_read(map, part, b, 0, map->C, w != NULL, stat, c, m);
}

/* The spatial term or factor of what multiplies a map: g + scale*s with add, else g*(scale*s), or g*scale without s. */
INLINE void spatial_factor(const float *s, float scale, int64_t n, float *S) {
    SIMD for (int64_t p = 0; p < n; p++) S[p] = s ? scale * s[p] : scale;
}

/* s = sigmoid(u x + bias) of a tile, into row [t.n] */
static void spatial_tile(const Map *map, Tile t, const elem *x, const float *u, float bias, float *row) {
    over_channels(map, t, x + t.x, NULL, u, row);
    SIMD for (int64_t p = 0; p < t.n; p++) row[p] = 1.0f / (1.0f + exp_(-row[p] - bias));
}

/* out = x times the gates; g [B, C] has the scale in it with add, and not without. s [B, P] is made here as
   sigmoid(u x + beta) where there is a u, is given where there is none, or NULL for a channel gate alone. */
void psa_write(const Map *map, const elem *x, const float *g, const float *u, const float *beta, float *s, int add,
               float scale, elem *out) {
    FOR_TILES(map) {
        const Tile t = tile_of(map, i);
        float S[TILE], *st = s ? s + t.b * map->P + t.p : NULL;
        if (u) spatial_tile(map, t, x, u + t.b * map->C, beta ? beta[t.b] : 0.0f, st);
        spatial_factor(st, scale, t.n, S);
        gate_tile(map, t, x + t.x, out + t.x, g + t.b * map->C, S, add, NULL, NULL);
    }
}

/* The gradients of the gates of a tile into one [2C + 1]: of the channel gate, of u and of beta. S [t.n] is made as
   spatial_factor does; e [t.n], the gradient of u x + beta, is made where there is a v, see psa_write_backward. softmax
   [t.n], else NULL, is what s is the sigmoid of, and a factor of e. */
static void gradient_tile(const Map *map, Tile t, const elem *x, const elem *d, const float *s, const float *softmax,
                          const float *v, int add, float scale, float *S, float *e, float *one) {
    const int64_t C = map->C;
    float q[TILE], sum = 0;
    spatial_factor(s, scale, t.n, S);
    SIMD for (int64_t p = 0; p < t.n; p++) q[p] = add ? scale : S[p];
    if (v) {
        over_channels(map, t, x + t.x, d + t.x, v, e);
        SIMD for (int64_t p = 0; p < t.n; p++) e[p] *= scale * s[p] * (1.0f - s[p]);
        if (softmax) SIMD for (int64_t p = 0; p < t.n; p++) e[p] *= softmax[p];
    }
    _Pragma("omp simd reduction(+ : sum)") for (int64_t p = 0; p < t.n; p++) sum += e[p];
    one[2 * C] = sum;
    over_pixels(map, t, x + t.x, d + t.x, q, e, 1, one, one + C);
}

/* The tiles' gradients of sample b put together, for the channels k .. k + n, from part [B*T, K]. */
static void merge_gradient(const Map *map, const float *part, int64_t K, int64_t b, int64_t k, int64_t n, float *dg,
                           float *du, float *dbeta) {
    const int64_t C = map->C;
    float sum = 0, *dgb = dg + b * C + k, *dub = du + b * C + k;
    memset(dgb, 0, n * sizeof(float));
    memset(dub, 0, n * sizeof(float));
    for (int64_t t = 0; t < map->T; t++) {
        const float *one = part + (b * map->T + t) * K;
        SIMD for (int64_t l = 0; l < n; l++) {
            dgb[l] += one[k + l];
            dub[l] += one[C + k + l];
        }
        sum += one[2 * C];
    }
    if (!k) dbeta[b] = sum;
}

/* From d, the gradient of the output: dg [B, C], du [B, C], dbeta [B] and the part of dx that needs no other sum.
   de [B, P], the gradient of u x + beta, is made here as scale * s*(1 - s) * sum_c v_c d_cp x_cp where there is a v
   [B, C], and is given where there is none. Without a spatial branch u, s and de are NULL. dx may be NULL.
   g as in psa_write. part [B*T, 2C + 1] is work space. */
void psa_write_backward(const Map *map, const elem *x, const elem *d, const float *g, const float *u, const float *s,
                        const float *v, float *de, int add, float scale, elem *dx, float *dg, float *du, float *dbeta,
                        float *part) {
    const int64_t C = map->C, P = map->P, K = 2 * C + 1;
    FOR_TILES(map) {
        const Tile t = tile_of(map, i);
        float S[TILE], none[TILE], *e = de && u ? de + t.b * P + t.p : none;
        if (e == none) memset(none, 0, t.n * sizeof(float));
        gradient_tile(map, t, x, d, s ? s + t.b * P + t.p : NULL, NULL, v ? v + t.b * C : NULL, add, scale, S, e, part + i * K);
        if (dx) gate_tile(map, t, d + t.x, dx + t.x, g + t.b * C, S, add, u ? u + t.b * C : NULL, e);
    }
    for (int64_t b = 0; b < map->B; b++) merge_gradient(map, part, K, b, 0, C, dg, du, dbeta);
}

/* o_ji += a_j b_i + v_j w_i + f_j + h_i; either of the last two, and the first four together, may be NULL */
INLINE void updated(elem *out, int64_t R, int64_t n, ptrdiff_t step, const float *a, const float *b, const float *v,
                    const float *w, const float *f, const float *h) {
    for (int64_t j = 0; j < R; j++) {
        elem *o = out + j * step;
        const float aj = a ? a[j] : 0.0f, vj = a ? v[j] : 0.0f, fj = f ? f[j] : 0.0f;
        const int64_t done = PAIRED ? pair_updated(o, n, aj, a ? b : NULL, vj, w, fj, h) : 0;
        SIMD for (int64_t i = done; i < n; i++)
            o[i] = down(up(o[i]) + (a ? aj * b[i] + vj * w[i] : 0.0f) + (h ? fj + h[i] : fj));
    }
}

/* Of a tile with logits r and most, inverse of psa_read: a = softmax(r), dr_p = a_p (dc x_p - dot) and the query's
   gradient sum_p dr_p x_p into one [C]. */
static void query_gradient_tile(const Map *map, Tile t, const elem *x, const float *r, float most, float inverse,
                                const float *dc, float dot, float *a, float *dr, float *one) {
    over_channels(map, t, x + t.x, NULL, dc, dr);
    SIMD for (int64_t p = 0; p < t.n; p++) {
        a[p] = exp_(r[p] - most) * inverse;
        dr[p] = a[p] * (dr[p] - dot);
    }
    over_pixels(map, t, x + t.x, NULL, dr, NULL, 0, one, NULL);
}

/* The gradient of psa_read: dw [C], and added to dx dc a_p + w dr_p + dmP with a = softmax(r) and
   dr_p = a_p (dc x_p - dot), dot = dc c, dmP [B, C] = dm/P. Without a channel branch w, r, stat, dc, dot and dw are NULL;
   dmP or dx may be. part [B*T, C] is work space. */
void psa_read_backward(const Map *map, const elem *x, const float *w, const float *r, const float *stat, const float *dc,
                       const float *dot, const float *dmP, elem *dx, float *dw, float *part) {
    const int64_t C = map->C, P = map->P;
    FOR_TILES(map) {
        const Tile t = tile_of(map, i);
        float a[TILE], dr[TILE];
        elem *o = dx ? dx + t.x : NULL;
        const float *dct = dc ? dc + t.b * C : NULL, *dmt = dmP ? dmP + t.b * C : NULL;
        if (w)
            query_gradient_tile(map, t, x, r + t.b * P + t.p, stat[2 * t.b], stat[2 * t.b + 1], dct, dot[t.b], a, dr,
                                part + i * C);
        if (o && w && map->last && dmt) updated(o, t.n, C, C, a, dct, dr, w, NULL, dmt);
        else if (o && w && map->last) updated(o, t.n, C, C, a, dct, dr, w, NULL, NULL);
        else if (o && w && dmt) updated(o, C, t.n, P, dct, a, w, dr, dmt, NULL);
        else if (o && w) updated(o, C, t.n, P, dct, a, w, dr, NULL, NULL);
        else if (o && dmt && map->last) updated(o, t.n, C, C, NULL, NULL, NULL, NULL, NULL, dmt);
        else if (o && dmt) updated(o, C, t.n, P, NULL, NULL, NULL, NULL, dmt, NULL);
    }
    if (!w) return;
    memset(dw, 0, C * sizeof(float));
    for (int64_t i = 0; i < map->B * map->T; i++)
        SIMD for (int64_t k = 0; k < C; k++) dw[k] += part[i * C + k];
}
