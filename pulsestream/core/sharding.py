"""Which feed shard, and which partition, a product belongs to: the same answer in every process.

murmur2 is the hash of the Java clients' default partitioner (Apache Kafka, `Utils.murmur2`), so a Kafka tool can
compute a shard as well.
"""

from functools import lru_cache
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """Return Kafka's murmur2 hash of a key, as an unsigned 32-bit integer."""
    hashed = _SEED ^ len(key)
    whole = len(key) - len(key) % 4
    for start in range(0, whole, 4):
        block = int.from_bytes(key[start : start + 4], "little") * _M & _MASK
        block = (block ^ block >> 24) * _M & _MASK
        hashed = hashed * _M & _MASK ^ block
    if whole < len(key):
        hashed = (hashed ^ int.from_bytes(key[whole:], "little")) * _M & _MASK
    hashed = (hashed ^ hashed >> 13) * _M & _MASK
    return hashed ^ hashed >> 15


@lru_cache(maxsize=100_000)
def feed_shard(exchange: str, product: str, shards: int) -> int:
    """Return the shard, from 0 to `shards` - 1, whose producer feeds a product of an exchange."""
    return (murmur2(f"{exchange}:{product}".encode()) & 0x7FFFFFFF) % shards


@lru_cache(maxsize=100_000)
def key_partition(key: str, partitions: int) -> int:
    """Return the partition of a key among so many, as every Kafka producer of ours chooses it."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions
