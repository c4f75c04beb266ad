/* The whole block in one call each way, on the CPU: the passes of loops.c and the small vectors between them.
   polarpix/psa/whole.py calls it; the formulas are in polarpix/psa/passes.py and polarpix/psa/vectors.py.

   Threads are woken once a call. All of them go through all steps, each takes its share of every loop, and they meet
   between the steps. Where a sample stays in the second-level cache and there are enough of them, a thread takes whole
   samples instead and meets nobody. No sum depends on who takes which share. */

#include "loops.c"

#include <omp.h>

#define CHUNK 32 /* rows or columns of a matrix that one thread takes at a time; a multiple of the rows of sums() */
#define CHUNKS(n) (((n) + CHUNK - 1) / CHUNK)
#define NEAR 1048576 /* bytes of a second-level cache */
#define EPS 1e-5f /* of the LayerNorm */

typedef struct { int id, of; } Team;

#define SHARE(team, i, count) \
    for (int64_t i = (count) * (team).id / (team).of; i < (count) * ((team).id + 1) / (team).of; i++)

/* The i-th of a share counted from its end. Every pass over the map goes the other way than the one before: what that
   touched last is still in the cache. */
static int64_t backwards(Team team, int64_t i, int64_t count) {
    return count * team.id / team.of + count * (team.id + 1) / team.of - 1 - i;
}

static void meet(Team team) {
    if (team.of > 1) {
        _Pragma("omp barrier")
    }
}

/* The parameters in the order of the module; those of the released form have no biases and no LayerNorm, NULL. */
typedef struct {
    elem *W_q, *b_q, *W_v, *b_v, *W_z, *b_z, *ln_weight, *ln_bias; /* channel: [C], [1], [h, C], [h], [C, h], [C], [C], [C] */
    elem *W_t, *b_t, *W_u, *b_u; /* W_q and W_v of the spatial branch: [h, C], [h], [h, C], [h] */
} Weights;

typedef struct { int64_t released, sequence; float scale; } Kind;

/* The weights that a form has, in this order. */
static Weights weights_of(elem *const *at, Kind kind) {
    Weights W;
    if (kind.released) return (Weights){.W_q = at[0], .W_v = at[1], .W_z = at[2], .W_t = at[3], .W_u = at[4]};
    memcpy(&W, at, sizeof W);
    return W;
}

/* What the forward makes and the backward needs, for each sample; the letters are those of vectors.py. n is LayerNorm's
   output before weight and bias, f the gate g as the write takes it, y what the spatial query is of. r and s, the two
   rows, come last, as they need not be kept: NULL, a tile at a time. In the released form s is the softmax that the gate
   is the sigmoid of, always kept, and beta the inverse of its sum. */
typedef struct { float *stat, *beta, *rstd, *c, *m, *v, *n, *g, *f, *y, *t, *u0, *u, *r, *s; } State;

#define VECTORS(C) (4 + 8 * (C) + 2 * ((C) / 2)) /* numbers of a State without its rows, for each sample */

static State state_of(const Map *map, float *at, int rows) {
    const int64_t B = map->B, C = map->C, h = C / 2, P = map->P;
    State s;
    float **const parts[] = {&s.stat, &s.beta, &s.rstd, &s.c, &s.m, &s.v, &s.n, &s.g,
                             &s.f, &s.y, &s.t, &s.u0, &s.u, &s.r, &s.s};
    const int64_t sizes[] = {2, 1, 1, C, C, h, C, C, C, C, h, C, C, P, P};
    for (int i = 0; i < 15; i++) {
        *parts[i] = i < 13 || rows ? at : NULL;
        at += B * sizes[i];
    }
    return s;
}

/* out_b = W v_b + bias for the rows j .. j + CHUNK of W [R, n], v [B, n]; without v it is of ones */
static void applied(Team team, const elem *W, const elem *bias, const float *v, int64_t B, int64_t R, int64_t n, float *out) {
    SHARE(team, i, CHUNKS(R)) {
        const int64_t j = i * CHUNK, rows = R - j < CHUNK ? R - j : CHUNK;
        for (int64_t b = 0; b < B; b++) {
            float *o = out + b * R + j;
            sums(W + j * n, NULL, rows, n, n, v + b * n, NULL, 0, o, NULL);
            if (bias) SIMD for (int64_t k = 0; k < rows; k++) o[k] += up(bias[j + k]);
        }
    }
}

