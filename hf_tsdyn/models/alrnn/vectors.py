"""A numba type of `LANES` numbers in the processor's vector registers, and the two small products of the AL-RNN kernels.

numba's own loops over lanes keep every intermediate number in memory; here a value of type `Vector` is one of LLVM's
vectors. numba's disk cache does not watch this file: after a change, touch the file of the kernels that use it.
"""

from __future__ import annotations

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
ROWS = 4
"""Tiles of a product have a multiple of so many rows."""
_REGISTER_BITS = 512 if binding.get_host_cpu_features().get("avx512f", False) else 256
_INDEX, _SMALL = ir.IntType(64), ir.IntType(32)


class Vector(types.Type):
    """`LANES` numbers of one floating-point type."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, _vector(kind.dtype))


def _vector(dtype: types.Float) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType(), LANES)


def largest_tile(bits: int) -> int:
    """Return how many rows of numbers of `bits` bits the registers hold beside the operands of a product."""
    return 24 * 32 // bits if _REGISTER_BITS == 512 else ROWS


def _spread(builder, number):
    """Build a vector with one number in every lane."""
    nothing = ir.VectorType(number.type, LANES)(ir.Undefined)
    first = builder.insert_element(nothing, number, _SMALL(0))
    return builder.shuffle_vector(first, nothing, ir.VectorType(_SMALL, LANES)([0] * LANES))


def _multiply_add(builder, a, b, c):
    """Build a b + c, in one rounding where the processor can."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def _above_zero(builder, vector):
    """Build the rectified vector; NaN stays."""
    zero = vector.type(None)
    return builder.select(builder.fcmp_ordered("<", vector, zero), zero, vector)


@intrinsic
def pointer(typing, address, example):
    """The address as that of numbers of the example's type."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(example)(address, example), generate


@intrinsic
def shift(typing, place, count):
    """The place so many numbers further on."""
    return place(place, types.int64), lambda context, builder, signature, arguments: builder.gep(arguments[0], [arguments[1]])


@intrinsic
def read(typing, place, at):
    """One number."""

    def generate(context, builder, signature, arguments):
        return builder.load(builder.gep(arguments[0], [arguments[1]]))

    return place.dtype(place, types.int64), generate


@intrinsic
def write(typing, place, at, number):
    """Write one number."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], builder.gep(arguments[0], [arguments[1]]))
        return context.get_dummy_value()

    return types.void(place, types.int64, place.dtype), generate


def _load(builder, place, at):
    """Build the vector of `LANES` neighbours."""
    number = place.type.pointee
    address = builder.bitcast(builder.gep(place, [at]), ir.VectorType(number, LANES).as_pointer())
    return builder.load(address, align=4 if isinstance(number, ir.FloatType) else 8)


def _store(builder, place, at, vector) -> None:
    number = place.type.pointee
    address = builder.bitcast(builder.gep(place, [at]), vector.type.as_pointer())
    builder.store(vector, address, align=4 if isinstance(number, ir.FloatType) else 8)


@intrinsic
def load(typing, place, at):
    """`LANES` neighbours."""
    signature = Vector(place.dtype)(place, types.int64)
    return signature, lambda context, builder, signature, arguments: _load(builder, *arguments)


@intrinsic
def store(typing, place, at, vector):
    """Write `LANES` neighbours."""

    def generate(context, builder, signature, arguments):
        _store(builder, *arguments)
        return context.get_dummy_value()

    return types.void(place, types.int64, vector), generate


@intrinsic
def clear(typing, place, at):
    """Write `LANES` zeros."""

    def generate(context, builder, signature, arguments):
        _store(builder, *arguments, ir.VectorType(arguments[0].type.pointee, LANES)(None))
        return context.get_dummy_value()

    return types.void(place, types.int64), generate


def _clamped(builder, lane: int, at, stride, last):
    lane = builder.select(builder.icmp_signed("<", _INDEX(lane), last), _INDEX(lane), last)
    return builder.add(at, builder.mul(lane, stride))


@intrinsic
def gather(typing, place, at, stride, last):
    """Numbers `stride` apart; lanes past `last` repeat that one."""

    def generate(context, builder, signature, arguments):
        place, at, stride, last = arguments
        vector = ir.VectorType(place.type.pointee, LANES)(ir.Undefined)
        for lane in range(LANES):
            number = builder.load(builder.gep(place, [_clamped(builder, lane, at, stride, last)]))
            vector = builder.insert_element(vector, number, _SMALL(lane))
        return vector

    return Vector(place.dtype)(place, types.int64, types.int64, types.int64), generate


@intrinsic
def scatter(typing, source, source_at, place, at, stride, last):
    """Write the lanes at `source_at`, up to `last`, so many numbers apart."""

    def generate(context, builder, signature, arguments):
        source, source_at, place, at, stride, last = arguments
        for lane in reversed(range(LANES)):  # those past `last` are written over
            number = builder.load(builder.gep(source, [builder.add(source_at, _INDEX(lane))]))
            builder.store(number, builder.gep(place, [_clamped(builder, lane, at, stride, last)]))
        return context.get_dummy_value()

    whole = types.int64
    return types.void(source, whole, place, whole, whole, whole), generate


