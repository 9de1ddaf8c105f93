r"""The C of `engine.export.c99`: records, rules of requantisation, and a function for each kind of layer.

$x and $y stand for the types of the codes read and given, $code for the rule's function, $name for what this variant is called.
"""

SHIFTED = """\
/* v 2^-shift, rounded down: C leaves >> of negative numbers open */
static int64_t shifted(int64_t v, int32_t shift)
{
    return v < 0 ? ~(~v >> shift) : v >> shift;
}
"""

HALF_UP = """\
/* v 2^-shift, rounded to nearest, ties up */
static int64_t half_up(int64_t v, int32_t shift)
{
    return shifted(v + (INT64_C(1) << shift >> 1), shift);
}
"""

FP32 = """\
/* v 2^-shift, rounded to nearest, ties to even; v is not negative */
static int64_t half_even_shift(int64_t v, int32_t shift)
{
    const int64_t below = v >> shift, rest = v - (below << shift);
    return below + (2 * rest + (below & 1) > INT64_C(1) << shift);
}

/* v, from 0 to 2^55, rounded to the 24 bits that a float has */
static int64_t to_24_bits(int64_t v)
{
    int32_t spare = 0;
    if (v < INT32_C(1) << 24)
        return v;
    for (int32_t step = 16; step > 0; step /= 2)
        if (v >> (spare + step) >= INT32_C(1) << 23)
            spare += step;
    return half_even_shift(v, spare) << spare;
}

/* round(a m 2^-shift) as floats round it, in integers: the sum, the product and the result */
static int64_t fp32(int64_t a, int64_t m, int32_t shift)
{
    const int64_t y = half_even_shift(to_24_bits(to_24_bits(a < 0 ? -a : a) * m), shift);
    return a < 0 ? -y : y;
}
"""

Q31_DOUBLE = """\
/* round(a m 2^-shift) in two steps: 31 bits, ties up, and the others, ties away from 0 */
static int64_t q31_double(int64_t a, int64_t m, int32_t shift)
{
    const int32_t left = shift < 31 ? 31 - shift : 0, right = shift > 31 ? shift - 31 : 0;
    const int64_t mask = (INT64_C(1) << right) - 1;
    int64_t wide = a * (INT64_C(1) << left), high;
    wide = wide < INT32_MIN ? INT32_MIN : wide > INT32_MAX ? INT32_MAX : wide;
    high = shifted(wide * m + (INT64_C(1) << 30), 31);
    return shifted(high, right) + ((high & mask) > (mask >> 1) + (high < 0));
}
"""

ONCE = """\
/* round(a m 2^-shift), rounded once, ties up */
static int64_t $rule(int64_t a, int64_t m, int32_t shift)
{
    return half_up(a * m, shift);
}
"""

POW2 = """\
/* round(a 2^-shift), ties up; m is 1 */
static int64_t pow2(int64_t a, int64_t m, int32_t shift)
{
    return shift < 0 ? a * m * (INT64_C(1) << -shift) : half_up(a * m, shift);
}
"""

RULES = {"fp32": FP32, "q31-double": Q31_DOUBLE, "q31-single": ONCE, "rndnu": ONCE, "pow2": POW2}
ROUNDED_ONCE = ("q31-single", "rndnu", "pow2")

CODES = """\
/* From sums to codes: a multiplier m 2^-shift for each channel, the code of 0, the least code and the largest */
struct codes {
    const int32_t *mantissa;
    const int8_t *shift;
    int32_t zero, low, high;
};

static int32_t clipped(int64_t v, int32_t low, int32_t high)
{
    return v < low ? low : v > high ? high : (int32_t)v;
}
"""

CODE = """\
/* The code of channel o's sum */
static int32_t $code(int32_t sum, int32_t o, const struct codes *to)
{
    return clipped($rule(sum, to->mantissa[o], to->shift[o]) + to->zero, to->low, to->high);
}
"""