/* out_b = v_b W for W [R, n] and v [B, R] */
static void applied_left(Team team, const elem *W, const float *v, int64_t B, int64_t R, int64_t n, float *out) {
    SHARE(team, i, CHUNKS(n)) {
        const int64_t k = i * CHUNK, columns = n - k < CHUNK ? n - k : CHUNK;
        for (int64_t b = 0; b < B; b++) adds(W + k, NULL, R, columns, n, v + b * R, NULL, 0, out + b * n + k, NULL);
    }
}

/* dW [R, n] = sum_b a_b^T b_b and, where it is wanted, dbias [R] = sum_b a_b w_b, w = ones if NULL; any may be NULL */
static void outer(Team team, const float *a, const float *v, const float *w, int64_t B, int64_t R, int64_t n, elem *dW,
                  elem *dbias) {
    SHARE(team, j, R) {
        float sum = 0;
        for (int64_t b = 0; b < B; b++) sum += a[b * R + j] * (w ? w[b] : 1.0f);
        if (dbias) dbias[j] = down(sum);
        for (int64_t k = 0; dW && k < n; k += TILE) {
            const int64_t columns = n - k < TILE ? n - k : TILE;
            float row[TILE];
            for (int64_t b = 0; b < B; b++) {
                const float aj = a[b * R + j], *vb = v + b * n + k;
                if (b) SIMD for (int64_t l = 0; l < columns; l++) row[l] += aj * vb[l];
                else SIMD for (int64_t l = 0; l < columns; l++) row[l] = aj * vb[l];
            }
            SIMD for (int64_t l = 0; l < columns; l++) dW[j * n + k + l] = down(row[l]);
        }
    }
}

/* g and what stands for it, from z in g; y, of which the spatial query is */
static void channel_gate(const Map *map, Weights W, Kind kind, State st, int64_t b) {
    const int64_t C = map->C;
    float *g = st.g + b * C, *n = st.n + b * C, *f = st.f + b * C, *y = st.y + b * C, mean = 0, variance = 0;
    const float *m = st.m + b * C, factor = kind.sequence ? 1.0f : kind.scale;
    if (W.ln_weight) {
        _Pragma("omp simd reduction(+ : mean)") for (int64_t k = 0; k < C; k++) mean += g[k];
        mean /= C;
        _Pragma("omp simd reduction(+ : variance)") for (int64_t k = 0; k < C; k++) variance += (g[k] - mean) * (g[k] - mean);
        const float rstd = st.rstd[b] = 1.0f / sqrtf(variance / C + EPS);
        SIMD for (int64_t k = 0; k < C; k++) {
            n[k] = (g[k] - mean) * rstd;
            g[k] = n[k] * up(W.ln_weight[k]) + up(W.ln_bias[k]);
        }
    }
    SIMD for (int64_t k = 0; k < C; k++) {
        g[k] = 1.0f / (1.0f + exp_(-g[k]));
        f[k] = factor * g[k];
        y[k] = kind.sequence ? m[k] * g[k] : m[k];
    }
}

/* t = softmax(t) and beta */
static void spatial_query(const Map *map, Weights W, State st, int64_t b) {
    const int64_t h = map->C / 2;
    float *t = st.t + b * h, most = -INFINITY, sum = 0, beta = 0;
    _Pragma("omp simd reduction(max : most)") for (int64_t k = 0; k < h; k++) most = t[k] > most ? t[k] : most;
    _Pragma("omp simd reduction(+ : sum)") for (int64_t k = 0; k < h; k++) sum += t[k] = exp_(t[k] - most);
    _Pragma("omp simd reduction(+ : beta)") for (int64_t k = 0; k < h; k++) beta += (t[k] /= sum) * up(W.b_u[k]);
    st.beta[b] = beta;
}

