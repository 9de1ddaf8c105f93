"""Narrow numbers in words of 32 bits, and the instruction that multiplies two words number by number and adds the products to a sum.

    bfloat16   two numbers a word, a sum in float32
    int8       four numbers a word, a sum in int32; where the machine has no such instruction two, widened to 16 bits

The numbers of a word are neighbours along k. So a product of narrow numbers is a product of words, with the tile of `tile.py`
(`Strip`) and one fused instruction for another. Here are that instruction, for each tier, and the ways into words:

    numbers that lie in line along k are loaded as they are;
    of numbers that lie in line across k, as many vectors as a word has numbers are zipped.

A square of words, as wide as a vector, is turned over in registers where it is wanted the other way round.

Source of the instructions' exact meaning: Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 2 (VPDPBUSD, PMADDWD,
VDPBF16PS, VCVTNE2PS2BF16).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.features import has, of_machine, tier
from kernels.cpu.tile import Strip, transposed
from kernels.cpu.vector import BYTE, INT, Vectors, loop

WORD = ir.IntType(32)
QUADS = has("avx512vnni") or (tier() == "avx2" and has("avxvnni"))  # four int8 a word
BFLOAT16 = has("avx512bf16")
MADD = {128: "sse2.pmadd.wd", 256: "avx2.pmadd.wd", 512: "avx512.pmaddw.d.512"} if of_machine().get("sse2") else {}


class Words(Vectors):
    """Vectors of words. Their type is that of a sum; what a word holds follows from it: int8 under int32, bfloat16 under float32."""

    def __init__(self, builder: Any, element: Any, parts: int = 1):
        super().__init__(builder, element, parts)
        self.words = ir.VectorType(WORD, self.lanes)
        self.group = 4 if self.whole and QUADS else 2  # numbers in a word

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """c plus the products of the numbers of a and b. Of four int8, those of a count as unsigned, those of b as signed."""
        if self.whole and QUADS:
            return self._call(f"avx512.vpdpbusd.{8 * self.bytes}", self.type, c, a, b)
        if self.whole and 8 * self.bytes in MADD:
            halves = ir.VectorType(ir.IntType(16), 2 * self.lanes)
            a, b = [self.builder.bitcast(x, halves) for x in (a, b)]
            return self.builder.add(c, self._call(MADD[8 * self.bytes], self.type, a, b))
        a, b = [self.builder.bitcast(x, self.words) for x in (a, b)]
        if not self.whole and BFLOAT16:
            return self._call(f"avx512bf16.dpbf16ps.{8 * self.bytes}", self.type, c, a, b)
        for x, y in zip(self._parted(a), self._parted(b), strict=True):
            c = self.builder.add(c, self.builder.mul(x, y)) if self.whole else super().fused(x, y, c)
        return c

    def _parted(self, words: Any) -> list[Any]:
        """The lower and the upper number of each word, as wide as a sum."""
        low, high = self.builder.shl(words, self._all(16)), words
        if self.whole:
            return [self.builder.ashr(x, self._all(16)) for x in (low, high)]
        return [self.builder.bitcast(x, self.type) for x in (low, self.builder.and_(high, self._all(0xFFFF0000)))]

    def _all(self, number: int) -> Any:
        return ir.Constant(self.words, [number] * self.lanes)

    def _call(self, name: str, result: Any, *values: Any) -> Any:
        kind = ir.FunctionType(result, [value.type for value in values])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.x86.{name}"), values)

    # Into words.

    def along(self, place: Any, flip: Any) -> Any:
        """A vector of words from numbers that lie in line. `flip`: see `square`."""
        if not self.whole:
            return self._pairs(*[self.load(self.plus(place, x * self.bytes)) for x in range(2)], zipped=False)
        return self._signed(self._bytes(place, self.group * self.lanes), flip)

    def across(self, places: list[Any], flip: Any) -> Any:
        """A vector of words from one number at each of so many places, and from those beside them."""
        if not self.whole:
            return self._pairs(*[self.load(place) for place in places], zipped=True)
        lines = [self._bytes(place, self.lanes) for place in places]
        while len(lines) > 1:
            lines = [self.pick(a, b, range(2 * a.type.count)) for a, b in zip(lines[::2], lines[1::2], strict=True)]
        numbers = self.pick(*lines * 2, [x * self.lanes + i for i in range(self.lanes) for x in range(self.group)])
        return self._signed(numbers, flip)

    def _bytes(self, place: Any, count: int) -> Any:
        found = self.builder.load(self.pointer(place, ir.VectorType(BYTE, count)))
        found.align = 1
        return found

    def _signed(self, numbers: Any, flip: Any) -> Any:
        """Words of int8, made unsigned by adding `flip`; of two a word it is taken off again when they are wide enough."""
        numbers = self.builder.xor(numbers, self._spread(self.builder.trunc(flip, BYTE), numbers.type))
        if self.group == 2:
            wide = ir.VectorType(ir.IntType(16), numbers.type.count)
            numbers = self.builder.sub(self.builder.zext(numbers, wide), self._spread(self.builder.trunc(flip, wide.element), wide))
        return self.builder.bitcast(numbers, self.words)

    def _pairs(self, a: Any, b: Any, *, zipped: bool) -> Any:
        """Two vectors of float32, rounded, as one of words: word after word, or lane by lane."""
        order = [x for i in range(self.lanes) for x in (i, self.lanes + i)]
        if BFLOAT16:
            halves = ir.VectorType(ir.IntType(16), 2 * self.lanes)
            both = self._call(f"avx512bf16.cvtne2ps2bf16.{8 * self.bytes}", halves, b, a)
            return self.builder.bitcast(self.pick(both, both, order) if zipped else both, self.words)
        a, b = [self._rounded(x) for x in (a, b)]
        if not zipped:
            a, b = [self.pick(a, b, range(start, 2 * self.lanes, 2)) for start in (0, 1)]
        return self.builder.or_(self.builder.lshr(a, self._all(16)), b)

    def _rounded(self, numbers: Any) -> Any:
        """float32 to the nearest bfloat16, to the even one of two; in the upper half of a word. As the instruction has it: nan stays nan,
        what is below the smallest normal number becomes 0."""
        builder = self.builder
        bits = builder.bitcast(numbers, self.words)
        size = builder.and_(bits, self._all(0x7FFFFFFF))
        odd = builder.and_(builder.lshr(bits, self._all(16)), self._all(1))
        near = builder.add(builder.add(bits, odd), self._all(0x7FFF))
        near = builder.select(builder.icmp_unsigned(">", size, self._all(0x7F800000)), builder.or_(bits, self._all(0x400000)), near)
        near = builder.select(builder.icmp_unsigned("<", size, self._all(0x800000)), builder.and_(bits, self._all(0x80000000)), near)
        return builder.and_(near, self._all(0xFFFF0000))


@intrinsic
def numbers_in_a_word(typing: Any, like: Any) -> Any:
    """How many numbers of a factor a word holds, if sums are like this; known when it is compiled."""
    return types.int64(like), lambda context, builder, signature, values: INT(Words(builder, context.get_value_type(like)).group)


@intrinsic(prefer_literal=True)
def word_tiles(
    typing: Any, rows: Any, vecs: Any, parts: Any, like: Any, a: Any, b: Any, c: Any, a_i: Any, b_p: Any, c_i: Any, sizes: Any, add: Any
) -> Any:
    """A strip of c, `vecs` vectors wide, tile by tile downwards, as `tile.tiles`; a and b hold words, and k counts them.

    a_i     bytes from one row of a to the next; the words of a row lie in line
    b       the row before its first one holds what the sums start from
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Words(builder, context.get_value_type(signature.args[3]), parts.literal_value)
        _, _, _, _, a, b, c, a_i, b_p, c_i, sizes, add = values
        m, k, n = [builder.extract_value(sizes, x) for x in range(3)]
        a_tile = builder.mul(a_i, INT(rows.literal_value))
        strip = Strip(v, rows.literal_value, vecs.literal_value, a, a_i, INT(v.size), a_tile, b, b_p, c, c_i, k, n, add)
        strip.starts = [v.load(v.plus(builder.sub(b, b_p), x * v.bytes)) for x in range(strip.vecs)]
        strip.downwards(m)
        return context.get_dummy_value()

    return types.void(rows, vecs, parts, like, a, b, c, a_i, b_p, c_i, sizes, add), code


