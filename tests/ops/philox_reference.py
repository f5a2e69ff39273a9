"""Philox4x64-10 in plain Python integers (Salmon et al., SC 2011), the reference of the streams."""

import hashlib

MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # golden ratio and sqrt(3) - 1
WORD = 2**64


def block(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = MULTIPLIERS[0] * c[0], MULTIPLIERS[1] * c[2]
        c = [second // WORD ^ c[1] ^ k[0], second % WORD, first // WORD ^ c[3] ^ k[1], first % WORD]
        k = [(word + step) % WORD for word, step in zip(k, WEYL, strict=True)]
    return c


def named_words(seed, name, tag, count):
    """Return the words of a named stream.

    The key is the first 16 bytes of the hash, little endian. The counters are 1, 2, 3, ...
    """
    digest = hashlib.sha256("\x1f".join([str(seed), name, tag]).encode()).digest()
    key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
    words = []
    for number in range(1, count // 4 + 2):
        words += block([number, 0, 0, 0], key)
    return words[:count]