WINDOWS = """\
/* Where windows lie in a picture: (rows, columns) of the picture, of the windows, and of a window; before is the padding above and left */
struct windows {
    int32_t in[2], out[2], kernel[2], stride[2], before[2], dilation[2];
};

/* The positions of a window that are inside of the picture, along one axis: from first up to end */
struct inside {
    int32_t start, first, end;
};

static struct inside inside(const struct windows *at, int32_t axis, int32_t number)
{
    const int32_t start = number * at->stride[axis] - at->before[axis], step = at->dilation[axis];
    const int32_t end = (at->in[axis] - start + step - 1) / step;
    const struct inside range = {start, start < 0 ? (step - 1 - start) / step : 0, end < at->kernel[axis] ? end : at->kernel[axis]};
    return range;
}
"""

CONV = """\
/* $name: y[o,p,q] = code(bias[o] + sum over k,i,j of (x[k,ps+id,qs+jd] - zero) (w[o,k,i,j] - w_zero[o])); around x, x - zero is 0 */
static int32_t ${name}_sum(const $x *x, const struct conv *layer, int32_t o, struct inside rows, struct inside columns)
{
    const struct windows *at = &layer->at;
    const int32_t zero = layer->zero, w_zero = layer->w_zeros ? layer->w_zeros[o] : 0, step = at->dilation[1];
    int32_t sum = layer->bias[o];
    for (int32_t k = 0; k < layer->inputs; k++)
        for (int32_t i = rows.first; i < rows.end; i++) {
            const $x *row = x + (k * at->in[0] + rows.start + i * at->dilation[0]) * at->in[1];
            const int8_t *w = layer->w + ((o * layer->inputs + k) * at->kernel[0] + i) * at->kernel[1];
            for (int32_t j = columns.first; j < columns.end; j++)
                sum += (row[columns.start + j * step] - zero) * (w[j] - w_zero);
        }
    return sum;
}

static void $name(const $x *x, $y *y, const struct conv *layer)
{
    const struct windows *at = &layer->at;
    const int32_t group = layer->outputs / layer->groups;
    for (int32_t o = 0; o < layer->outputs; o++)
        for (int32_t p = 0; p < at->out[0]; p++)
            for (int32_t q = 0; q < at->out[1]; q++) {
                const $x *channels = x + o / group * layer->inputs * at->in[0] * at->in[1];
                const int32_t sum = ${name}_sum(channels, layer, o, inside(at, 0, p), inside(at, 1, q));
                *y++ = ($y)$code(sum, o, &layer->to);
            }
}
"""

DENSE = """\
/* $name: y[o] = code(bias[o] + sum over k of (x[k] - zero) (w[o,k] - w_zero[o])) */
static void $name(const $x *x, $y *y, const struct dense *layer)
{
    const int8_t *w = layer->w;
    for (int32_t o = 0; o < layer->outputs; o++, w += layer->inputs) {
        const int32_t w_zero = layer->w_zeros ? layer->w_zeros[o] : 0;
        int32_t sum = layer->bias[o];
        for (int32_t k = 0; k < layer->inputs; k++)
            sum += (x[k] - layer->zero) * (w[k] - w_zero);
        y[o] = ($y)$code(sum, o, &layer->to);
    }
}
"""

MAX_POOL = """\
/* $name: the largest code of each window */
static void $name(const $x *x, $y *y, const struct pool *layer)
{
    const struct windows *at = &layer->at;
    for (int32_t c = 0; c < layer->channels; c++, x += at->in[0] * at->in[1])
        for (int32_t p = 0; p < at->out[0]; p++)
            for (int32_t q = 0; q < at->out[1]; q++) {
                const struct inside rows = inside(at, 0, p), columns = inside(at, 1, q);
                $y largest = $least;
                for (int32_t i = rows.first; i < rows.end; i++)
                    for (int32_t j = columns.first; j < columns.end; j++) {
                        const $x code = x[(rows.start + i) * at->in[1] + columns.start + j];
                        largest = code > largest ? code : largest;
                    }
                *y++ = largest;
            }
}
"""

