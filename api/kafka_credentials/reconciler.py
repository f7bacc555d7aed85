"""Brings the broker's users to what tenants asked for: the relay's part in Kafka credentials.

provisioning -> active (quotas, access rules and user are there, in this order) -> ended (all of it is gone). Every
step can be repeated, and a crash anywhere is mended by the next pass. `verify` compares all of it with the broker: what
nobody asked for is removed there, what is missing is added, and a user that is gone is lost: nobody has its password.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from api.kafka_credentials.broker import TenantUsers
from api.kafka_credentials.login import Salted
from api.kafka_credentials.rights import Credential, acls_of, quota_of, repair
from api.limits.tiers import tiers
from api.relay_database import Connection, execute, fetch_all
from pulsestream.core.log import logger
from pulsestream.core.settings import Settings

_CHUNK: Final = 100
_log = logger(__name__)


class CredentialReconciler:
    """Brings the broker to what the database says of credentials. Used by one thread."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._connection = connection
        self._users = TenantUsers(settings)
        self._tiers = tiers(settings.limits)
        self._missed: set[str] = set()

    def provision(self) -> None:
        """Do what is asked for: what ended first, so that its part of the tenant's quotas is free. BrokerError."""
        credentials = self._credentials(everything=False)
        for chunk in _chunks([one for one in credentials if one.ended]):
            self._remove(chunk)
        for chunk in _chunks([one for one in credentials if not one.ended]):
            self._give(chunk)

    def verify(self) -> None:
        """Compare everything with the broker, and put right what differs; raises BrokerError."""
        credentials = self._credentials(everything=True)
        if not credentials and not self._ever():
            return
        needed = repair(credentials, self._users.found(), self._tiers)
        if needed.strangers:
            _log.warning("users of tenants that nobody asked for are removed", users=sorted(needed.strangers))
            self._users.remove(needed.strangers)
        if needed.allow or needed.forbid:
            _log.warning("rights of tenants' users differed", missing=len(needed.allow), extra=len(needed.forbid))
        self._users.forbid(needed.forbid)
        self._users.set_quotas(needed.quotas)
        self._users.allow(needed.allow)
        self._lose(needed.gone)

    def _give(self, credentials: Sequence[Credential]) -> None:
        self._users.set_quotas({one.user: quota_of(one, self._tiers) for one in credentials})
        self._users.allow([rule for one in credentials for rule in acls_of(one)])
        self._users.forbid_all([one.user for one in credentials if not one.welcome])
        self._users.put({one.user: one.kept for one in credentials if one.kept is not None})
        for one in credentials:
            place = {"tenant": one.tenant, "id": one.id}
            execute(self._connection, "mark_kafka_credential_given", **place, rights=one.wanted)
            _log.info("kafka credential given", **place, rights=one.wanted)

    def _remove(self, credentials: Sequence[Credential]) -> None:
        self._users.remove([one.user for one in credentials])
        for one in credentials:
            execute(self._connection, "mark_kafka_credential_removed", tenant=one.tenant, id=one.id)
            _log.info("kafka credential removed", tenant=one.tenant, id=one.id)

    def _lose(self, gone: Collection[Credential]) -> None:
        """Mark what is missed a second time: one broker may not know the newest users yet."""
        for one in gone:
            if one.user in self._missed:
                _log.error("kafka credential lost: the broker does not know its user", tenant=one.tenant, id=one.id)
                execute(self._connection, "mark_kafka_credential_lost", tenant=one.tenant, id=one.id)
        self._missed = {one.user for one in gone}

    def _credentials(self, *, everything: bool) -> list[Credential]:
        rows = fetch_all(self._connection, "kafka_credentials_there", all=everything)
        return [_credential(row) for row in rows]

    def _ever(self) -> bool:
        """Return whether there ever was a credential: without one, the broker may not even have users."""
        return bool(fetch_all(self._connection, "any_kafka_credential"))


def _credential(row: dict[str, Any]) -> Credential:
    secret = row.pop("salted_password")
    kept = Salted(row.pop("salt"), row.pop("iterations"), secret or b"")
    return Credential(**row, kept=kept if secret else None)


def _chunks(credentials: Sequence[Credential]) -> Iterator[Sequence[Credential]]:
    return (credentials[start : start + _CHUNK] for start in range(0, len(credentials), _CHUNK))