/* What lies between the read and the write. */
static void between(const Map *map, Team team, Weights W, Kind kind, State st) {
    const int64_t B = map->B, C = map->C, h = C / 2;
    applied(team, W.W_v, W.b_v, st.c, B, h, C, st.v);
    if (!kind.sequence) applied(team, W.W_t, W.b_t, st.m, B, h, C, st.t);
    meet(team);
    applied(team, W.W_z, W.b_z, st.v, B, C, h, st.g);
    meet(team);
    SHARE(team, b, B) channel_gate(map, W, kind, st, b);
    if (kind.sequence) {
        meet(team);
        applied(team, W.W_t, W.b_t, st.y, B, h, C, st.t);
        meet(team);
    }
    if (!kind.released) SHARE(team, b, B) spatial_query(map, W, st, b);
    else SHARE(team, b, B) st.beta[b] = 0;
    meet(team);
    applied_left(team, W.W_u, st.t, B, h, C, st.u0);
    meet(team);
    SHARE(team, b, B) SIMD for (int64_t k = b * C; k < (b + 1) * C; k++) st.u[k] = kind.sequence ? st.u0[k] * st.g[k] : st.u0[k];
}

/* The share of the team, or for what is small the whole for its first member. */
static int takes_part(const Map *map, Team *team) {
    if (map->B * map->C * map->C >= 2 * SMALL) return 1;
    const int first = !team->id;
    *team = (Team){0, 1};
    return first;
}

/* The softmax over the pixels that the released form's spatial gate is a sigmoid of: logits in st.s of every tile, then
   e to them, less the greatest, in their place and the inverse of its sum in st.beta. The write divides. */
static void pixel_softmax(const Map *map, Team team, const elem *x, State st) {
    const int64_t P = map->P;
    SHARE(team, i, map->B * map->T) {
        const Tile t = tile_of(map, backwards(team, i, map->B * map->T));
        over_channels(map, t, x + t.x, NULL, st.u + t.b * map->C, st.s + t.b * P + t.p);
    }
    meet(team);
    SHARE(team, b, map->B) {
        float *e = st.s + b * P, most = -INFINITY, sum = 0;
        _Pragma("omp simd reduction(max : most)") for (int64_t p = 0; p < P; p++) most = e[p] > most ? e[p] : most;
        _Pragma("omp simd reduction(+ : sum)") for (int64_t p = 0; p < P; p++) sum += e[p] = exp_(e[p] - most);
        st.beta[b] = 1.0f / sum;
    }
    meet(team);
}

/* Pixels of a part of a tile: with the channels together as many as are read, gated and written while they stay in the
   first-level cache, so that reading and writing overlap; in the other layout rows would get short. */
static int64_t part_pixels(const Map *map) {
    const int64_t pixels = 2 * NEAREST / map->C / LANES * LANES;
    return !map->last ? TILE : pixels < LANES ? LANES : pixels;
}

static Tile part_of(const Map *map, Tile t, int64_t p, int64_t pixels) {
    return (Tile){t.b, t.p + p, t.n - p < pixels ? t.n - p : pixels, t.x + p * (map->last ? map->C : 1)};
}

/* The spatial gate of a tile in the released form, from the softmax. */
static void sigmoid_tile(const float *softmax, int64_t n, float *s) {
    SIMD for (int64_t p = 0; p < n; p++) s[p] = 1.0f / (1.0f + exp_(-softmax[p]));
}

/* The spatial gate and the output of a part of a tile. */
static void write_part(const Map *map, Tile t, const elem *x, Kind kind, elem *out, State st) {
    float row[TILE], S[TILE], *kept = st.s ? st.s + t.b * map->P + t.p : row, *s = kind.released ? row : kept;
    if (kind.released) {
        const float inverse = st.beta[t.b];
        SIMD for (int64_t p = 0; p < t.n; p++) kept[p] *= inverse;
        sigmoid_tile(kept, t.n, s);
    } else {
        spatial_tile(map, t, x, st.u + t.b * map->C, st.beta[t.b], s);
    }
    spatial_factor(s, kind.scale, t.n, S);
    gate_tile(map, t, x + t.x, out + t.x, st.f + t.b * map->C, S, !kind.sequence, NULL, NULL);
}

