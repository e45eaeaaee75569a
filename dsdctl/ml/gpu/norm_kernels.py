"""The kernels of dsdctl.ml.gpu.norm, whose docstring defines what they compute."""

import triton
import triton.language as tl


@triton.jit
def _before(y, RELU: tl.constexpr):
    """relu(y) or y, which is what BatchNorm gets; NaN stays NaN."""
    if RELU:
        return tl.where(y <= 0, 0.0, y)
    return y


@triton.jit
def _corner(rows, width):
    """The index of the upper left of the four pixels that each row of pooled maps comes from."""
    half = width // 2
    return rows // half * 2 * width + rows % half * 2


@triton.jit
def _one_of_four(corner, pixel: tl.constexpr, width):
    return corner + pixel // 2 * width + pixel % 2


@triton.jit
def _unscaled(y, mean, inverse, RELU: tl.constexpr):
    """(rows, columns) with mean zero and deviation one."""
    return (_before(y, RELU) - mean[None, :]) * inverse[None, :]


@triton.jit
def _normalized(y, mean, factor, constant, RELU: tl.constexpr):
    """(rows, columns) as BatchNorm leaves them."""
    return (_before(y, RELU) - mean[None, :]) * factor[None, :] + constant[None, :]


@triton.jit
def _load(maps, rows, columns, inside, bias, channels):
    """Rows of maps, (rows, columns) in fp32, with the convolution's bias."""
    offsets = rows.to(tl.int64)[:, None] * channels + columns[None, :]
    return tl.load(maps + offsets, mask=inside, other=0.0).to(tl.float32) + bias[None, :]


@triton.jit
def _bias(conv_bias, columns, channels, BIASED: tl.constexpr, COLUMNS: tl.constexpr):
    if BIASED:
        return tl.load(conv_bias + columns, mask=columns < channels, other=0.0).to(tl.float32)
    return tl.zeros((COLUMNS,), tl.float32)


@triton.jit
def _sum_of_parts(sums, number, parts, columns, channels, PARTS: tl.constexpr):
    index = tl.arange(0, PARTS)
    inside = (index < parts)[:, None] & (columns < channels)[None, :]
    offsets = (number * parts + index)[:, None] * channels + columns[None, :]
    return tl.sum(tl.load(sums + offsets, mask=inside, other=0.0), 0)


@triton.jit
def _store_part(sums, number, columns, channels, total):
    part, parts = tl.program_id(0), tl.num_programs(0)
    offsets = (number * parts + part) * channels + columns
    tl.store(sums + offsets, tl.sum(total, 0), mask=columns < channels)


