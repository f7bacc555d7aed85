"""The states of one shard's keys. One that was restored, or put to rest, stays as bytes until it is asked for. Pure.

So taking a partition over costs no decoding, and a key in which nothing happens costs little memory.
"""

from collections.abc import Iterable, Iterator, Mapping

from streams import kinds
from streams.engine import snapshot
from streams.engine.rules import EVERY_PRODUCT, RuleKey
from streams.engine.snapshot import Glance, Parts
from streams.intake import parts_of
from streams.kinds import State
from streams.ruleset import Concern


class States(Mapping[str, State]):
    """A table of states by key that knows which keys a tenant's product has.

    Asking for a state raises SnapshotError where its entries cannot be read.
    """

    def __init__(self, entries: Mapping[str, bytes]) -> None:
        self._packed: dict[str, Parts] = snapshot.group(entries)
        self._loaded: dict[str, State] = {}
        self._keys: dict[str, dict[str, set[str]]] = {}
        for key in self._packed:
            self._index(key)

    def __contains__(self, key: object) -> bool:
        return key in self._loaded or key in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter([*self._loaded, *self._packed])  # what is asked for moves from one to the other

    def __len__(self) -> int:
        return len(self._loaded) + len(self._packed)

    def __getitem__(self, key: str) -> State:
        state = self._loaded.get(key)
        if state is None:
            state = self._loaded[key] = kinds.load(key, self._packed[key])
            del self._packed[key]
        return state

    def __setitem__(self, key: str, state: State) -> None:
        if self._packed.pop(key, None) is None and key not in self._loaded:
            self._index(key)
        self._loaded[key] = state

    def glances(self) -> Iterator[tuple[str, Glance | None]]:
        """Give what the entries of keys that were not asked for say, of products on all exchanges nothing.

        Raises SnapshotError for what cannot be read.
        """
        for key, parts in self._packed.items():
            yield key, None if kinds.is_compared(key) else snapshot.glance(key, parts)

    def pack(self, key: str, due: int) -> None:
        """Keep a state as bytes until it is asked for again; `due` as `kinds.entries` takes it."""
        written = kinds.entries(key, None, self._loaded.pop(key), due)
        prefix = len(key) + 1
        self._packed[key] = {name[prefix:]: value for name, value in written.items() if value is not None}

    def loaded(self) -> list[str]:
        """Return the keys whose states are not bytes."""
        return list(self._loaded)

    def drop(self, key: str) -> None:
        """Forget a key."""
        self._loaded.pop(key, None)
        self._packed.pop(key, None)
        tenant, _, _, product = parts_of(key)
        products = self._keys.get(tenant, {})
        keys = products.get(product, set())
        keys.discard(key)
        if not keys:
            products.pop(product, None)

    def put_back(self, former: Mapping[str, State | None]) -> None:
        """Take states back to what they were; None: there was none."""
        for key, state in former.items():
            if state is None:
                self.drop(key)
            else:
                self[key] = state

    def of(self, tenant: str) -> list[str]:
        """Return a tenant's keys."""
        return [key for keys in self._keys.get(tenant, {}).values() for key in keys]

    def tenants(self) -> set[str]:
        """Return whose keys there are."""
        return {tenant for tenant, products in self._keys.items() if products}

    def names(self, key: str) -> list[str]:
        """Return the names of a key's entries."""
        if key in self._packed:
            return [f"{key}|{part}" for part in self._packed[key]]
        return list(kinds.entries(key, None, self[key], 0))

    def about(self, concerns: Iterable[Concern]) -> list[str]:
        """Return the keys that are concerned."""
        found: dict[str, None] = {}
        for tenant, product in concerns:
            keys = self.of(tenant) if product == EVERY_PRODUCT else self._keys.get(tenant, {}).get(product, ())
            found |= dict.fromkeys(keys)
        return list(found)

    def holds_machine(self, key: str, rule: RuleKey) -> bool:
        """Tell whether a version of a rule has left anything in a key's state."""
        state = self._loaded.get(key)
        if state is None and key in self._packed and not kinds.is_compared(key):
            return f"rule:{rule[0]}:{rule[1]}" in self._packed[key]
        return kinds.holds(self[key], rule)

    def _index(self, key: str) -> None:
        tenant, _, _, product = parts_of(key)
        self._keys.setdefault(tenant, {}).setdefault(product, set()).add(key)