static void forward(const Map *map, Team team, const elem *x, Weights W, Kind kind, elem *out, State st, const float *w,
                    float *part) {
    const int64_t C = map->C, P = map->P, tiles = map->B * map->T, nearest = part_pixels(map);
    SHARE(team, i, tiles) {
        const Tile t = tile_of(map, i);
        float row[TILE];
        read_tile(map, t, x, w, st.r ? st.r + t.b * P + t.p : row, part + i * (2 * C + 2));
    }
    meet(team);
    Team few = team;
    if (takes_part(map, &few)) {
        SHARE(few, i, map->B * CHUNKS(C)) {
            const int64_t b = i / CHUNKS(C), k = i % CHUNKS(C) * CHUNK;
            merge_read(map, part, b, k, C - k < CHUNK ? C - k : CHUNK, 1, st.stat, st.c, st.m);
        }
        meet(few);
        between(map, few, W, kind, st);
    }
    meet(team);
    if (kind.released) pixel_softmax(map, team, x, st);
    SHARE(team, i, tiles) {
        const Tile t = tile_of(map, kind.released ? i : backwards(team, i, tiles));
        for (int64_t p = 0; p < t.n; p += nearest) write_part(map, part_of(map, t, p, nearest), x, kind, out, st);
    }
}

/* A map of sample b alone, and its state. */
static Map sample(const Map *map) {
    Map one = *map;
    one.B = 1;
    return one;
}

static State sample_state(const Map *map, State s, int64_t b) {
    const int64_t C = map->C, h = C / 2, P = map->P;
    s.stat += 2 * b, s.beta += b, s.rstd += b, s.v += b * h, s.t += b * h;
    s.c += b * C, s.m += b * C, s.n += b * C, s.g += b * C, s.f += b * C, s.y += b * C, s.u0 += b * C, s.u += b * C;
    if (s.r) s.r += b * P;
    if (s.s) s.s += b * P;
    return s;
}

/* Whether each thread shall take whole samples: as many for each, which stay in its cache, of weights that are small. */
static int by_samples(const Map *map, int threads, int64_t maps) {
    const int64_t size = map->C * map->P * (int64_t)sizeof(elem);
    return threads > 1 && map->B % threads == 0 && maps * size <= NEAR && 2 * map->C <= map->P;
}

/* Numbers of a tile's part in the backward; in the released form with sum_p softmax_p x_p. */
static int64_t part_numbers(const Map *map, Kind kind) { return (kind.released ? 3 : 2) * map->C + 1; }

/* Numbers of the state without a backward and with one, and of the work space of the two calls. */
void psa_sizes(const Map *map, int released, int64_t *sizes) {
    const Kind kind = {released, 0, 1};
    const int64_t B = map->B, C = map->C, h = C / 2, tiles = B * map->T;
    sizes[1] = B * (VECTORS(C) + 2 * map->P);
    sizes[0] = released ? sizes[1] : B * VECTORS(C);
    sizes[2] = C + tiles * (2 * C + 2);
    sizes[3] = 2 * C + tiles * part_numbers(map, kind) + B * (map->P + 6 * C + 3 * h + 2);
}

/* out from x. kept [sizes[0], or with rows sizes[1]] is for psa_backward, work [sizes[2]] is work space. */
void psa_forward(const Map *map, const elem *x, elem *const *weights, int released, int sequence, float scale, elem *out,
                 float *kept, int rows, float *work) {
    const Kind kind = {released, sequence, scale};
    const State st = state_of(map, kept, rows);
    const int64_t C = map->C, samples = C * map->P, parts = map->T * (2 * C + 2);
    const Weights W = weights_of(weights, kind);
    for (int64_t k = 0; k < C; k++) work[k] = up(W.W_q[k]);
    const int threads = threads_for(map);
    _Pragma("omp parallel num_threads(threads)") {
        const Team team = {omp_get_thread_num(), omp_get_num_threads()};
        if (by_samples(map, team.of, 1)) {
            const Map one = sample(map);
            SHARE(team, b, map->B)
                forward(&one, (Team){0, 1}, x + b * samples, W, kind, out + b * samples, sample_state(map, st, b), work,
                        work + C + b * parts);
        } else {
            forward(map, team, x, W, kind, out, st, work, work + C);
        }
    }
}

/* The vectors' gradients, for each sample. */
typedef struct { float *dg, *du, *dm, *dc, *dz, *dn, *dq, *dt, *dv, *dbeta, *dot, *e; } Gradients;

