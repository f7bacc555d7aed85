"""Every setting of every process, read from the environment as PULSESTREAM_<NAME>.

One flat class, so that an operator can look up any name in one place. `load_settings` turns a wrong value or a
misspelt name into one SettingsError that names the variable, its value and what would be right.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pulsestream.core.errors import SettingsError

PREFIX: Final = "PULSESTREAM_"
_NOT_SETTINGS: Final = frozenset({"PULSESTREAM_API_KEY", "PULSESTREAM_SHARED", "PULSESTREAM_TEST_DATABASE_URL"})
"""Variables with our prefix that a command's option or the test suite reads."""


class Settings(BaseSettings):
    """All settings with their defaults for the local stack."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    home: Path = Field(Path(".pulsestream"), description="where the local stack keeps data, logs and passwords")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    sentry_dsn: SecretStr = Field(
        SecretStr(""),
        description="https://KEY@HOST/PROJECT of Sentry, which gets what is logged as an error; empty: off",
    )

    kafka_bootstrap: str = Field("", description="host:port,…; empty: `pulsestream up` starts its own broker")
    kafka_security: Literal["PLAINTEXT", "SASL_PLAINTEXT", "SASL_SSL"] = "SASL_PLAINTEXT"
    kafka_username: str = ""
    kafka_password: SecretStr = SecretStr("")
    kafka_tenant_bootstrap: str = Field(
        "", description="host:port,… at which tenants' own clients reach the broker; empty: kafka_bootstrap"
    )
    kafka_tenant_security: Literal["", "PLAINTEXT", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "", description="of the listener there; empty: kafka_security"
    )
    kafka_ca_file: Path | None = Field(None, description="PEM file with the broker's certificate authority")

    database_url: SecretStr = Field(SecretStr(""), description="postgresql://…; empty: `pulsestream up` starts one")

    kafka_logins: SecretStr = Field(
        SecretStr(""), description="ps-api:password,…: the services' users that `migrate` gives their rights"
    )
    database_logins: SecretStr = Field(
        SecretStr(""), description="ps_api:password,…: the services' roles that `migrate` gives a password"
    )

    partitions: int = Field(3, ge=1, le=1000, description="of every tick, own-tick and trade topic")
    replication_factor: int = Field(1, ge=1, le=10)
    min_insync_replicas: int = Field(1, ge=1, le=10)
    retention_hours: int = Field(168, ge=1, description="of data topics, by the broker's append time")
    partition_budget: int = Field(4000, ge=1, description="partitions of all tenants together; more are refused")

    api_host: str = "127.0.0.1"
    api_port: int = Field(8000, ge=0, le=65535)
    key_pepper: SecretStr = Field(SecretStr(""), description="server-side secret that API keys are hashed with")
    key_pepper_version: int = Field(1, ge=1, le=1_000_000, description="counts up with each new pepper")
    key_pepper_previous: SecretStr = Field(
        SecretStr(""), description="the pepper of the version before, for keys that were made with it; empty: none"
    )
    registration: Literal["open", "token", "closed"] = Field(
        "open", description="who may register a tenant: everybody, whoever has an invitation, nobody"
    )
    registrations_per_address: int = Field(10, ge=1, le=1_000_000, description="an hour, from one address")
    registrations_per_hour: int = Field(100, ge=1, le=1_000_000, description="from all addresses together")
    deletion_grace_days: int = Field(
        7, ge=0, le=365, description="for which a deleted tenant can be restored, before all that it had is erased"
    )
    audit_heads_interval: float = Field(
        3600, ge=0.1, le=86_400, description="seconds between two times that the relay publishes where audits end"
    )
    limits: str = Field("", description="of tiers, where others than theirs: free.events=1000, pro.keys=100; or off")
    api_processes: int = Field(1, ge=1, le=1000, description="that share the limits: each gives a tenant its part")
    trial_hours: int = Field(168, ge=1, le=87_600, description="of records that a rule can be tried on, at most")
    usage_interval: float = Field(60, ge=0.1, le=3600, description="seconds until counted usage is stored, at most")
    trusted_proxies: str = Field(
        "", description="addresses and networks whose X-Forwarded-For says who the client is, comma-separated"
    )
    access_log: Literal["all", "refused", "off"] = Field("all", description="requests that leave a line in the log")
    cors_origins: str = Field("", description="of pages that may ask, comma-separated: https://app.example.com; or *")
    ops_port: int = Field(0, ge=0, le=65535, description="/livez /readyz /metrics of this process; 0: none")

    feed: str = Field("auto", description="auto, live, simulator or replay:FILE; what `pulsestream up` feeds from")
    exchange: str = Field("coinbase", description="name put into records: coinbase, or simulator")
    venue: str = Field("", description="language that the exchange speaks: coinbase, binance, kraken; empty: its name")
    exchange_url: str = Field("", description="the exchange's WebSocket; empty: its public one")
    exchange_rest_url: str = Field("", description="the exchange's REST API; empty: beside the WebSocket")
    exchange_key: str = Field("", description="key for signed subscriptions (Coinbase); empty: unsigned")
    exchange_secret: SecretStr = Field(SecretStr(""), description="the key's secret, base64 as the exchange gives it")
    exchange_passphrase: SecretStr = Field(SecretStr(""), description="the key's passphrase")
    aggregate_trades: bool = Field(
        False, description="Binance: aggTrade instead of trade, under an exchange name of its own"
    )
    feed_products: str = Field("", description="products fed beside those that tenants subscribe to, comma-separated")
    feed_shards: int = Field(8, ge=1, le=256, description="parts into which producers divide an exchange's products")
    connects_per_minute: float = Field(
        0.0,
        ge=0,
        description="attempts to connect of this producer; 0: the exchange's limit; share it out on one address",
    )
    stale_after: float = Field(15.0, gt=0, description="seconds without a frame after which a feed reconnects")
    gap_patience: float = Field(
        60.0, ge=0, description="seconds until trades that the exchange's REST API does not have are given up"
    )
    publish_buffer: int = Field(50_000, ge=100, description="records a producer holds while the broker is slow or away")
    publish_block: float = Field(10.0, ge=0, description="seconds that a full buffer holds up the socket before loss")

    stream_app: str = Field("pulsestream", pattern=r"^[a-z0-9-]+$", description="id of the streams application")
    stream_shards: int = Field(1, ge=1, le=64, description="groups of stream workers that tenants are split over")
    checkpoint_interval: float = Field(0.4, gt=0, le=10, description="seconds between two checkpoints")

    schema_registry_url: SecretStr = Field(
        SecretStr(""), description="registry (Confluent's API) that the sink asks for unknown schemas; empty: none"
    )

    sink_group: str = Field("ps-sink", description="consumer group of the sink")
    sink_batch: int = Field(20_000, ge=1, le=100_000, description="records per database transaction, at most")
    sink_batch_kib: int = Field(16_384, ge=64, le=1_048_576, description="size of a transaction's records, in KiB")
    sink_queue_kib: int = Field(32_768, ge=1024, le=2_097_151, description="records read ahead, in KiB")
    dead_letter_days: int = Field(30, ge=1, le=3650, description="for which dead letters can be searched and replayed")
    retention_days_free: int = Field(30, ge=0, le=36500, description="for which its rows are kept; 0: for ever")
    retention_days_pro: int = Field(365, ge=0, le=36500, description="likewise")
    retention_days_enterprise: int = Field(0, ge=0, le=36500, description="likewise")
    notify_group: str = Field("ps-notifier", description="consumer group of the notifier")
    notify_max_age: int = Field(
        3600, ge=1, le=31_536_000, description="seconds since an alert fired after which nobody is told of it any more"
    )
    notify_private: str = Field(
        "", description="networks and addresses reached though not public, plain http too, comma-separated: 10.1.0.0/16"
    )
    notify_smtp_host: str = Field("", description="mail relay that e-mail goes through; empty: there is no e-mail")
    notify_smtp_port: int = Field(587, ge=1, le=65535)
    notify_smtp_security: Literal["starttls", "tls", "off"] = Field(
        "starttls", description="of the connection to the relay; off is for a relay on the same machine"
    )
    notify_smtp_username: str = ""
    notify_smtp_password: SecretStr = SecretStr("")
    notify_smtp_ca_file: Path | None = Field(None, description="PEM file with the relay's certificate authority")
    notify_from: str = Field("pulsestream@localhost", description="sender of e-mail")
    notify_timeout: float = Field(15.0, ge=0.1, le=120, description="seconds that an attempt to deliver may take")
    notify_retries: str = Field(
        "5, 300, 1800, 7200, 18000, 36000, 36000", description="seconds before each further attempt, comma-separated"
    )
    notify_disable_days: float = Field(
        5.0, gt=0, le=365, description="of nothing but failures after which a channel is disabled"
    )
    notify_days: int = Field(30, ge=1, le=3650, description="for which messages and their attempts are kept")
    sink_topic_refresh: float = Field(1.0, ge=0.1, le=300, description="seconds until a new topic is seen, at most")


def load_settings() -> Settings:
    """Read the settings from the environment; raises SettingsError with every fault at once."""
    faults = [_unknown(name) for name in sorted(os.environ) if _is_unknown(name)]
    try:
        settings = Settings()
    except ValidationError as error:
        faults += [_wrong_value(str(item["loc"][0]), item["msg"]) for item in error.errors()]
    if faults:
        raise SettingsError("; ".join(faults))
    return settings


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """Return the environment in which a child process reads exactly these settings; of others' variables it has all."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return others | {PREFIX + name.upper(): str(value) for name, value in settings.items()}


def _is_unknown(variable: str) -> bool:
    known = variable.removeprefix(PREFIX).lower() in Settings.model_fields
    return variable.startswith(PREFIX) and not known and variable not in _NOT_SETTINGS


def _unknown(variable: str) -> str:
    names = [PREFIX + name.upper() for name in Settings.model_fields]
    near = difflib.get_close_matches(variable, names, n=1)
    return f"{variable} is not a setting" + (f": did you mean {near[0]}?" if near else "")


def _wrong_value(field: str, message: str) -> str:
    variable = PREFIX + field.upper()
    shown = "(hidden)" if _is_secret(field) else repr(os.environ.get(variable, ""))
    return f"{variable}={shown} is wrong: {message}"


def _is_secret(field: str) -> bool:
    return Settings.model_fields[field].annotation is SecretStr