@intrinsic
def starts(typing: Any, like: Any, shift: Any, panel: Any, step: Any, k: Any) -> Any:
    """The row before a panel: what the sums of its columns start from, so that `shift` is taken off every number of a.

        start[j] = - shift * (sum over p of b[p, j])

    The panel is two vectors wide and has k rows of words; shift is 0 for bfloat16.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Words(builder, context.get_value_type(signature.args[0]))
        _, shift, panel, step, k = values
        for x in range(2):
            place, start = v.plus(panel, x * v.bytes), v.zero
            if v.whole:
                ones = ir.Constant(v.words, [0x01010101 if v.group == 4 else 0x00010001] * v.lanes)

                def row(_: Any, b: Any, total: Any, ones: Any = ones) -> list[Any]:
                    return [builder.add(b, step), v.fused(ones, v.load(b), total)]

                count = builder.select(builder.icmp_signed("==", shift, INT(0)), INT(0), k)
                _, (_, total) = loop(builder, count, [place, v.zero], row)
                start = builder.mul(total, v._spread(builder.trunc(builder.neg(shift), WORD), v.words))
            v.store(start, builder.sub(place, step))
        return context.get_dummy_value()

    return types.void(like, shift, panel, step, k), code


@intrinsic(prefer_literal=True)
def square(typing: Any, along: Any, turned: Any, like: Any, source: Any, step: Any, flip: Any, target: Any, target_step: Any) -> Any:
    """Numbers to a square of words, as wide as a vector.

    along        a literal: do the numbers of a line lie side by side? Else it is the lines that do
    turned       a literal: is a line of words to become a column?
    source, step    of the first number, and bytes from one line to the next; or, if lines lie side by side, from one number to the next
    flip         of int8: 128 is added to a number, which is then unsigned (four a word); or 128 for signed, 0 for unsigned (two a word)
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Words(builder, context.get_value_type(signature.args[2]))
        _, _, _, source, step, flip, target, target_step = values

        def place(number: int) -> Any:
            return builder.add(source, builder.mul(step, INT(number)))

        if along.literal_value:
            rows = [v.along(place(line), flip) for line in range(v.lanes)]
        else:
            rows = [v.across([place(word * v.group + x) for x in range(v.group)], flip) for word in range(v.lanes)]
        whole = Vectors(builder, WORD)
        for x, row in enumerate(transposed(whole, rows) if turned.literal_value == along.literal_value else rows):
            whole.store(row, builder.add(target, builder.mul(target_step, INT(x))))
        return context.get_dummy_value()

    return types.void(along, turned, like, source, step, flip, target, target_step), code


