"""What the OpenAPI document says of limits."""

from typing import Any, Final

Json = dict[str, Any]

FIELDS: Final[Json] = {
    "RateLimit-Policy": {
        "description": "what the buckets of the tenant and of the key hold (`q`) and how many seconds an empty one "
        "takes to fill (`w`), in this process; draft-ietf-httpapi-ratelimit-headers-10",
        "schema": {"type": "string"},
        "example": '"requests";q=500;w=10, "key-requests";q=400;w=10',
    },
    "RateLimit": {
        "description": "what each of them still holds (`r`), and in how many seconds there is more (`t`)",
        "schema": {"type": "string"},
        "example": '"requests";r=499;t=1, "key-requests";r=399;t=1',
    },
}
"""Header fields of every answer to a key that is valid."""
RETRY_AFTER: Final[Json] = {"Retry-After": {"required": True, "schema": {"type": "string"}, "example": "1"}}
