/* HMC on the banana, step by step on one core: the honest floor of small problems.
 *
 * x1 ~ N(0, 10^2), x2 | x1 ~ N(0.03 (x1^2 - 100), 1); momenta by Box and Muller from xoshiro128++ (Blackman and Vigna),
 * one uniform per step for the accept decision, every position written, as the JAX programs do in float32.
 */
#include <math.h>
#include <stdint.h>

static inline uint32_t rotl(uint32_t x, int k) { return (x << k) | (x >> (32 - k)); }

static inline uint32_t next(uint32_t s[4]) {
    const uint32_t result = rotl(s[0] + s[3], 7) + s[0], t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 11);
    return result;
}

/* On (0, 1]: its logarithm is finite. */
static inline float uniform(uint32_t s[4]) { return ((next(s) >> 8) + 1) * 0x1p-24f; }

static inline float logdensity(float x1, float x2) {
    const float r = x2 - 0.03f * (x1 * x1 - 100.0f);
    return -0.5f * (0.01f * x1 * x1 + r * r);
}

/* Adds `step` times the gradient of the log density to the momentum. */
static inline void kick(float x1, float x2, float step, float *p1, float *p2) {
    const float r = x2 - 0.03f * (x1 * x1 - 100.0f);
    *p1 += step * (0.06f * x1 * r - 0.01f * x1);
    *p2 -= step * r;
}

/* Runs num_steps steps from (positions[0], positions[1]); writes positions[2 t], positions[2 t + 1] after step t and
 * returns the number of accepted proposals. */
long banana_hmc(long num_steps, int num_leapfrogs, float step_size, uint32_t seed, float *positions) {
    uint32_t s[4] = {seed, seed ^ 0x9e3779b9u, 0x243f6a88u, 0xb7e15162u};
    float x1 = positions[0], x2 = positions[1], current = logdensity(x1, x2);
    long accepted = 0;
    for (long t = 0; t < num_steps; t++) {
        const float radius = sqrtf(-2.0f * logf(uniform(s))), angle = 6.2831853f * uniform(s);
        float p1 = radius * cosf(angle), p2 = radius * sinf(angle), y1 = x1, y2 = x2;
        const float before = current - 0.5f * (p1 * p1 + p2 * p2);
        kick(y1, y2, 0.5f * step_size, &p1, &p2);
        for (int i = 1; i <= num_leapfrogs; i++) {
            y1 += step_size * p1;
            y2 += step_size * p2;
            kick(y1, y2, i < num_leapfrogs ? step_size : 0.5f * step_size, &p1, &p2);
        }
        const float proposed = logdensity(y1, y2), after = proposed - 0.5f * (p1 * p1 + p2 * p2);
        if (logf(uniform(s)) < after - before) {
            x1 = y1;
            x2 = y2;
            current = proposed;
            accepted++;
        }
        positions[2 * t] = x1;
        positions[2 * t + 1] = x2;
    }
    return accepted;
}
