"""The encrypted file format: Tink's, random access, tampering."""

import hashlib
import io
import os
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.vault import streaming
from service.vault.errors import ArtefactDamaged
from service.vault.streaming import (
    HEADER_SIZE,
    SEGMENT_SIZE,
    TAG_SIZE,
    DecryptingReader,
    EncryptingWriter,
    Key,
    plain_size,
)

FIRST = SEGMENT_SIZE - TAG_SIZE - HEADER_SIZE  # bytes that fit into the first segment
NEXT = SEGMENT_SIZE - TAG_SIZE
PLAIN = bytes(range(251)) * 1000

# Made with tink 1.16.1 from PLAIN and a random key: length, salt and nonce prefix, SHA-256 of all.
TINK_KEY = Key(bytes.fromhex("257ed793e02e6f96759e586a85f5aa9b3eb5195b7dc93d642e4200b7012a4c53"))
TINK_ASSOCIATED_DATA = bytes.fromhex("e3eb54ede09abccca88c9d8f")
TINK_VECTORS = [
    (
        0,
        "1003793d23c8a13c5311f281679558507d4a200ca7ad243d5e5e355ef454ac933469e42111a81b",
        "bfb479322c812f7651590d7be6beb463e5f1d66b624d4eae6905cd103ee0103a",
    ),
    (
        1,
        "902c4a8a5fc7adb828f3b54030bcf73a43576907ddfa6619dcde7b2e833afdbfd6fff84ca81545",
        "8d14e152e7d52a6241bc56c4f4a5547ed83dd6f514a85ef0d622e082b52a5a63",
    ),
    (
        FIRST - 1,
        "00fefb279fdf773b9dc1d18e58b69dc5a858a8cc1e38a73dacf84ed3fa028ae12b8e195c803820",
        "bfa4a0eeaf452f99d7c9680d263f206aaf1a93a607f05386efad2e8d091d8d3e",
    ),
    (
        FIRST,
        "c406d40a76823f78c467b9f885a1986562e2043334e6b0622cc1025a243890cdde4ce8a60fc54a",
        "c0fdc51f067ec759af4e335e03a5f3a82033d08abf97d4d3c6e7c5d05de7877d",
    ),
    (
        FIRST + 1,
        "1d09ae68e6c4513290c4ef0af821e7f05324996a000e7182f3a6bc27ccc4d0867ecd5f22092ead",
        "c2a22d53b3539fc83909c54c4e9c6bdae1e48329f0e89001d0466ca34c005238",
    ),
    (
        FIRST + NEXT,
        "d443722bc62937afdf9ee0b356857567fad2417bcfe64caeb797c3554dcd17b2c48be07bd5292b",
        "79aa4aea2a2c42afe8470608f6a1ec70be994dd490f9082f6e7e5b390b15f0d3",
    ),
    (
        FIRST + NEXT + 1,
        "6d7975093eae8e85a650e701ef53532c79204a1b6e41c9b169b791b0dfdf74cbe57373c4454a4b",
        "a61c97c0df0bb39b535459fcf153aacfdc1f02c973bda2bbe0a4952182f10ffe",
    ),
    (
        200_000,
        "982bfea87df6492942cc44bb27864517ce1126b909b76e68c695848a3b2b40293ca594da9c2b06",
        "ebae52fb0055420c43d0ee46534caa4a84515a31f3b49deaa8a1e7ef149b699c",
    ),
]
TINK_FILE = bytes.fromhex(
    "28eaab59bc3fc4a84a520607d0f9be5667bef098bf78c4e71bb8df8a09d889ddc8401a1e2b63355598a1f7983aa37b"
    "1f356a4ff10beb45c422c745c433d9d7ce52b132"
)

KEY = Key(os.urandom(32))
LENGTHS = [0, 1, FIRST - 1, FIRST, FIRST + 1, FIRST + NEXT - 1, FIRST + NEXT, FIRST + NEXT + 1]