@intrinsic
def zipped(typing: Any, like: Any, lines: Any, source: Any, flip: Any, target: Any) -> Any:
    """A vector of words from int8 that lie in line across k, at offsets from `source`: `lines` is the address of the first of them."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v = Words(builder, context.get_value_type(signature.args[0]))
        _, lines, source, flip, target = values
        offsets = [builder.load(v.pointer(v.plus(lines, 8 * x), INT)) for x in range(v.group)]
        Vectors(builder, WORD).store(v.across([builder.add(source, offset) for offset in offsets], flip), target)
        return context.get_dummy_value()

    return types.void(like, lines, source, flip, target), code


@intrinsic
def clear(typing: Any, target: Any, size: Any) -> Any:
    """Zeros, in so many bytes."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], BYTE.as_pointer())
        cgutils.memset(builder, pointer, values[1], 0)
        return context.get_dummy_value()

    return types.void(target, size), code


@intrinsic
def copy_lines(typing: Any, source: Any, source_step: Any, target: Any, target_step: Any, lines: Any, size: Any) -> Any:
    """Lines of so many bytes each."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        source, source_step, target, target_step, lines, size = values

        def line(_: Any, here: Any, there: Any) -> list[Any]:
            cgutils.raw_memcpy(builder, *[builder.inttoptr(x, BYTE.as_pointer()) for x in (there, here)], size, 1)
            return [builder.add(here, source_step), builder.add(there, target_step)]

        loop(builder, lines, [source, target], line)
        return context.get_dummy_value()

    return types.void(source, source_step, target, target_step, lines, size), code