def _transposed(builder, vectors: list) -> list:
    """Build the transpose of `LANES` vectors by swapping blocks of half the size in each round."""
    nothing, width = vectors[0].type(ir.Undefined), LANES // 2
    while width:
        lanes = range(LANES)
        upper = ir.VectorType(_SMALL, LANES)([lane if not lane & width else LANES + lane - width for lane in lanes])
        lower = ir.VectorType(_SMALL, LANES)([lane + width if not lane & width else LANES + lane for lane in lanes])
        following = [nothing] * LANES
        for row in range(LANES):
            if not row & width:
                pair = vectors[row], vectors[row + width]
                following[row] = builder.shuffle_vector(*pair, upper)
                following[row + width] = builder.shuffle_vector(*pair, lower)
        vectors, width = following, width // 2
    return vectors


@intrinsic
def transpose(typing, source, source_at, source_stride, source_last, place, at, stride, last):
    """Write the transpose of `LANES` rows of `LANES` numbers; rows past `source_last` repeat it, past `last` are left."""

    def generate(context, builder, signature, arguments):
        source, source_at, source_stride, source_last, place, at, stride, last = arguments
        places = [_clamped(builder, lane, source_at, source_stride, source_last) for lane in range(LANES)]
        vectors = _transposed(builder, [_load(builder, source, place) for place in places])
        for lane in reversed(range(LANES)):  # those past `last` are written over
            _store(builder, place, _clamped(builder, lane, at, stride, last), vectors[lane])
        return context.get_dummy_value()

    whole = types.int64
    return types.void(source, whole, whole, whole, place, whole, whole, whole), generate


_IS_X86 = binding.get_process_triple().startswith(("x86_64", "i686"))
_FLUSH = 0x8040
"""Bits of the control register of x86: subnormal results become 0, subnormal operands count as 0."""


def _control(builder, name: str, slot) -> None:
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [ir.PointerType()]), f"llvm.x86.sse.{name}"
    )
    builder.call(function, [slot])


@intrinsic
def flush_subnormals(typing):
    """Let numbers below the smallest normal one count as 0 from here on, and return what `restore` needs.

    x86 takes a hundred times as long for them, and gradients through a unit at rest decay into them.
    """

    def generate(context, builder, signature, arguments):
        slot = cgutils.alloca_once_value(builder, _SMALL(0))
        if _IS_X86:
            _control(builder, "stmxcsr", slot)
            before = builder.load(slot)
            builder.store(builder.or_(before, _SMALL(_FLUSH)), slot)
            _control(builder, "ldmxcsr", slot)
            builder.store(before, slot)
        return builder.load(slot)

    return types.int32(), generate


@intrinsic
def restore(typing, control):
    """Undo `flush_subnormals`."""

    def generate(context, builder, signature, arguments):
        if _IS_X86:
            _control(builder, "ldmxcsr", cgutils.alloca_once_value(builder, arguments[0]))
        return context.get_dummy_value()

    return types.void(types.int32), generate


@intrinsic
def spread(typing, number):
    """One number in every lane."""
    return Vector(number)(number), lambda context, builder, signature, arguments: _spread(builder, *arguments)


@intrinsic
def multiply_add(typing, a, b, c):
    """a b + c"""
    return a(a, b, c), lambda context, builder, signature, arguments: _multiply_add(builder, *arguments)


@intrinsic
def add(typing, a, b):
    """a + b"""
    return a(a, b), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def above_zero(typing, vector):
    """Each lane if it is not below 0, else 0."""
    return vector(vector), lambda context, builder, signature, arguments: _above_zero(builder, *arguments)


@intrinsic
def below_zero(typing, vector):
    """Each lane if it is not above 0, else 0."""

    def generate(context, builder, signature, arguments):
        (vector,) = arguments
        zero = vector.type(None)
        return builder.select(builder.fcmp_ordered(">", vector, zero), zero, vector)

    return vector(vector), generate


@intrinsic
def where_positive(typing, condition, a, b):
    """`a` in lanes where the condition is above 0, `b` elsewhere."""

    def generate(context, builder, signature, arguments):
        condition, a, b = arguments
        return builder.select(builder.fcmp_ordered(">", condition, condition.type(None)), a, b)

    return a(condition, a, b), generate


@intrinsic
def pull(typing, vector, towards, share):
    """vector + share (towards - vector); lanes whose share is 0 take no notice of `towards`."""

    def generate(context, builder, signature, arguments):
        vector, towards, share = arguments
        pulled = _multiply_add(builder, share, builder.fsub(towards, vector), vector)
        return builder.select(builder.fcmp_unordered("!=", share, share.type(None)), pulled, vector)

    return vector(vector, towards, share), generate


@intrinsic
def release(typing, vector, share):
    """(1 - share) vector"""

    def generate(context, builder, signature, arguments):
        vector, share = arguments
        return builder.fsub(vector, builder.fmul(share, vector, flags=("contract",)), flags=("contract",))

    return vector(vector, share), generate


@intrinsic
def where_real(typing, vector, last):
    """Lanes up to `last`, 0 in those past it."""

    def generate(context, builder, signature, arguments):
        vector, last = arguments
        lanes = ir.VectorType(_INDEX, LANES)(list(range(LANES)))
        return builder.select(builder.icmp_signed("<=", lanes, _spread(builder, last)), vector, vector.type(None))

    return vector(vector, types.int64), generate


@intrinsic
def total(typing, vector):
    """The sum over lanes, by halves."""

    def generate(context, builder, signature, arguments):
        (vector,) = arguments
        width = LANES
        while width > 1:
            width //= 2
            first, second = (ir.VectorType(_SMALL, width)(list(range(n, n + width))) for n in (0, width))
            nothing = vector.type(ir.Undefined)
            vector = builder.fadd(
                builder.shuffle_vector(vector, nothing, first), builder.shuffle_vector(vector, nothing, second)
            )
        return builder.extract_element(vector, _SMALL(0))

    return vector.dtype(vector), generate
