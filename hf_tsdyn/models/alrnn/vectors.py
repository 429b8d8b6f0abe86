"""Vectors of `LANES` numbers in compiled code.

numba's own loops over lanes keep every intermediate number in memory; here a value of type `Vector` is one of LLVM's
vectors, and memory is a `place`, a pointer to numbers. Every operation below works inside compiled functions alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from hf_tsdyn.models.alrnn.recurrence import LANES

INDEX, SMALL = ir.IntType(64), ir.IntType(32)
_IS_X86 = binding.get_process_triple().startswith(("x86_64", "i686"))
_FLUSH = 0x8040
"""Bits of the control register of x86: subnormal results become 0, subnormal operands count as 0."""


class Vector(types.Type):
    """`LANES` numbers of one floating-point type."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        number = ir.FloatType() if kind.dtype.bitwidth == 32 else ir.DoubleType()
        super().__init__(manager, kind, ir.VectorType(number, LANES))


def operation(result: Callable[..., types.Type]) -> Callable[[Callable], Any]:
    """Make `build(builder, *values)`, which adds LLVM's instructions to a builder, callable from compiled functions.

    Args:
        result: type of what it returns, from the types of the values.
    """

    def decorate(build: Callable) -> Any:
        @wraps(build)
        def typed(typing, *kinds):
            def generate(context, builder, signature, arguments):
                value = build(builder, *arguments)
                return context.get_dummy_value() if value is None else value

            return result(*kinds)(*kinds), generate

        return intrinsic(typed)

    return decorate


def _first(kind: types.Type, *_: types.Type) -> types.Type:
    return kind


def _number(kind: Vector | types.CPointer, *_: types.Type) -> types.Type:
    return kind.dtype


def _vector(place: types.CPointer, *_: types.Type) -> types.Type:
    return Vector(place.dtype)


def nothing(*_: types.Type) -> types.Type:
    """Return the result type of an operation that returns nothing."""
    return types.void


def _indices(lanes) -> ir.Constant:
    lanes = list(lanes)
    return ir.VectorType(SMALL, len(lanes))(lanes)


def _neighbours(builder, place, at):
    """Return the address of `LANES` neighbours and the alignment of one."""
    number = place.type.pointee
    address = builder.bitcast(builder.gep(place, [at]), ir.VectorType(number, LANES).as_pointer())
    return address, 4 if isinstance(number, ir.FloatType) else 8


def build_load(builder, place, at):
    """Build a read of `LANES` neighbours."""
    address, align = _neighbours(builder, place, at)
    return builder.load(address, align=align)


def build_store(builder, place, at, vector) -> None:
    """Build a write of `LANES` neighbours."""
    address, align = _neighbours(builder, place, at)
    builder.store(vector, address, align=align)


def build_spread(builder, number):
    """Build a vector with one number in every lane."""
    none = ir.VectorType(number.type, LANES)(ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(none, number, SMALL(0)), none, _indices([0] * LANES))


def build_multiply_add(builder, a, b, c):
    """Build a b + c, in one rounding where the processor can."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def build_above_zero(builder, vector):
    """Build the lanes that are not below 0, NaN among them, with 0 for the others."""
    zero = vector.type(None)
    return builder.select(builder.fcmp_ordered("<", vector, zero), zero, vector)


load = operation(_vector)(build_load)
store = operation(nothing)(build_store)
spread = operation(Vector)(build_spread)
multiply_add = operation(_first)(build_multiply_add)
above_zero = operation(_first)(build_above_zero)


@operation(lambda address, example: types.CPointer(example))
def pointer(builder, address, example):
    """Return the place of numbers of the example's type at an address."""
    return builder.inttoptr(address, example.type.as_pointer())


@operation(_first)
def shift(builder, place, count):
    """Return the place so many numbers further on."""
    return builder.gep(place, [count])


@operation(_number)
def read(builder, place, at):
    """Return one number."""
    return builder.load(builder.gep(place, [at]))


@operation(nothing)
def write(builder, place, at, number):
    """Write one number."""
    builder.store(number, builder.gep(place, [at]))


@operation(nothing)
def clear(builder, place, at):
    """Write `LANES` zeros."""
    build_store(builder, place, at, ir.VectorType(place.type.pointee, LANES)(None))


def _clamped(builder, lane: int, at, stride, last):
    lane = builder.select(builder.icmp_signed("<", INDEX(lane), last), INDEX(lane), last)
    return builder.add(at, builder.mul(lane, stride))


