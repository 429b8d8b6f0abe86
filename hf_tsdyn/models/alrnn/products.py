def _accumulate(builder, count, totals, terms) -> None:
    """Build a loop that adds `terms(index)`, pairs of factors, to registers."""
    with cgutils.for_range(builder, count) as loop:
        for register, (a, b) in zip(totals, terms(loop.index), strict=True):
            builder.store(_multiply_add(builder, a, b, builder.load(register)), register)


@intrinsic
def multiply_tile(typing, num_rows, base, inputs, inputs_stride, weights, weights_stride, linear, rectified, outputs,
                  outputs_stride):  # fmt: skip
    """outputs[r] = base[r] + sum over columns k of weights[k, r] phi(inputs[k]), for `num_rows` rows, at most a tile.

    phi rectifies the `rectified` columns that follow the `linear` ones.
    """
    whole = types.int64
    signature = types.void(whole, base, inputs, whole, weights, whole, whole, whole, outputs, whole)

    def generate(context, builder, signature, arguments):
        done = builder.append_basic_block("done")
        choice = builder.switch(arguments[0], done)
        for size in range(ROWS, largest_tile(base.dtype.bitwidth) + 1, ROWS):
            block = builder.append_basic_block(f"rows_{size}")
            choice.add_case(_INDEX(size), block)
            builder.position_at_end(block)
            _multiply_rows(builder, size, *arguments[1:])
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, generate


def _multiply_rows(
    builder, size, base, inputs, inputs_stride, weights, weights_stride, linear, rectified, outputs, outputs_stride
) -> None:
    vectors = [_load(builder, base, _INDEX(row * LANES)) for row in range(size)]
    totals = [cgutils.alloca_once(builder, vectors[0].type) for _ in vectors]
    for register, vector in zip(totals, vectors, strict=True):
        builder.store(vector, register)
    for count, first in ((linear, _INDEX(0)), (rectified, linear)):

        def terms(column, first=first):
            column = builder.add(column, first)
            value = _load(builder, inputs, builder.mul(column, inputs_stride))
            value = _above_zero(builder, value) if first is linear else value
            row_of_weights = builder.gep(weights, [builder.mul(column, weights_stride)])
            for row in range(size):
                yield _spread(builder, builder.load(builder.gep(row_of_weights, [_INDEX(row)]))), value

        _accumulate(builder, count, totals, terms)
    for row, register in enumerate(totals):
        _store(builder, outputs, builder.mul(_INDEX(row), outputs_stride), builder.load(register))


@intrinsic
def add_outer_tile(typing, num_steps, left, right, stride, sums):
    """sums[ROWS r + c] += sum over steps s of left[s, r] right[s, c], for ROWS r and ROWS c."""

    def generate(context, builder, signature, arguments):
        num_steps, left, right, stride, sums = arguments
        width = ROWS if typing_bits * LANES <= _REGISTER_BITS else ROWS // 2  # what the registers hold
        for first_row in range(0, ROWS, width):
            for first_column in range(0, ROWS, width):
                rows, columns = (range(n, n + width) for n in (first_row, first_column))

                def terms(step, rows=rows, columns=columns):
                    at = builder.mul(step, stride)
                    a = [_load(builder, left, builder.add(at, _INDEX(row * LANES))) for row in rows]
                    b = [_load(builder, right, builder.add(at, _INDEX(column * LANES))) for column in columns]
                    return [(x, y) for x in a for y in b]

                places = [_INDEX((ROWS * row + column) * LANES) for row in rows for column in columns]
                vectors = [_load(builder, sums, place) for place in places]
                totals = [cgutils.alloca_once(builder, vectors[0].type) for _ in places]
                for register, vector in zip(totals, vectors, strict=True):
                    builder.store(vector, register)
                _accumulate(builder, num_steps, totals, terms)
                for place, register in zip(places, totals, strict=True):
                    _store(builder, sums, place, builder.load(register))
        return context.get_dummy_value()

    typing_bits = left.dtype.bitwidth
    return types.void(types.int64, left, right, types.int64, sums), generate
