"""The two small matrix products of the compiled recurrence: tiles of the result stay in registers from start to end."""

from __future__ import annotations

from llvmlite import binding
from numba.core import cgutils

from hf_tsdyn.models.alrnn.recurrence import LANES, ROWS
from hf_tsdyn.models.alrnn.vectors import (
    INDEX,
    build_above_zero,
    build_load,
    build_multiply_add,
    build_spread,
    build_store,
    nothing,
    operation,
)

REGISTER_BITS = 512 if binding.get_host_cpu_features().get("avx512f", False) else 256


def largest_tile(bits: int) -> int:
    """Return how many rows of numbers of `bits` bits the registers hold beside the operands of a product."""
    return 24 * 32 // bits if REGISTER_BITS == 512 else ROWS


def _bits(place) -> int:
    return 32 if str(place.type.pointee) == "float" else 64


def _accumulate(builder, count, totals, terms) -> None:
    """Build a loop that adds the products of `terms(index)`, pairs of factors, to registers."""
    with cgutils.for_range(builder, count) as loop:
        for register, (a, b) in zip(totals, terms(loop.index), strict=True):
            builder.store(build_multiply_add(builder, a, b, builder.load(register)), register)


@operation(nothing)
def multiply_tile(
    builder, num_rows, base, inputs, inputs_stride, matrix, matrix_stride, linear, rectified, outputs, outputs_stride
):
    """outputs[r] = base[r] + sum over columns k of matrix[k, r] phi(inputs[k]), for `num_rows` rows, at most a tile.

    phi rectifies the `rectified` columns that follow the `linear` ones; strides are the distances of rows.
    """
    done = builder.append_basic_block("done")
    choice = builder.switch(num_rows, done)
    for size in range(ROWS, largest_tile(_bits(base)) + 1, ROWS):
        block = builder.append_basic_block(f"rows_{size}")
        choice.add_case(INDEX(size), block)
        builder.position_at_end(block)
        totals = [
            cgutils.alloca_once_value(builder, build_load(builder, base, INDEX(row * LANES))) for row in range(size)
        ]
        for count, first in ((linear, INDEX(0)), (rectified, linear)):

            def terms(column, first=first, size=size):
                column = builder.add(column, first)
                value = build_load(builder, inputs, builder.mul(column, inputs_stride))
                value = build_above_zero(builder, value) if first is linear else value
                for row in range(size):
                    at = builder.add(builder.mul(column, matrix_stride), INDEX(row))
                    yield build_spread(builder, builder.load(builder.gep(matrix, [at]))), value

            _accumulate(builder, count, totals, terms)
        for row, register in enumerate(totals):
            build_store(builder, outputs, builder.mul(INDEX(row), outputs_stride), builder.load(register))
        builder.branch(done)
    builder.position_at_end(done)


@operation(nothing)
def add_outer_tile(builder, num_steps, left, right, stride, sums):
    """sums[ROWS r + c] += sum over steps s of left[s, r] right[s, c], for ROWS r and ROWS c."""
    width = ROWS if _bits(left) * LANES <= REGISTER_BITS else ROWS // 2  # what the registers hold
    for first_row in range(0, ROWS, width):
        for first_column in range(0, ROWS, width):
            rows, columns = (range(n, n + width) for n in (first_row, first_column))
            places = [INDEX((ROWS * row + column) * LANES) for row in rows for column in columns]
            totals = [cgutils.alloca_once_value(builder, build_load(builder, sums, place)) for place in places]

            def terms(step, rows=rows, columns=columns):
                at = builder.mul(step, stride)
                a = [build_load(builder, left, builder.add(at, INDEX(row * LANES))) for row in rows]
                b = [build_load(builder, right, builder.add(at, INDEX(column * LANES))) for column in columns]
                return [(x, y) for x in a for y in b]

            _accumulate(builder, num_steps, totals, terms)
            for place, register in zip(places, totals, strict=True):
                build_store(builder, sums, place, builder.load(register))
