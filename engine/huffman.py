r"""Canonical Huffman codes: symbols in as few bits as whole bits for each allow.

    lengths, bits = encode(symbols)
    symbols = decode(lengths, bits, len(symbols))

A symbol is an integer from 0 up, of an alphabet of at most 2^15. Frequent ones get short codes, none of which begins another. A
canonical code is told by its lengths alone: codes count upwards, first by length, then by symbol.

With shares p of the symbols, entropy H = -sum p log2 p and mean length L: H <= L < H + 1.
Sources: Huffman (1952), A method for the construction of minimum-redundancy codes; Larmore & Hirschberg (1990), A fast algorithm for
optimal length-limited Huffman codes; Schwartz & Kallick (1964), Generating a canonical prefix encoding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LIMIT = 15  # bits of the longest code: a length takes four bits in a file, and the table that decodes has 2^15 rows


def encode(symbols: Any) -> tuple[np.ndarray, np.ndarray]:
    """The lengths of the codes (uint8, one for each symbol up to the largest, 0 for one that does not occur) and the bits (uint8).

    symbols    integers of any shape, in C order. The first bit is the highest of the first byte; the last byte ends in zeros

    A symbol that is alone has a length of 1 but writes no bits: there is nothing to tell.
    Raises TypeError for what is not integers, ValueError for negative ones and for an alphabet that LIMIT bits do not tell apart.
    """
    symbols = np.asarray(symbols).reshape(-1)
    if symbols.dtype.kind not in "iu" and symbols.size:
        raise TypeError(f"huffman: the symbols are {symbols.dtype}, integers are wanted")
    if symbols.size and symbols.min() < 0:
        raise ValueError(f"huffman: symbols count from 0 up, the smallest of these is {symbols.min()}")
    symbols = symbols.astype(np.intp)
    lengths = code_lengths(np.bincount(symbols))
    return lengths, np.zeros(0, np.uint8) if _alone(lengths) else _written(symbols, lengths)


def decode(lengths: Any, bits: Any, count: int) -> np.ndarray:
    """The `count` symbols (intp) that `encode` wrote as `bits`. Takes some 130 bytes of memory for each byte of `bits`.

    Raises ValueError if the lengths are those of no Huffman code, or if the bits are too many or too few for `count` symbols.
    """
    lengths, bits = np.asarray(lengths, np.uint8), np.asarray(bits, np.uint8)
    table, width = _table(lengths, count)
    if _alone(lengths):
        symbols, end = np.repeat(table, count), 0
    else:
        windows = _windows(bits, width)
        places, end = _walk(lengths[table][windows].tobytes(), count)
        symbols = table[windows[places]]
    if -(-end // 8) != len(bits):
        raise ValueError(f"huffman: {count} symbols take {-(-end // 8)} bytes, there are {len(bits)}: the bits belong to another count")
    return symbols


def code_lengths(counts: Any, limit: int = LIMIT) -> np.ndarray:
    r"""The lengths l (uint8) that make $\sum_i c_i l_i$ smallest among all codes without prefixes of at most `limit` bits

    counts    of the symbols 0, 1, ...; one that does not occur gets length 0, one that is alone length 1

    A symbol of length l is l coins, one each of the values $2^{-1}$ to $2^{-l}$, and each costs c. The cheapest coins worth n - 1 in all
    are found from the smallest value up: two of one value make a package, which competes with the coins of the next.
    Raises ValueError if there are more than 2^limit symbols.
    Source: Larmore & Hirschberg (1990), sec. 2, the package-merge algorithm.
    """
    counts = np.asarray(counts, np.int64)
    lengths = np.zeros(len(counts), np.uint8)
    present = np.flatnonzero(counts)
    coins = np.sort(counts[present])
    if len(coins) > 2**limit:
        raise ValueError(f"huffman: {len(coins):,} symbols cannot be told apart by codes of at most {limit} bits")
    if len(coins) < 2:
        lengths[present] = 1
        return lengths
    is_coin, items = [np.ones(len(coins), bool)], coins
    for _ in range(limit - 1):
        items = np.concatenate([coins, items[: len(items) // 2 * 2].reshape(-1, 2).sum(axis=1)])
        order = np.argsort(items, kind="stable")
        is_coin.append(order < len(coins))
        items = items[order]
    rank = np.zeros(len(coins), np.uint8)
    wanted = 2 * len(coins) - 2
    for level in reversed(is_coin):
        taken = np.count_nonzero(level[:wanted])
        rank[:taken] += 1
        wanted = 2 * (wanted - taken)
    lengths[present[np.argsort(counts[present], kind="stable")]] = rank
    return lengths


def codes(lengths: Any) -> np.ndarray:
    r"""The canonical codes (uint32) of these lengths: each one more than the one before, with zeros put behind it where they grow longer

    In terms of the whole interval from 0 to 1, a code of length l is a share of $2^{-l}$, and the shares lie side by side.
    """
    lengths = np.asarray(lengths, np.int64)
    order = _by_length(lengths)
    shares = 1 << (LIMIT - lengths[order])
    code = np.zeros(len(lengths), np.uint32)
    code[order] = (np.cumsum(shares) - shares) >> (LIMIT - lengths[order])
    return code


def size(counts: Any, lengths: Any) -> int:
    """The bits that symbols of these counts take: sum c l, and none for one that is alone."""
    return 0 if _alone(lengths) else int(np.dot(np.asarray(counts, np.int64), np.asarray(lengths, np.int64)))


def entropy(counts: Any) -> float:
    r"""$H = -\sum_i p_i \log_2 p_i, \quad p = c / \sum c$: the bits a symbol must take in the mean, however it is coded

    Source: Shannon (1948), A mathematical theory of communication, theorem 4.
    """
    c = np.asarray(counts, np.float64)
    c = c[c > 0]
    return max(0.0, math.log2(c.sum()) - float(np.dot(c, np.log2(c))) / float(c.sum())) if len(c) else 0.0


def _alone(lengths: np.ndarray) -> bool:
    return int(np.count_nonzero(lengths)) < 2


def _by_length(lengths: np.ndarray) -> np.ndarray:
    """The symbols that occur, in the order of their codes."""
    order = np.argsort(lengths, kind="stable")
    return order[np.count_nonzero(lengths == 0) :]


def _written(symbols: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    code, length = codes(lengths)[symbols], lengths[symbols].astype(np.int64)
    end = np.cumsum(length)
    bits = np.zeros(end[-1], np.uint8)
    for back in range(int(lengths.max())):  # the last bit of every code, the last but one, ...
        has = length > back
        bits[end[has] - 1 - back] = (code[has] >> back) & 1
    return np.packbits(bits)


def _table(lengths: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """The symbol for each sequence of as many bits as the longest code has, by which it begins, and that number of bits."""
    order = _by_length(lengths)
    longest = int(lengths.max(initial=0))
    if longest > LIMIT:
        raise ValueError(f"huffman: a code of {longest} bits, {LIMIT} is the most")
    shares = 1 << (longest - lengths[order].astype(np.int64))
    whole = 2 * shares.sum() if _alone(lengths) else shares.sum()
    if whole != 1 << longest and (len(order) or count):
        raise ValueError("huffman: the lengths are those of no Huffman code: their shares 2^-l do not add up to one")
    return np.repeat(order, shares), longest


def _windows(bits: np.ndarray, width: int) -> np.ndarray:
    """The next `width` bits from each bit on, as a number; zeros follow the end."""
    b = np.concatenate([bits, np.zeros(2, np.uint8)]).astype(np.uint32)
    three = b[:-2] << 16 | b[1:-1] << 8 | b[2:]
    return ((three[:, None] >> (24 - width - np.arange(8, dtype=np.uint32))) & ((1 << width) - 1)).reshape(-1)


def _walk(step: bytes, count: int) -> tuple[list[int], int]:
    """Where each symbol starts, and where the last one ends. One follows from the other, so this is a loop: of a lookup and an addition."""
    places = []
    place = 0
    try:
        for _ in range(count):
            places.append(place)
            place += step[place]
    except IndexError:
        raise ValueError(f"huffman: the bits end before {count} symbols have been read") from None
    return places, place
