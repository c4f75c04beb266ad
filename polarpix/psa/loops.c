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
    if (map->last) sums(x, d, t.n, map->C, map->C, w, NULL, 0, out, NULL);
    else adds(x, d, map->C, t.n, map->P, w, NULL, 0, out, NULL);
}

/* s_c = sum_p a_p x_cp (with d: a_p d_cp x_cp), q_c = sum_p b_p x_cp of a tile */
INLINE void over_pixels(const Map *map, Tile t, const elem *x, const elem *d, const float *a, const float *b, int second,
                        float *s, float *q) {
    if (map->last) adds(x, d, t.n, map->C, map->C, a, b, second, s, q);
    else sums(x, d, map->C, t.n, map->P, a, b, second, s, q);
}

/* out_ji = x_ji * (f_j + h_i), with add, or x_ji * f_j * h_i; and v_j e_i more where there is a v */
INLINE void gated(const elem *x, elem *out, int64_t R, int64_t n, ptrdiff_t step, const float *f, const float *h, int add,
                  const float *v, const float *e) {
    for (int64_t j = 0; j < R; j++) {
        const elem *xj = x + j * step;
        elem *o = out + j * step;
        const float fj = f[j], vj = v ? v[j] : 0.0f;
        SIMD for (int64_t i = 0; i < n; i++) {
            const float product = up(xj[i]) * (add ? fj + h[i] : fj * h[i]);
            o[i] = down(v ? product + vj * e[i] : product);
        }
    }
}

