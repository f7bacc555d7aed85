"""UUIDs of version 7 (RFC 9562, section 5.7): unique, and in the order of their making within microseconds."""

import secrets
from typing import Final

_FRACTIONS: Final = 4096
_MICROS_PER_MILLI: Final = 1000


def uuid7(now: int) -> str:
    """Return a new id made at `now` (microseconds since 1970); the twelve bits of `rand_a` hold the fraction."""
    millis, micros = divmod(now, _MICROS_PER_MILLI)
    fraction = micros * _FRACTIONS // _MICROS_PER_MILLI
    value = (millis & (1 << 48) - 1) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)
    return uuid_text(value)


def uuid_text(value: int) -> str:
    """Return the text of a UUID of 128 bits (RFC 9562, section 4)."""
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