static Gradients gradients_of(const Map *map, float *at) {
    const int64_t B = map->B, C = map->C, h = C / 2;
    Gradients g;
    float **const parts[] = {&g.dg, &g.du, &g.dm, &g.dc, &g.dz, &g.dn, &g.dq, &g.dt, &g.dv, &g.dbeta, &g.dot, &g.e};
    const int64_t sizes[] = {C, C, C, C, C, C, h, h, h, 1, 1, map->P};
    for (int i = 0; i < 12; i++) {
        *parts[i] = at;
        at += B * sizes[i];
    }
    return g;
}

/* From dg, du, dbeta: dc, dm/P and dot = dc c for the second pass, and on the way what the weights' gradients are of:
   du becomes that of u0, dn that of the LayerNorm's output. */
static void between_backward(const Map *map, Team team, Weights W, Kind kind, State st, Gradients G) {
    const int64_t B = map->B, C = map->C, h = C / 2;
    if (kind.sequence) {
        SHARE(team, b, B) SIMD for (int64_t k = b * C; k < (b + 1) * C; k++) {
            G.dg[k] += G.du[k] * st.u0[k];
            G.du[k] *= st.g[k];
        }
        meet(team);
    }
    applied(team, W.W_u, NULL, G.du, B, h, C, G.dt);
    meet(team);
    SHARE(team, b, B) {
        const float *t = st.t + b * h;
        float *dt = G.dt + b * h, *dq = G.dq + b * h, dot = 0;
        if (kind.released) {
            memcpy(dq, dt, h * sizeof(float));
            continue;
        }
        SIMD for (int64_t k = 0; k < h; k++) dt[k] += G.dbeta[b] * up(W.b_u[k]);
        _Pragma("omp simd reduction(+ : dot)") for (int64_t k = 0; k < h; k++) dot += t[k] * dt[k];
        SIMD for (int64_t k = 0; k < h; k++) dq[k] = t[k] * (dt[k] - dot);
    }
    meet(team);
    applied_left(team, W.W_t, G.dq, B, h, C, G.dm);
    meet(team);
    SHARE(team, b, B) {
        const float *g = st.g + b * C, *n = st.n + b * C, *m = st.m + b * C;
        float *dg = G.dg + b * C, *dm = G.dm + b * C, *dn = G.dn + b * C, *dz = G.dz + b * C, one = 0, two = 0;
        SIMD for (int64_t k = 0; k < C; k++) {
            dn[k] = (kind.sequence ? dg[k] + dm[k] * m[k] : dg[k]) * g[k] * (1.0f - g[k]);
            dm[k] *= kind.sequence ? g[k] / map->P : 1.0f / map->P;
            dz[k] = W.ln_weight ? dn[k] * up(W.ln_weight[k]) : dn[k];
        }
        if (!W.ln_weight) continue;
        _Pragma("omp simd reduction(+ : one, two)") for (int64_t k = 0; k < C; k++) {
            one += dz[k];
            two += dz[k] * n[k];
        }
        one /= C, two /= C;
        SIMD for (int64_t k = 0; k < C; k++) dz[k] = st.rstd[b] * (dz[k] - one - n[k] * two);
    }
    meet(team);
    applied_left(team, W.W_z, G.dz, B, C, h, G.dv);
    meet(team);
    applied_left(team, W.W_v, G.dv, B, h, C, G.dc);
    meet(team);
    SHARE(team, b, B) {
        float dot = 0;
        _Pragma("omp simd reduction(+ : dot)") for (int64_t k = b * C; k < (b + 1) * C; k++) dot += G.dc[k] * st.c[k];
        G.dot[b] = dot;
    }
}