@triton.jit(do_not_specialize=["pixels", "per_part"])
def sums_of_maps(
    maps, conv_bias, sums, pixels, channels, per_part,
    RELU: tl.constexpr, BIASED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """For each channel the sums of z - z0 and of its square, and how many values are positive.

    z0 is z at the first pixel: without this shift the variance of a channel that hardly varies
    would cancel in rounding.
    """
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    bias = _bias(conv_bias, columns, channels, BIASED, COLUMNS)
    pivot = tl.load(maps + columns, mask=columns < channels, other=0.0).to(tl.float32) + bias
    pivot = _before(pivot, RELU)
    linear = tl.zeros((ROWS, COLUMNS), tl.float32)
    square = tl.zeros((ROWS, COLUMNS), tl.float32)
    above = tl.zeros((ROWS, COLUMNS), tl.float32)
    first = tl.program_id(0) * per_part
    for start in range(first, first + per_part, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = (rows < pixels)[:, None] & (columns < channels)[None, :]
        y = _load(maps, rows, columns, inside, bias, channels)
        difference = tl.where(inside, _before(y, RELU) - pivot[None, :], 0.0)
        linear += difference
        square += difference * difference
        above += tl.where(inside & (y > 0), 1.0, 0.0)
    _store_part(sums, 0, columns, channels, linear)
    _store_part(sums, 1, columns, channels, square)
    _store_part(sums, 2, columns, channels, above)


@triton.jit
def _larger(one, other):
    """The elementwise maximum; NaN wins, and the first of equal ones."""
    return tl.where((other > one) | (other != other), other, one)


@triton.jit(
    do_not_specialize=["out_rows", "pixels", "per_part", "parts", "width", "eps", "momentum"]
)
def normalize_maps(
    maps, conv_bias, added, sums, weight, bias, running_mean, running_var, tracked, statistics, out,
    out_rows, pixels, channels, per_part, parts, width, eps, momentum,
    RELU: tl.constexpr, BIASED: tl.constexpr, ADDED: tl.constexpr, RELU_AFTER: tl.constexpr,
    POOL: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Normalize; one program per group of channels also saves and updates their statistics."""
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = columns < channels
    y_bias = _bias(conv_bias, columns, channels, BIASED, COLUMNS)
    pivot = tl.load(maps + columns, mask=there, other=0.0).to(tl.float32) + y_bias
    pivot = _before(pivot, RELU)
    shift = _sum_of_parts(sums, 0, parts, columns, channels, PARTS) / pixels
    mean = pivot + shift
    square = _sum_of_parts(sums, 1, parts, columns, channels, PARTS) / pixels
    variance = tl.maximum(square - shift * shift, 0.0)
    inverse = 1.0 / tl.sqrt(variance + eps)
    if tl.program_id(0) == 0:
        above = _sum_of_parts(sums, 2, parts, columns, channels, PARTS)
        tl.store(statistics + columns, mean, mask=there)
        tl.store(statistics + channels + columns, inverse, mask=there)
        tl.store(statistics + 2 * channels + columns, above, mask=there)
        old = tl.load(running_mean + columns, mask=there)
        tl.store(running_mean + columns, old + momentum * (mean - old), mask=there)
        old = tl.load(running_var + columns, mask=there)
        unbiased = variance * (pixels / (pixels - 1.0))
        tl.store(running_var + columns, old + momentum * (unbiased - old), mask=there)
        if tl.program_id(1) == 0:
            tl.store(tracked, tl.load(tracked) + 1)
    factor = tl.load(weight + columns, mask=there, other=0.0) * inverse
    constant = tl.load(bias + columns, mask=there, other=0.0)
    first = tl.program_id(0) * per_part
    for start in range(first, first + per_part, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = (rows < out_rows)[:, None] & there[None, :]
        offsets = rows.to(tl.int64)[:, None] * channels + columns[None, :]
        if POOL:
            corner = _corner(rows, width)
            y = _load(maps, corner, columns, inside, y_bias, channels)
            value = _normalized(y, mean, factor, constant, RELU)
            for pixel in tl.static_range(1, 4):
                other = _one_of_four(corner, pixel, width)
                y = _load(maps, other, columns, inside, y_bias, channels)
                value = _larger(value, _normalized(y, mean, factor, constant, RELU))
        else:
            y = _load(maps, rows, columns, inside, y_bias, channels)
            value = _normalized(y, mean, factor, constant, RELU)
        if ADDED:
            value += tl.load(added + offsets, mask=inside, other=0.0).to(tl.float32)
        value = _before(value, RELU_AFTER)
        tl.store(out + offsets, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _constants(weight, bias, statistics, columns, channels):
    """A channel's mean, inverse deviation, weight x inverse deviation and bias, each (C,)."""
    there = columns < channels
    mean = tl.load(statistics + columns, mask=there, other=0.0)
    inverse = tl.load(statistics + channels + columns, mask=there, other=0.0)
    factor = tl.load(weight + columns, mask=there, other=0.0) * inverse
    constant = tl.load(bias + columns, mask=there, other=0.0)
    return mean, inverse, factor, constant


@triton.jit
def _upstream(
    gradient, out, value, rows, columns, inside, channels,
    ADDED: tl.constexpr, RELU_AFTER: tl.constexpr,
):  # fmt: skip
    """The gradient at rows of the output, (rows, columns) in fp32, before the last ReLU."""
    offsets = rows.to(tl.int64)[:, None] * channels + columns[None, :]
    g = tl.load(gradient + offsets, mask=inside, other=0.0).to(tl.float32)
    if RELU_AFTER:
        if ADDED:
            value = tl.load(out + offsets, mask=inside, other=0.0).to(tl.float32)
        g = tl.where(value > 0, g, 0.0)
    return g


@triton.jit
def _chosen(
    maps,
    corner,
    columns,
    inside,
    bias,
    channels,
    width,
    mean,
    factor,
    constant,
    RELU: tl.constexpr,
):
    """Which of the four pixels max-pooling chose: 0 to 3."""
    y = _load(maps, corner, columns, inside, bias, channels)
    best = _normalized(y, mean, factor, constant, RELU)
    choice = tl.zeros(best.shape, tl.int32)
    for pixel in tl.static_range(1, 4):
        other = _one_of_four(corner, pixel, width)
        y = _load(maps, other, columns, inside, bias, channels)
        value = _normalized(y, mean, factor, constant, RELU)
        choice = tl.where((value > best) | (value != value), pixel, choice)
        best = _larger(best, value)
    return choice


@triton.jit(do_not_specialize=["out_rows", "per_part", "width"])
def sums_of_gradients(
    gradient, maps, conv_bias, out, weight, bias, statistics, sums,
    out_rows, channels, per_part, width,
    RELU: tl.constexpr, BIASED: tl.constexpr, ADDED: tl.constexpr, RELU_AFTER: tl.constexpr,
    POOL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """For each channel the sums of the gradient g, of g times the normalized z, and of g where the
    maps are positive."""
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    y_bias = _bias(conv_bias, columns, channels, BIASED, COLUMNS)
    mean, inverse, factor, constant = _constants(weight, bias, statistics, columns, channels)
    plain = tl.zeros((ROWS, COLUMNS), tl.float32)
    scaled = tl.zeros((ROWS, COLUMNS), tl.float32)
    above = tl.zeros((ROWS, COLUMNS), tl.float32)
    first = tl.program_id(0) * per_part
    for start in range(first, first + per_part, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = (rows < out_rows)[:, None] & (columns < channels)[None, :]
        if POOL:
            corner = _corner(rows, width)
            choice = _chosen(
                maps, corner, columns, inside, y_bias, channels, width, mean, factor, constant, RELU
            )
            g = _upstream(gradient, out, factor, rows, columns, inside, channels, ADDED, RELU_AFTER)
            for pixel in tl.static_range(4):
                other = _one_of_four(corner, pixel, width)
                y = _load(maps, other, columns, inside, y_bias, channels)
                own = tl.where(choice == pixel, g, 0.0)
                plain += own
                scaled += own * _unscaled(y, mean, inverse, RELU)
                above += tl.where(y > 0, own, 0.0)
        else:
            y = _load(maps, rows, columns, inside, y_bias, channels)
            value = _normalized(y, mean, factor, constant, RELU)
            g = _upstream(gradient, out, value, rows, columns, inside, channels, ADDED, RELU_AFTER)
            plain += g
            scaled += g * _unscaled(y, mean, inverse, RELU)
            above += tl.where(y > 0, g, 0.0)
    _store_part(sums, 0, columns, channels, plain)
    _store_part(sums, 1, columns, channels, scaled)
    _store_part(sums, 2, columns, channels, above)


@triton.jit(do_not_specialize=["out_rows", "pixels", "per_part", "parts", "width"])
def gradients_of_maps(
    gradient, maps, conv_bias, out, weight, bias, statistics, sums, small, of_maps, of_added,
    out_rows, pixels, channels, per_part, parts, width,
    PARTS: tl.constexpr, RELU: tl.constexpr, BIASED: tl.constexpr, ADDED: tl.constexpr,
    RELU_AFTER: tl.constexpr, POOL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The maps' gradient; one program per group of channels also writes the parameters'."""
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = columns < channels
    y_bias = _bias(conv_bias, columns, channels, BIASED, COLUMNS)
    mean, inverse, factor, constant = _constants(weight, bias, statistics, columns, channels)
    plain = _sum_of_parts(sums, 0, parts, columns, channels, PARTS)
    scaled = _sum_of_parts(sums, 1, parts, columns, channels, PARTS)
    if tl.program_id(0) == 0:
        tl.store(small + columns, plain, mask=there)
        tl.store(small + channels + columns, scaled, mask=there)
        if BIASED:
            # The sum of the maps' gradients where z > 0. Elsewhere z is 0, and a channel's
            # normalized values sum to zero: so those where z > 0 sum to minus the others' sum.
            above = _sum_of_parts(sums, 2, parts, columns, channels, PARTS)
            count = tl.load(statistics + 2 * channels + columns, mask=there, other=0.0)
            others = (pixels - count) * mean * inverse
            total = factor * (above - (count * plain + others * scaled) / pixels)
            tl.store(small + 2 * channels + columns, total, mask=there)
    first = tl.program_id(0) * per_part
    for start in range(first, first + per_part, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = (rows < out_rows)[:, None] & there[None, :]
        if POOL:
            corner = _corner(rows, width)
            choice = _chosen(
                maps, corner, columns, inside, y_bias, channels, width, mean, factor, constant, RELU
            )
            g = _upstream(gradient, out, factor, rows, columns, inside, channels, ADDED, RELU_AFTER)
            for pixel in tl.static_range(4):
                other = _one_of_four(corner, pixel, width)
                y = _load(maps, other, columns, inside, y_bias, channels)
                own = tl.where(choice == pixel, g, 0.0)
                result = _of_maps(own, y, mean, inverse, factor, plain, scaled, pixels, RELU)
                offsets = other.to(tl.int64)[:, None] * channels + columns[None, :]
                tl.store(of_maps + offsets, result.to(of_maps.dtype.element_ty), mask=inside)
        else:
            offsets = rows.to(tl.int64)[:, None] * channels + columns[None, :]
            y = _load(maps, rows, columns, inside, y_bias, channels)
            value = _normalized(y, mean, factor, constant, RELU)
            g = _upstream(gradient, out, value, rows, columns, inside, channels, ADDED, RELU_AFTER)
            if ADDED:
                tl.store(of_added + offsets, g.to(of_added.dtype.element_ty), mask=inside)
            result = _of_maps(g, y, mean, inverse, factor, plain, scaled, pixels, RELU)
            tl.store(of_maps + offsets, result.to(of_maps.dtype.element_ty), mask=inside)


@triton.jit
def _of_maps(g, y, mean, inverse, factor, plain, scaled, pixels, RELU: tl.constexpr):
    """factor (g - mean of g - normalized z x mean of g times it), where the ReLU let y through."""
    unscaled = _unscaled(y, mean, inverse, RELU)
    result = factor[None, :] * (g - (plain[None, :] + unscaled * scaled[None, :]) / pixels)
    if RELU:
        result = tl.where(y > 0, result, 0.0)
    return result