/* out = x (g + s) or x g s, and u_c e_p more where there is a u, of a tile: g and u one a channel, s and e one a pixel */
INLINE void gate_tile(const Map *map, Tile t, const elem *x, elem *out, const float *g, const float *s, int add,
                      const float *u, const float *e) {
    const int64_t C = map->C, P = map->P;
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

/* r [B, P] = w x with its greatest value and the inverse of its sum of e^(r - greatest) in stat [B, 2],
   c [B, C] = sum_p softmax(r)_p x_p, m [B, C] = mean_p x_p. Without a query, w = NULL, only m.
   part [B*T, 2C + 2] is work space. */
void psa_read(const Map *map, const elem *x, const float *w, float *r, float *stat, float *c, float *m, float *part) {
    const int64_t C = map->C, P = map->P, K = 2 * C + 2;
    FOR_TILES(map) {
        const Tile t = tile_of(map, i);
        float a[TILE], *one = part + i * K, most = -INFINITY, sum = 0;
        memset(a, 0, t.n * sizeof(float));
        if (w) {
            float *rt = r + t.b * P + t.p;
            over_channels(map, t, x + t.x, NULL, w, rt);
            _Pragma("omp simd reduction(max : most)") for (int64_t p = 0; p < t.n; p++) most = rt[p] > most ? rt[p] : most;
            _Pragma("omp simd reduction(+ : sum)") for (int64_t p = 0; p < t.n; p++) sum += a[p] = exp_(rt[p] - most);
        }
        over_pixels(map, t, x + t.x, NULL, a, NULL, 1, one, one + C);
        one[2 * C] = most;
        one[2 * C + 1] = sum;
    }
    memset(c, 0, map->B * C * sizeof(float));
    memset(m, 0, map->B * C * sizeof(float));
    for (int64_t b = 0; b < map->B; b++) {
        const float *first = part + b * map->T * K;
        float most = -INFINITY, sum = 0;
        for (int64_t t = 0; t < map->T; t++) most = first[t * K + 2 * C] > most ? first[t * K + 2 * C] : most;
        for (int64_t t = 0; t < map->T; t++) {
            const float *one = first + t * K, factor = w ? exp_(one[2 * C] - most) : 0.0f;
            sum += factor * one[2 * C + 1];
            SIMD for (int64_t k = 0; k < C; k++) {
                c[b * C + k] += factor * one[k];
                m[b * C + k] += one[C + k];
            }
        }
        stat[2 * b] = most;
        stat[2 * b + 1] = 1.0f / sum;
        SIMD for (int64_t k = 0; k < C; k++) {
            c[b * C + k] /= sum;
            m[b * C + k] /= (float)P;
        }
    }
}

/* The spatial term or factor of what multiplies a map: g + scale*s with add, else g*(scale*s), or g*scale without s. */
INLINE void spatial_factor(const float *s, float scale, int64_t n, float *S) {
    SIMD for (int64_t p = 0; p < n; p++) S[p] = s ? scale * s[p] : scale;
}

/* out = x times the gates; g [B, C] has the scale in it with add, and not without. s [B, P] is made here as
   sigmoid(u x + beta) where there is a u, is given where there is none, or NULL for a channel gate alone. */
void psa_write(const Map *map, const elem *x, const float *g, const float *u, const float *beta, float *s, int add,
               float scale, elem *out) {
    FOR_TILES(map) {
        const Tile t = tile_of(map, i);
        float S[TILE], *st = s ? s + t.b * map->P + t.p : NULL;
        if (u) {
            const float bias = beta ? beta[t.b] : 0.0f;
            over_channels(map, t, x + t.x, NULL, u + t.b * map->C, st);
            SIMD for (int64_t p = 0; p < t.n; p++) st[p] = 1.0f / (1.0f + exp_(-st[p] - bias));
        }
        spatial_factor(st, scale, t.n, S);
        gate_tile(map, t, x + t.x, out + t.x, g + t.b * map->C, S, add, NULL, NULL);
    }
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
        float S[TILE], q[TILE], e[TILE], *one = part + i * K, sum = 0;
        const float *st = s ? s + t.b * P + t.p : NULL, *ut = u ? u + t.b * C : NULL;
        spatial_factor(st, scale, t.n, S);
        SIMD for (int64_t p = 0; p < t.n; p++) q[p] = add ? scale : S[p];
        memset(e, 0, t.n * sizeof(float));
        if (v) {
            over_channels(map, t, x + t.x, d + t.x, v + t.b * C, e);
            SIMD for (int64_t p = 0; p < t.n; p++) e[p] *= scale * st[p] * (1.0f - st[p]);
            memcpy(de + t.b * P + t.p, e, t.n * sizeof(float));
        } else if (u) {
            memcpy(e, de + t.b * P + t.p, t.n * sizeof(float));
        }
        _Pragma("omp simd reduction(+ : sum)") for (int64_t p = 0; p < t.n; p++) sum += e[p];
        one[2 * C] = sum;
        over_pixels(map, t, x + t.x, d + t.x, q, e, 1, one, one + C);
        if (dx) gate_tile(map, t, d + t.x, dx + t.x, g + t.b * C, S, add, ut, e);
    }
    memset(dg, 0, map->B * C * sizeof(float));
    memset(du, 0, map->B * C * sizeof(float));
    memset(dbeta, 0, map->B * sizeof(float));
    for (int64_t i = 0; i < map->B * map->T; i++) {
        const float *one = part + i * K;
        const int64_t b = i / map->T;
        SIMD for (int64_t k = 0; k < C; k++) {
            dg[b * C + k] += one[k];
            du[b * C + k] += one[C + k];
        }
        dbeta[b] += one[2 * C];
    }
}

