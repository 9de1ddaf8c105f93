"""Huffman codes: exact both ways, as short as any code can be, and told by their lengths."""

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.huffman import LIMIT, code_lengths, codes, decode, encode, entropy, size

RNG = np.random.default_rng(4)
COUNTS = st.lists(st.integers(0, 50) | st.integers(0, 10**6), min_size=1, max_size=40).filter(any)


def smallest_size(counts):
    """Huffman's own way: the two rarest become one, whose count is what a bit in front of both costs."""
    heap = [c for c in counts if c]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        total += both
        heapq.heappush(heap, both)
    return total


def smallest_limited_size(counts, limit):
    """All lengths that Kraft's inequality admits, tried one after the other."""
    sizes = [
        np.dot(counts, lengths)
        for lengths in itertools.product(range(1, limit + 1), repeat=len(counts))
        if sum(2.0**-length for length in lengths) <= 1
    ]
    return min(sizes)


# Laws. Each takes what makes a code of counts, so that a broken one can be held against it.


def law_of_the_smallest(make, counts):
    assert size(counts, make(counts)) == smallest_size(counts)


def law_of_entropy(make, counts):
    mean = size(counts, make(counts)) / sum(counts)
    assert entropy(counts) - 1e-12 <= mean < entropy(counts) + 1


def law_of_kraft(make, counts):
    lengths = make(counts)
    assert [bool(length) for length in lengths] == [bool(c) for c in counts]
    used = lengths[lengths > 0].astype(float)
    assert len(used) == 1 or np.sum(2.0**-used) == 1


LAWS = [law_of_the_smallest, law_of_entropy, law_of_kraft]


@given(COUNTS)
def test_codes_are_as_short_as_they_can_be(counts):
    for law in LAWS:
        law(lambda c: code_lengths(c, limit=40), counts)


@pytest.mark.parametrize(
    "law, broken",
    [
        (law_of_the_smallest, lambda c: np.full(len(c), 3, np.uint8)),  # eight symbols, whatever their counts
        (law_of_the_smallest, lambda c: code_lengths(c[::-1], limit=40)),
        (law_of_entropy, lambda c: code_lengths(c, limit=40) - 1),
        (law_of_entropy, lambda c: code_lengths(c, limit=40) + 1),
        (law_of_kraft, lambda c: code_lengths(c, limit=40) + 1),
    ],
)
def test_a_broken_code_breaks_its_law(law, broken):
    with pytest.raises(AssertionError):
        law(broken, [40, 1, 2, 3, 500, 5, 5, 8])


@pytest.mark.parametrize("limit", [2, 3, 4])
def test_a_limit_costs_as_little_as_it_can(limit):
    for _ in range(20):
        counts = RNG.integers(1, 200, RNG.integers(2, min(2**limit, 5) + 1)) ** 2
        lengths = code_lengths(counts, limit)
        assert lengths.max() <= limit
        assert size(counts, lengths) == smallest_limited_size(counts, limit)


def test_fibonacci_counts_reach_the_limit():
    counts = [1, 1]
    while len(counts) < 40:
        counts.append(counts[-1] + counts[-2])
    assert code_lengths(counts, limit=64).max() == 39
    lengths = code_lengths(counts)
    assert lengths.max() == LIMIT
    law_of_kraft(code_lengths, counts)


@given(COUNTS)
def test_no_code_begins_another(counts):
    lengths = code_lengths(counts)
    words = [f"{code:0{length}b}" for code, length in zip(codes(lengths), lengths, strict=True) if length]
    assert sorted(words) == [w for _, w in sorted(zip(lengths[lengths > 0], words, strict=True), key=lambda pair: pair[0])]  # canonical
    assert not any(b.startswith(a) for a, b in itertools.pairwise(sorted(words)))


@given(st.lists(st.integers(0, 300), max_size=200), st.sampled_from([np.uint8, np.int16, np.int64]))
def test_what_is_encoded_is_decoded(symbols, dtype):
    x = np.array(symbols).astype(dtype)
    lengths, bits = encode(x)
    assert lengths.dtype == bits.dtype == np.uint8
    assert decode(lengths, bits, len(x)).tolist() == x.tolist()
    assert len(bits) == -(-size(np.bincount(x.astype(np.intp)), lengths) // 8)


@pytest.mark.parametrize(
    "symbols",
    [
        np.minimum(RNG.geometric(0.08, 500_000) - 1, 255),
        np.clip(np.rint(RNG.normal(16, 4, 300_000)), 0, 31).astype(np.uint8),
        np.repeat(np.arange(25), 2 ** np.arange(25) // 2**6),  # more skewed than the limit allows
        RNG.integers(0, 2**LIMIT, 100_000),
        np.array([1, 3, 2, 3]).reshape(2, 2)[:, ::-1],
    ],
    ids=["gaps", "codes", "skewed", "the largest alphabet", "strided"],
)
def test_long_ones(symbols):
    lengths, bits = encode(symbols)
    assert np.array_equal(decode(lengths, bits, symbols.size), symbols.reshape(-1))


def test_the_first_bit_is_the_highest():
    lengths, bits = encode([2, 0, 0, 1, 0])  # codes 0 -> 0, 1 -> 10, 2 -> 11
    assert lengths.tolist() == [1, 2, 2]
    assert np.unpackbits(bits).tolist() == [1, 1, 0, 0, 1, 0, 0, 0]


def test_one_symbol_alone_takes_no_bits():
    lengths, bits = encode([3] * 7)
    assert lengths.tolist() == [0, 0, 0, 1] and len(bits) == 0
    assert decode(lengths, bits, 7).tolist() == [3] * 7
    assert entropy([0, 0, 0, 7]) == size([0, 0, 0, 7], lengths) == 0


def test_nothing_at_all():
    lengths, bits = encode([])
    assert len(lengths) == len(bits) == 0
    assert decode(lengths, bits, 0).tolist() == []
    assert entropy([]) == 0


@settings(max_examples=200)
@given(st.binary(max_size=12), st.lists(st.integers(0, 255), max_size=8), st.integers(0, 40))
def test_any_bits_decode_or_are_refused(bits, lengths, count):
    try:
        symbols = decode(np.uint8(lengths), np.frombuffer(bits, np.uint8), count)
    except ValueError as e:
        assert str(e).startswith("huffman: ")
    else:
        assert len(symbols) == count and (symbols < len(lengths)).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: encode([0.5]), "the symbols are float64, integers are wanted"),
        (lambda: encode([2, -1]), "symbols count from 0 up, the smallest of these is -1"),
        (lambda: encode(np.arange(2**LIMIT + 1)), "32,769 symbols cannot be told apart by codes of at most 15 bits"),
        (lambda: decode([1, 1], [0], 9), "the bits end before 9 symbols have been read"),
        (lambda: decode([1, 1], [0, 0], 8), "8 symbols take 1 bytes, there are 2"),
        (lambda: decode([1, 1, 1], [0], 1), "the lengths are those of no Huffman code"),
        (lambda: decode([2], [], 1), "the lengths are those of no Huffman code"),
        (lambda: decode([], [], 1), "the lengths are those of no Huffman code"),
        (lambda: decode([16, 16], [], 0), "a code of 16 bits, 15 is the most"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