@operation(_vector)
def gather(builder, place, at, stride, last):
    """Return numbers `stride` apart; lanes past `last` repeat that one."""
    vector = ir.VectorType(place.type.pointee, LANES)(ir.Undefined)
    for lane in range(LANES):
        number = builder.load(builder.gep(place, [_clamped(builder, lane, at, stride, last)]))
        vector = builder.insert_element(vector, number, SMALL(lane))
    return vector


@operation(nothing)
def scatter(builder, source, source_at, place, at, stride, last):
    """Write the lanes at `source_at`, up to `last`, so many numbers apart."""
    for lane in reversed(range(LANES)):  # those past `last` are written over
        number = builder.load(builder.gep(source, [builder.add(source_at, INDEX(lane))]))
        builder.store(number, builder.gep(place, [_clamped(builder, lane, at, stride, last)]))


@operation(nothing)
def transpose(builder, source, source_stride, source_last, place, stride, last):
    """Write the transpose of `LANES` rows of `LANES` numbers.

    Rows of the source past `source_last` repeat that one; rows past `last` are not written.
    """
    zero = INDEX(0)
    rows = [
        build_load(builder, source, _clamped(builder, row, zero, source_stride, source_last)) for row in range(LANES)
    ]
    width = LANES // 2
    while width:  # swap blocks off the diagonal, each round in blocks of half the size
        for row in (row for row in range(LANES) if not row & width):
            pair = rows[row], rows[row + width]
            upper = (lane if not lane & width else LANES + lane - width for lane in range(LANES))
            lower = (lane + width if not lane & width else LANES + lane for lane in range(LANES))
            rows[row] = builder.shuffle_vector(*pair, _indices(upper))
            rows[row + width] = builder.shuffle_vector(*pair, _indices(lower))
        width //= 2
    for row in reversed(range(LANES)):  # those past `last` are written over
        build_store(builder, place, _clamped(builder, row, zero, stride, last), rows[row])


@operation(_first)
def add(builder, a, b):
    """Return a + b."""
    return builder.fadd(a, b)


@operation(_first)
def below_zero(builder, vector):
    """Return the lanes that are not above 0, with 0 for the others."""
    zero = vector.type(None)
    return builder.select(builder.fcmp_ordered(">", vector, zero), zero, vector)


@operation(_first)
def where_positive(builder, condition, a, b):
    """Return `a` in lanes where the condition is above 0, `b` elsewhere."""
    return builder.select(builder.fcmp_ordered(">", condition, condition.type(None)), a, b)


@operation(_first)
def pull(builder, vector, towards, share):
    """Return vector + share (towards - vector); a lane whose share is 0 takes no notice of `towards`."""
    pulled = build_multiply_add(builder, share, builder.fsub(towards, vector), vector)
    return builder.select(builder.fcmp_unordered("!=", share, share.type(None)), pulled, vector)


@operation(_first)
def release(builder, vector, share):
    """Return (1 - share) vector."""
    return builder.fsub(vector, builder.fmul(share, vector, flags=("contract",)), flags=("contract",))


@operation(_first)
def where_real(builder, vector, last):
    """Return lanes up to `last`, with 0 for those past it."""
    lanes = ir.VectorType(INDEX, LANES)(list(range(LANES)))
    return builder.select(builder.icmp_signed("<=", lanes, build_spread(builder, last)), vector, vector.type(None))


@operation(_number)
def total(builder, vector):
    """Return the sum over lanes, by halves."""
    width = LANES
    while width > 1:
        width //= 2
        none = vector.type(ir.Undefined)
        halves = (builder.shuffle_vector(vector, none, _indices(range(n, n + width))) for n in (0, width))
        vector = builder.fadd(*halves)
    return builder.extract_element(vector, SMALL(0))


def _control(builder, name: str, slot) -> None:
    kind = ir.FunctionType(ir.VoidType(), [ir.PointerType()])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}"), [slot])


@operation(lambda: types.int32)
def flush_subnormals(builder):
    """Let numbers below the smallest normal one count as 0 from here on, and return what `restore` needs.

    x86 takes a hundred times as long for them, and gradients through a unit at rest decay into them.
    """
    slot = cgutils.alloca_once_value(builder, SMALL(0))
    if _IS_X86:
        _control(builder, "stmxcsr", slot)
        before = builder.load(slot)
        builder.store(builder.or_(before, SMALL(_FLUSH)), slot)
        _control(builder, "ldmxcsr", slot)
        builder.store(before, slot)
    return builder.load(slot)


@operation(nothing)
def restore(builder, control):
    """Undo `flush_subnormals`."""
    if _IS_X86:
        _control(builder, "ldmxcsr", cgutils.alloca_once_value(builder, control))