/* o_ji += a_j b_i + v_j w_i + f_j + h_i; either of the last two, and the first four together, may be NULL */
INLINE void updated(elem *out, int64_t R, int64_t n, ptrdiff_t step, const float *a, const float *b, const float *v,
                    const float *w, const float *f, const float *h) {
    for (int64_t j = 0; j < R; j++) {
        elem *o = out + j * step;
        const float aj = a ? a[j] : 0.0f, vj = a ? v[j] : 0.0f, fj = f ? f[j] : 0.0f;
        SIMD for (int64_t i = 0; i < n; i++)
            o[i] = down(up(o[i]) + (a ? aj * b[i] + vj * w[i] : 0.0f) + (h ? fj + h[i] : fj));
    }
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
        if (w) {
            const float most = stat[2 * t.b], inverse = stat[2 * t.b + 1], dot_b = dot[t.b], *rt = r + t.b * P + t.p;
            over_channels(map, t, x + t.x, NULL, dct, dr);
            SIMD for (int64_t p = 0; p < t.n; p++) {
                a[p] = exp_(rt[p] - most) * inverse;
                dr[p] = a[p] * (dr[p] - dot_b);
            }
            over_pixels(map, t, x + t.x, NULL, dr, NULL, 0, part + i * C, NULL);
        }
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

#ifndef BF16 /* the weights are float, as everything here */

#define CHUNK 32 /* rows or columns of a matrix that one thread takes at a time */

/* out_b = W v_b + bias for W [R, n] and v [B, n] */
static void applied(const float *W, const float *bias, const float *v, int64_t B, int64_t R, int64_t n, int threads,
                    float *out) {
    const int64_t chunks = (R + CHUNK - 1) / CHUNK;
    _Pragma("omp parallel for schedule(static) num_threads(threads)") for (int64_t i = 0; i < chunks; i++) {
        const int64_t j = i * CHUNK, rows = R - j < CHUNK ? R - j : CHUNK;
        for (int64_t b = 0; b < B; b++) {
            float *o = out + b * R + j;
            sums(W + j * n, NULL, rows, n, n, v + b * n, NULL, 0, o, NULL);
            SIMD for (int64_t k = 0; k < rows; k++) o[k] += bias[j + k];
        }
    }
}

/* The paper form's vectors between the two passes, without a gradient: the channel gate g [B, C] and u [B, C], beta [B].
   W_v, W_t, W_u are [h, C], W_z is [C, h]; W_t and W_u are the spatial branch's W_q and W_v. work is [B, 2C]. */
void psa_vectors(const Map *map, const float *c, const float *m, const float *W_v, const float *b_v, const float *W_z,
                 const float *b_z, const float *ln_weight, const float *ln_bias, const float *W_t, const float *b_t,
                 const float *W_u, const float *b_u, int sequence, float *g, float *u, float *beta, float *work) {
    const int64_t B = map->B, C = map->C, h = C / 2, chunks = (C + CHUNK - 1) / CHUNK;
    const int threads = B * C * h < SMALL ? 1 : (int)map->threads;
    float *t = work, *y = work + B * C;
    applied(W_v, b_v, c, B, h, C, threads, t);
    applied(W_z, b_z, t, B, C, h, threads, g);
    for (int64_t b = 0; b < B; b++) {
        float *gb = g + b * C, mean = 0, variance = 0;
        _Pragma("omp simd reduction(+ : mean)") for (int64_t k = 0; k < C; k++) mean += gb[k];
        mean /= C;
        _Pragma("omp simd reduction(+ : variance)") for (int64_t k = 0; k < C; k++)
            variance += (gb[k] - mean) * (gb[k] - mean);
        const float inverse = 1.0f / sqrtf(variance / C + 1e-5f);
        SIMD for (int64_t k = 0; k < C; k++)
            gb[k] = 1.0f / (1.0f + exp_(-((gb[k] - mean) * inverse * ln_weight[k] + ln_bias[k])));
        SIMD for (int64_t k = 0; k < C; k++) y[b * C + k] = sequence ? m[b * C + k] * gb[k] : m[b * C + k];
    }
    applied(W_t, b_t, y, B, h, C, threads, t);
    for (int64_t b = 0; b < B; b++) {
        float *tb = t + b * h, most = -INFINITY, sum = 0, product = 0;
        _Pragma("omp simd reduction(max : most)") for (int64_t k = 0; k < h; k++) most = tb[k] > most ? tb[k] : most;
        _Pragma("omp simd reduction(+ : sum)") for (int64_t k = 0; k < h; k++) sum += tb[k] = exp_(tb[k] - most);
        _Pragma("omp simd reduction(+ : product)") for (int64_t k = 0; k < h; k++) product += (tb[k] /= sum) * b_u[k];
        beta[b] = product;
    }
    _Pragma("omp parallel for schedule(static) num_threads(threads)") for (int64_t i = 0; i < chunks; i++) {
        const int64_t k = i * CHUNK, n = C - k < CHUNK ? C - k : CHUNK;
        for (int64_t b = 0; b < B; b++) {
            float *o = u + b * C + k;
            adds(W_u + k, NULL, h, n, C, t + b * h, NULL, 0, o, NULL);
            if (sequence) SIMD for (int64_t l = 0; l < n; l++) o[l] *= g[b * C + k + l];
        }
    }
}
#endif