AVERAGE_POOL = """\
/* v / n, rounded to nearest, ties to even */
static int32_t ${name}_half_even(int32_t v, int32_t n)
{
    const int32_t below = v / n - (v % n < 0), rest = v - below * n;
    return below + (2 * rest + (below & 1) > n);
}

/* $name: the mean code of each window; the padding counts as zero, or not at all */
static void $name(const $x *x, $y *y, const struct pool *layer)
{
    const struct windows *at = &layer->at;
    const int32_t size = at->kernel[0] * at->kernel[1];
    for (int32_t c = 0; c < layer->channels; c++, x += at->in[0] * at->in[1])
        for (int32_t p = 0; p < at->out[0]; p++)
            for (int32_t q = 0; q < at->out[1]; q++) {
                const struct inside rows = inside(at, 0, p), columns = inside(at, 1, q);
                const int32_t seen = (rows.end - rows.first) * (columns.end - columns.first);
                int32_t sum = layer->count_padding ? (size - seen) * layer->zero : 0;
                for (int32_t i = rows.first; i < rows.end; i++)
                    for (int32_t j = columns.first; j < columns.end; j++)
                        sum += x[(rows.start + i) * at->in[1] + columns.start + j];
                *y++ = ($y)${name}_half_even(sum, layer->count_padding ? size : seen);
            }
}
"""

ADD = """\
/* $name: y = code of the sum of two branches, rounded once, ties up */
static void $name(const $x *a, const $x2 *b, $y *y, const struct add *layer)
{
    for (int32_t i = 0; i < layer->size; i++) {
        const int32_t sum = (a[i] - layer->zeros[0]) * layer->mantissa[0] + (b[i] - layer->zeros[1]) * layer->mantissa[1];
        y[i] = ($y)clipped(half_up(sum, layer->shift) + layer->zero, layer->low, layer->high);
    }
}
"""

LOOKUP = """\
/* $name: the code that a table has for each */
static void $name(const $x *x, $y *y, const struct lookup *layer)
{
    for (int32_t i = 0; i < layer->size; i++)
        y[i] = ($y)(layer->table[(uint8_t)x[i]] + $least);
}
"""

STRUCTS = {
    "conv": """\
struct conv {
    struct windows at;
    int32_t inputs, outputs, groups; /* channels in a group of x, channels of y, groups */
    int32_t zero;                    /* the code of 0 in x */
    const int8_t *w;                 /* [outputs][inputs][kernel rows][kernel columns] */
    const int32_t *w_zeros;          /* the code of 0 in w for each output; none if it is 0 */
    const int32_t *bias;
    struct codes to;
};
""",
    "dense": """\
struct dense {
    int32_t inputs, outputs, zero; /* zero is the code of 0 in x */
    const int8_t *w;               /* [outputs][inputs] */
    const int32_t *w_zeros;        /* the code of 0 in w for each output; none if it is 0 */
    const int32_t *bias;
    struct codes to;
};
""",
    "pool": """\
struct pool {
    struct windows at;
    int32_t channels, zero, count_padding; /* the last two are those of a mean */
};
""",
    "add": """\
struct add {
    int32_t size, mantissa[2], shift, zeros[2], zero, low, high;
};
""",
    "lookup": """\
struct lookup {
    int32_t size;
    const uint8_t *table; /* [256], by the byte of x: how far the code of y is above the least one */
};
""",
}

FUNCTIONS = {"conv": CONV, "dense": DENSE, "max_pool": MAX_POOL, "average_pool": AVERAGE_POOL, "add": ADD, "lookup": LOOKUP}

MAIN = """\
#ifdef ${upper}_MAIN
#include <stdio.h>

/* The codes of one input after the other from stdin, the codes of their outputs to stdout */
int main(void)
{
    static $x x[${upper}_INPUT_SIZE];
    static $y y[${upper}_OUTPUT_SIZE];
    size_t got;
    while ((got = fread(x, 1, sizeof x, stdin)) == sizeof x) {
        ${name}_run(x, y);
        if (fwrite(y, 1, sizeof y, stdout) != sizeof y)
            return 1;
    }
    return got != 0 || fflush(stdout) != 0;
}
#endif
"""