static void weights_backward(const Map *map, Team team, State st, Gradients G, Weights dW) {
    const int64_t B = map->B, C = map->C, h = C / 2;
    outer(team, G.dv, st.c, NULL, B, h, C, dW.W_v, dW.b_v);
    outer(team, G.dz, st.v, NULL, B, C, h, dW.W_z, dW.b_z);
    outer(team, G.dq, st.y, NULL, B, h, C, dW.W_t, dW.b_t);
    outer(team, st.t, G.du, G.dbeta, B, h, C, dW.W_u, NULL);
    if (dW.b_u) outer(team, st.t, NULL, G.dbeta, B, h, 0, NULL, dW.b_u);
    if (dW.ln_weight || dW.ln_bias) SHARE(team, k, C) {
        float weight = 0, bias = 0;
        for (int64_t b = 0; b < B; b++) {
            weight += G.dn[b * C + k] * st.n[b * C + k];
            bias += G.dn[b * C + k];
        }
        if (dW.ln_weight) dW.ln_weight[k] = down(weight);
        if (dW.ln_bias) dW.ln_bias[k] = down(bias);
    }
    if (dW.b_q && !team.id) *dW.b_q = down(0); /* a softmax does not feel it */
}

/* out_ji = d_ji * G_ji + u_j e_i + c_j a_i + w_j r_i + m_j, G_ji = f_j + S_i with add, else f_j S_i; u .. m are of the
   channels and S, e, a, r of the pixels, whichever of the two the rows are */
INLINE void gradient_rows(const elem *d, elem *out, int64_t R, int64_t n, ptrdiff_t step, int add, const float *f,
                          const float *S, const float *u, const float *e, const float *c, const float *a, const float *w,
                          const float *r, const float *m_row, const float *m_column) {
    for (int64_t j = 0; j < R; j++) {
        const elem *dj = d + j * step;
        elem *o = out + j * step;
        const float fj = f[j], uj = u[j], cj = c[j], wj = w[j], mj = m_row ? m_row[j] : 0.0f;
        SIMD for (int64_t i = 0; i < n; i++)
            o[i] = down(up(dj[i]) * (add ? fj + S[i] : fj * S[i])
                        + ((uj * e[i] + cj * a[i]) + (wj * r[i] + (m_row ? mj : m_column[i]))));
    }
}

/* In the released form, softmax and sigmoid: e so far is softmax times ds for the gradient ds of the softmax, and with
   K = sum_p e_p, in dbeta, it is e_p - K softmax_p; of the channels k .. k + n the same in du. */
static void merge_softmax(const Map *map, const float *part, int64_t K, int64_t b, int64_t k, int64_t n, float *du) {
    const int64_t C = map->C;
    float sum = 0, weighted[CHUNK] = {0}, *dub = du + b * C + k;
    for (int64_t t = 0; t < map->T; t++) {
        const float *one = part + (b * map->T + t) * K;
        sum += one[2 * C];
        SIMD for (int64_t l = 0; l < n; l++) weighted[l] += one[2 * C + 1 + k + l];
    }
    SIMD for (int64_t l = 0; l < n; l++) dub[l] -= sum * weighted[l];
}