def encrypt(data: bytes, key: Key = KEY, associated_data: bytes = b"here") -> bytes:
    file = io.BytesIO()
    writer = EncryptingWriter(file, key, associated_data)
    writer.write(data)
    writer.finish()
    return file.getvalue()


def reader(encrypted: bytes, key: Key = KEY, associated_data: bytes = b"here") -> DecryptingReader:
    return DecryptingReader(io.BytesIO(encrypted), key, associated_data)


def assert_refused(encrypted: bytes) -> None:
    with pytest.raises(ArtefactDamaged):
        reader(encrypted).readall()


@pytest.mark.parametrize("length", LENGTHS)
def test_encrypted_data_can_be_read_back(length):
    assert reader(encrypt(PLAIN[:length])).readall() == PLAIN[:length]


@pytest.mark.parametrize("length", LENGTHS)
def test_the_plain_size_follows_from_the_files_size(length):
    assert plain_size(len(encrypt(PLAIN[:length]))) == length


@given(sizes=st.lists(st.integers(0, 70_000), max_size=4))
@settings(max_examples=30, deadline=None)
def test_the_sizes_of_writes_do_not_matter(sizes):
    file = io.BytesIO()
    writer = EncryptingWriter(file, KEY, b"")
    data = [PLAIN[:size] for size in sizes]
    for part in data:
        writer.write(part)
    writer.finish()

    assert DecryptingReader(file, KEY, b"").readall() == b"".join(data)


LONG = encrypt(PLAIN[:200_000])


@given(reads=st.lists(st.tuples(st.integers(0, 200_100), st.integers(0, 140_000)), max_size=5))
@settings(max_examples=50, deadline=None)
def test_reads_at_any_position_match_a_plain_file(reads):
    plain = io.BytesIO(PLAIN[:200_000])
    decrypted = io.BufferedReader(reader(LONG))

    for offset, length in reads:
        assert decrypted.seek(offset) == plain.seek(offset)
        assert decrypted.read(length) == plain.read(length)
        assert decrypted.tell() == plain.tell()


@pytest.mark.parametrize(("offset", "whence"), [(7, 0), (7, 1), (-7, 2)])
def test_seeking_matches_a_plain_file(offset, whence):
    plain, decrypted = io.BytesIO(PLAIN[:200_000]), reader(LONG)
    plain.seek(100)
    decrypted.seek(100)

    assert decrypted.seek(offset, whence) == plain.seek(offset, whence)


def test_a_range_reads_only_its_segments():
    """Damage elsewhere goes unnoticed, because no other segment is read."""
    damaged = bytearray(LONG)
    damaged[SEGMENT_SIZE + 100] ^= 1
    decrypted = reader(bytes(damaged))

    decrypted.seek(FIRST + NEXT)
    assert decrypted.read(100) == PLAIN[FIRST + NEXT :][:100]
    decrypted.seek(FIRST)
    with pytest.raises(ArtefactDamaged):
        decrypted.read(100)


@pytest.mark.parametrize(("length", "header", "digest"), TINK_VECTORS)
def test_files_are_identical_to_tinks(length, header, digest, monkeypatch):
    salt_and_prefix = io.BytesIO(bytes.fromhex(header))
    monkeypatch.setattr(os, "urandom", salt_and_prefix.read)

    encrypted = encrypt(PLAIN[:length], TINK_KEY, TINK_ASSOCIATED_DATA)

    assert hashlib.sha256(encrypted).hexdigest() == digest


def test_a_file_that_tink_wrote_can_be_read():
    assert reader(TINK_FILE, TINK_KEY, TINK_ASSOCIATED_DATA).readall() == b"Fieldscribe"


@pytest.mark.parametrize("length", [*range(3), HEADER_SIZE, HEADER_SIZE + TAG_SIZE - 1])
def test_a_file_cut_before_its_first_segment_ends_is_refused(length):
    assert_refused(LONG[:length])


@pytest.mark.parametrize("n_segments", [1, 2, 3])
@pytest.mark.parametrize("more", [-1, 0, 1, TAG_SIZE - 1, TAG_SIZE])
def test_a_file_cut_at_or_near_a_segment_is_refused_when_opened(n_segments, more):
    with pytest.raises(ArtefactDamaged):
        reader(LONG[: n_segments * SEGMENT_SIZE + more])


def test_a_longer_file_is_refused_when_opened():
    with pytest.raises(ArtefactDamaged):
        reader(LONG + b"\0")


def test_segments_in_another_order_are_refused():
    a, b, c, rest = (
        LONG[:SEGMENT_SIZE],
        LONG[SEGMENT_SIZE : 2 * SEGMENT_SIZE],
        LONG[2 * SEGMENT_SIZE : 3 * SEGMENT_SIZE],
        LONG[3 * SEGMENT_SIZE :],
    )

    assert_refused(a + c + b + rest)


@given(position=st.integers(0, len(LONG) * 8 - 1))
@example(position=0)  # length of the header
@example(position=8 * 20)  # salt
@example(position=8 * 35)  # nonce prefix
@example(position=len(LONG) * 8 - 1)  # last tag
@settings(max_examples=50, deadline=None)
def test_every_flipped_bit_is_refused(position):
    flipped = bytearray(LONG)
    flipped[position // 8] ^= 1 << position % 8

    assert_refused(bytes(flipped))


def test_a_recording_of_more_than_4_gib_can_be_read_at_its_end(tmp_path):
    number = 2**32 // SEGMENT_SIZE + 1
    with open(tmp_path / "sparse", "w+b") as file:
        writer = EncryptingWriter(file, KEY, b"")
        file.seek(number * SEGMENT_SIZE)
        writer._n_segments = number  # as if all earlier segments had been written
        writer.write(PLAIN[: NEXT + 10])
        writer.finish()
        decrypted = io.BufferedReader(DecryptingReader(file, KEY, b""))

        decrypted.seek(FIRST + (number - 1) * NEXT + 5)
        assert decrypted.read() == PLAIN[5 : NEXT + 10]


def test_a_segments_number_has_four_bytes():
    assert streaming._nonce(b"prefix.", 65_537, last=True) == b"prefix." + bytes([0, 1, 0, 1, 1])


def test_data_before_the_damage_can_still_be_read():
    damaged = bytearray(LONG)
    damaged[2 * SEGMENT_SIZE] ^= 1
    decrypted = reader(bytes(damaged))
    got = b""

    with pytest.raises(ArtefactDamaged):
        while data := decrypted.read(1000):
            got += data
    assert got == PLAIN[: FIRST + NEXT]


def test_another_key_is_refused():
    with pytest.raises(ArtefactDamaged):
        reader(LONG, key=Key(os.urandom(32)))


def test_other_associated_data_are_refused():
    with pytest.raises(ArtefactDamaged):
        reader(LONG, associated_data=b"there")


def test_an_unfinished_file_cannot_be_read():
    file = io.BytesIO()
    EncryptingWriter(file, KEY, b"here").write(PLAIN[:200_000])

    assert_refused(file.getvalue())


def test_the_same_bytes_are_encrypted_differently_each_time():
    assert encrypt(b"")[1:40] != encrypt(b"")[1:40]


def test_a_key_does_not_appear_in_its_repr():
    secret = os.urandom(32)

    assert repr(secret) not in repr(Key(secret)) and secret.hex() not in repr(Key(secret))


def test_a_key_of_another_length_is_a_bug():
    with pytest.raises(ValueError):
        Key(bytes(16))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    block = os.urandom(2**20)
    with open(tmp_path / "encrypted", "w+b") as file:
        tracemalloc.start()
        writer = EncryptingWriter(file, KEY, b"")
        for _ in range(200):
            writer.write(block)
        writer.finish()
        decrypted = DecryptingReader(file, KEY, b"")
        while decrypted.read(2**20):
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert decrypted.tell() == 200 * 2**20
    assert peak < 4 * 2**20