/* ones stand for the factor that a channel has in the gradient of s where that is one for all samples. */
static void backward(const Map *map, Team team, const elem *x, const elem *d, Weights W, Kind kind, State st,
                     Gradients G, const float *w, const float *ones, elem *dx, float *part) {
    const int64_t C = map->C, P = map->P, K = part_numbers(map, kind), tiles = map->B * map->T;
    const int add = !kind.sequence;
    SHARE(team, i, tiles) {
        const Tile t = tile_of(map, i);
        float S[TILE], row[TILE], *kept = st.s + t.b * P + t.p, *softmax = kind.released ? kept : NULL;
        if (softmax) sigmoid_tile(softmax, t.n, row);
        gradient_tile(map, t, x, d, softmax ? row : kept, softmax, add ? ones : st.g + t.b * C, add, kind.scale, S, G.e + t.b * P + t.p,
                      part + i * K);
        if (softmax) over_pixels(map, t, x + t.x, NULL, softmax, NULL, 0, part + i * K + 2 * C + 1, NULL);
    }
    meet(team);
    Team few = team;
    if (takes_part(map, &few)) {
        SHARE(few, i, map->B * CHUNKS(C)) {
            const int64_t b = i / CHUNKS(C), k = i % CHUNKS(C) * CHUNK;
            const int64_t n = C - k < CHUNK ? C - k : CHUNK;
            merge_gradient(map, part, K, b, k, n, G.dg, G.du, G.dbeta);
            if (kind.released) merge_softmax(map, part, K, b, k, n, G.du);
        }
        meet(few);
        between_backward(map, few, W, kind, st, G);
    }
    meet(team);
    SHARE(team, i, tiles) {
        const int64_t at = backwards(team, i, tiles);
        const Tile t = tile_of(map, at);
        float a[TILE], dr[TILE], S[TILE], row[TILE], *s = st.s + t.b * P + t.p, *e = G.e + t.b * P + t.p;
        const float *f = st.f + t.b * C, *u = st.u + t.b * C, *dc = G.dc + t.b * C, *dm = G.dm + t.b * C;
        query_gradient_tile(map, t, x, st.r + t.b * P + t.p, st.stat[2 * t.b], st.stat[2 * t.b + 1], dc, G.dot[t.b], a, dr,
                            part + at * K);
        if (!dx) continue;
        if (kind.released) {
            SIMD for (int64_t p = 0; p < t.n; p++) e[p] -= G.dbeta[t.b] * s[p];
            sigmoid_tile(s, t.n, row);
        }
        spatial_factor(kind.released ? row : s, kind.scale, t.n, S);
        if (map->last && add) gradient_rows(d + t.x, dx + t.x, t.n, C, C, 1, S, f, e, u, a, dc, dr, w, NULL, dm);
        else if (map->last) gradient_rows(d + t.x, dx + t.x, t.n, C, C, 0, S, f, e, u, a, dc, dr, w, NULL, dm);
        else if (add) gradient_rows(d + t.x, dx + t.x, C, t.n, P, 1, f, S, u, e, dc, a, w, dr, dm, NULL);
        else gradient_rows(d + t.x, dx + t.x, C, t.n, P, 0, f, S, u, e, dc, a, w, dr, dm, NULL);
    }
}

static Gradients sample_gradients(const Map *map, Gradients g, int64_t b) {
    const int64_t C = map->C, h = C / 2;
    g.dg += b * C, g.du += b * C, g.dm += b * C, g.dc += b * C, g.dz += b * C, g.dn += b * C;
    g.dq += b * h, g.dt += b * h, g.dv += b * h, g.dbeta += b, g.dot += b, g.e += b * map->P;
    return g;
}

/* The gradients of x, unless dx is NULL, and of the parameters that have a place in d_weights. kept is what psa_forward
   kept with rows, work [sizes[3]] is work space. */
void psa_backward(const Map *map, const elem *x, const elem *d, elem *const *weights, int released, int sequence, float scale,
                  float *kept, elem *dx, elem *const *d_weights, float *work) {
    const Kind kind = {released, sequence, scale};
    const State st = state_of(map, kept, 1);
    const int64_t C = map->C, samples = C * map->P, K = part_numbers(map, kind);
    float *w = work, *ones = work + C, *part = work + 2 * C;
    const Gradients G = gradients_of(map, part + map->B * map->T * K);
    const Weights W = weights_of(weights, kind), dW = weights_of(d_weights, kind);
    for (int64_t k = 0; k < C; k++) w[k] = up(W.W_q[k]), ones[k] = 1;
    const int threads = threads_for(map);
    _Pragma("omp parallel num_threads(threads)") {
        const Team team = {omp_get_thread_num(), omp_get_num_threads()};
        if (by_samples(map, team.of, 2)) {
            const Map one = sample(map);
            SHARE(team, b, map->B)
                backward(&one, (Team){0, 1}, x + b * samples, d + b * samples, W, kind, sample_state(map, st, b),
                         sample_gradients(map, G, b), w, ones, dx ? dx + b * samples : NULL, part + b * map->T * K);
        } else {
            backward(map, team, x, d, W, kind, st, G, w, ones, dx, part);
        }
        meet(team);
        Team few = team;
        if (takes_part(map, &few)) {
            weights_backward(map, few, st, G, dW);
            if (dW.W_q) SHARE(few, i, CHUNKS(C)) {
                const int64_t k = i * CHUNK, n = C - k < CHUNK ? C - k : CHUNK;
                float sum[CHUNK] = {0};
                for (int64_t j = 0; j < map->B * map->T; j++)
                    SIMD for (int64_t l = 0; l < n; l++) sum[l] += part[j * K + k + l];
                for (int64_t l = 0; l < n; l++) dW.W_q[k + l] = down(sum[l]);
            }
        }
    }
}
