"""The command line: the one place that knows every room. Each command is one process and one container command.

Rooms are imported when their command runs, so that `--help` is quick and a broken room breaks its command only.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from pulsestream.core import log
from pulsestream.core.errors import PulseStreamError, UsageError
from pulsestream.core.reports import report_end, reporting
from pulsestream.core.settings import Settings, load_settings
from pulsestream.menu.alerts import app as alerts_app
from pulsestream.menu.channels import app as channels_app
from pulsestream.menu.common import ApiKey, Begin, End, api_client, database_url, group, list_examples, opened
from pulsestream.menu.kafka import app as kafka_app
from pulsestream.menu.key import app as key_app
from pulsestream.menu.rules import app as rules_app
from pulsestream.menu.silences import app as silences_app

if TYPE_CHECKING:
    from pulsestream.commands.sources import Sources

app = typer.Typer(
    name="pulsestream",
    help="Multi-tenant, Kafka-centric live market data. Settings come from PULSESTREAM_* variables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
app.add_typer(key_app, name="key")
app.add_typer(rules_app, name="rules")
app.add_typer(channels_app, name="channels")
app.add_typer(silences_app, name="silences")
app.add_typer(alerts_app, name="alerts")
app.add_typer(kafka_app, name="kafka-credentials")
tenant_app = group("Tenants, and who may be one.")
app.add_typer(tenant_app, name="tenant")
dlq_app = group("Dead letters: records that were refused.")
app.add_typer(dlq_app, name="dlq")
audit_app = group("The audit: who changed what.")
app.add_typer(audit_app, name="audit")

SourceNames = Annotated[
    list[str], typer.Argument(help="recording, bars (btcusd-second-20161007-trade.csv), or db:TENANT")
]
BasisChoice = Annotated[
    Literal["auto", "trades", "ticks"],
    typer.Option(help="what prices are taken from; auto: trades where there are some of the product"),
]
Slug = Annotated[str, typer.Argument(metavar="TENANT", help="slug, such as acme")]
LetterIds = Annotated[list[str] | None, typer.Argument(help="ids of dead letters", show_default=False)]
Where = Annotated[
    list[str] | None, typer.Option(help="reason=…, topic=…, key=…, from=TIME, to=TIME; can be repeated, all must hold")
]
EveryLetter = Annotated[bool, typer.Option("--all", help="every open one")]


def main() -> NoReturn:
    """Run the command line; a failure that was foreseen is one line on stderr and exit code 1, or 2 if it is yours."""
    list_examples(app)
    try:
        app(standalone_mode=True)
    except UsageError as error:
        _fail(error, 2)
    except PulseStreamError as error:
        report_end(error)
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        report_end(error)
        raise
    sys.exit(0)


@app.command()
def up() -> None:
    """Run everything on this machine; Ctrl-C stops it.

    Broker, database, feed, streams, sink and API, supervised. Data and logs go to PULSESTREAM_HOME.

    Example: PULSESTREAM_API_PORT=9000 pulsestream up
    """
    from pulsestream.local import stack

    settings = _start("up")
    stack.up(settings)


@app.command()
def migrate() -> None:
    """Bring database, topics and the services' logins to this version.

    Safe to run again.
    PULSESTREAM_DATABASE_URL must name a superuser, or a member of ps_owner after the first time.
    PULSESTREAM_KAFKA_LOGINS and PULSESTREAM_DATABASE_LOGINS, where they are set, are what services log in with.

    Example: PULSESTREAM_KAFKA_LOGINS=ps-sink:…,ps-api:… PULSESTREAM_DATABASE_LOGINS=ps_sink:…,ps_api:… pulsestream
    migrate
    """
    from pulsestream.core.kafka import Admin
    from pulsestream.core.layout import platform_topic_specs
    from pulsestream.core.topics import FEED_SHARDS
    from pulsestream.local.logins import give_logins, wanted_logins
    from schemas.migrate import migrate as migrate_database

    settings = _start("migrate")
    logins = wanted_logins(settings)
    database = settings.database_url.get_secret_value()
    if not database:
        raise UsageError("PULSESTREAM_DATABASE_URL is empty: set it to postgresql://superuser:…@host/database")
    applied = migrate_database(database)
    typer.echo(f"database: {', '.join(applied) if applied else 'up to date'}")
    admin = Admin(settings)
    created = admin.create(platform_topic_specs(settings))
    typer.echo(f"topics: {', '.join(created) if created else 'all there'}")
    if admin.grow(FEED_SHARDS, settings.feed_shards):
        typer.echo(f"{FEED_SHARDS}: {settings.feed_shards} partitions now; start every producer anew with this setting")
    given = give_logins(settings, logins)
    typer.echo(f"logins: {', '.join(given) if given else 'left as they are'}")


@app.command()
def producer() -> None:
    """Publish an exchange's ticks and trades to every tenant.

    Feeds what tenants subscribe to, and PULSESTREAM_FEED_PRODUCTS always. Run as many as you like for one exchange:
    they divide its shards (PULSESTREAM_FEED_SHARDS), and when one dies the others take its products within 10 s.
    Without PULSESTREAM_KAFKA_BOOTSTRAP it joins the stack that runs in PULSESTREAM_HOME.

    Examples:
    PULSESTREAM_EXCHANGE=kraken pulsestream producer;
    PULSESTREAM_EXCHANGE=binance PULSESTREAM_FEED_PRODUCTS=BTC-USDT,ETH-USDT PULSESTREAM_OPS_PORT=9100
    pulsestream producer;
    PULSESTREAM_EXCHANGE=simulator PULSESTREAM_EXCHANGE_URL=ws://127.0.0.1:9443 pulsestream producer
    """
    from producers.feed_process import run
    from pulsestream.local.attach import attach

    run(attach(_start("producer")))


@app.command()
def stream(
    shard: Annotated[int, typer.Option(min=0, help="serve the tenants of this shard (PULSESTREAM_STREAM_SHARDS)")] = 0,
    *,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="compute state again from the topics first, then go on working")
    ] = False,
) -> None:
    """Compute rolling statistics, bars and alerts.

    Workers with the same settings share the partitions. With --rebuild the state is emptied and computed again from
    what the topics hold; outputs leave again under the same ids. All other workers of the shard have to be stopped.

    Examples: pulsestream stream; PULSESTREAM_STREAM_SHARDS=2 pulsestream stream --shard 1; pulsestream stream --rebuild
    """
    from streams.worker import Duty, run

    run(_start("stream"), Duty(shard, rebuild))


@app.command()
def sink() -> None:
    """Store every record in the database, once.

    Any number of them share the topics.

    Examples: pulsestream sink; PULSESTREAM_OPS_PORT=9104 PULSESTREAM_SINK_BATCH_KIB=8192 pulsestream sink
    """
    from sinks.writer import run

    run(_start("sink"))


@app.command()
def notifier() -> None:
    """Tell the tenants' channels of alerts: webhooks, e-mail, chat.

    Examples: pulsestream notifier; PULSESTREAM_NOTIFY_SMTP_HOST=mail.example.com
    PULSESTREAM_NOTIFY_FROM=alerts@example.com pulsestream notifier
    """
    from sinks.notifier.process import run

    run(_start("notifier"))


@app.command()
def api() -> None:
    """Serve the HTTP API.

    Example: PULSESTREAM_API_HOST=0.0.0.0 PULSESTREAM_API_PORT=8000 pulsestream api
    """
    from api.server import run

    run(_start("api"))


@app.command()
def relay() -> None:
    """Publish control changes; make tenants' topics.

    One works, further ones wait to take over.

    Example: PULSESTREAM_OPS_PORT=9105 pulsestream relay
    """
    from api.relay import run

    run(_start("relay"))


@app.command()
def retention(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="remove nothing, say what would go")] = False,
) -> None:
    """Remove what tenants' tiers no longer keep, now.

    The relay does the same once an hour. Rows are kept for PULSESTREAM_RETENTION_DAYS_FREE, _PRO and _ENTERPRISE days
    (0: for ever) from their event, or from when the broker took them if that is later. Chunks of TimescaleDB that
    nobody needs any more go whole, other rows in batches. It also makes new chunks as long as their rate allows.
    PULSESTREAM_DATABASE_URL must name ps_relay or a superuser; without it, the stack that runs here is meant.

    Examples: pulsestream retention --dry-run; PULSESTREAM_RETENTION_DAYS_FREE=7 pulsestream retention
    """
    from pulsestream.commands.retention import retire
    from pulsestream.core.clock import to_datetime, wall_clock

    typer.echo(retire(_with_database("retention"), to_datetime(wall_clock()), dry_run=dry_run))


@app.command()
def exchange(
    venue: Annotated[str, typer.Option(help="language: coinbase, binance or kraken")] = "coinbase",
    frames: Annotated[Path | None, typer.Option(help="recording to replay, one `seconds JSON` a line")] = None,
    synthetic: Annotated[int | None, typer.Option(help="seed of an endless self-made market")] = None,
    speed: Annotated[float, typer.Option(min=0, help="of a replay; 2 is twice as fast, 0 as fast as it goes")] = 1.0,
    products: Annotated[str, typer.Option(help="synthetic products, comma-separated")] = "",
    rate: Annotated[float, typer.Option(min=0.01, help="synthetic ticks a second and product")] = 2.0,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one")] = 0,
    sent: Annotated[Path | None, typer.Option(help="write every frame sent to this file")] = None,
    write: Annotated[Path | None, typer.Option(help="write a synthetic recording instead of serving")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="market time of --write")] = 60.0,
    faults: Annotated[Path | None, typer.Option(help="YAML plan of what shall go wrong")] = None,
    fault_log: Annotated[Path | None, typer.Option(help="write every fault that happened to this file")] = None,
    truth: Annotated[Path | None, typer.Option(help="write all trades and ticks of the market to this file")] = None,
    rest_rate: Annotated[
        float | None, typer.Option(min=0, help="REST requests a second, 0: any; default: the exchange's limit")
    ] = None,
    max_age: Annotated[float | None, typer.Option(min=1, help="seconds until a connection is ended")] = None,
    start_after: Annotated[
        float, typer.Option(min=0, help="seconds without another subscription before a recording begins")
    ] = 0.0,
    *,
    loop: Annotated[bool, typer.Option("--loop", help="begin the replay again at its end")] = False,
    unfiltered: Annotated[bool, typer.Option("--unfiltered", help="send every frame to every client")] = False,
) -> None:
    """Serve a local exchange, real or synthetic.

    It speaks the WebSocket and, on the same port, the REST protocol of Coinbase Exchange, Binance spot or Kraken v2:
    subscriptions, confirmations, errors, heartbeats, limits; trades and candles of the market, and of 24 hours before.

    Examples: pulsestream exchange --synthetic 7 --port 9443; pulsestream exchange --frames day.frames --speed 10;
    pulsestream exchange --venue kraken --synthetic 7 --faults plan.yaml --fault-log faults.jsonl --truth truth.jsonl
    """
    from producers.exchange import server
    from producers.exchange import synthetic as market

    _start("exchange")
    wanted = tuple(name for name in products.split(",") if name)
    if write is not None:
        count = market.write_recording(
            write, seed=synthetic or 0, seconds=seconds, products=wanted, rate=rate, venue=venue
        )
        typer.echo(f"{count} frames written to {write}")
        return
    server.run(
        server.ExchangeOptions(
            venue=venue, frames=frames, synthetic=synthetic, speed=speed, products=wanted, rate=rate, host=host,
            port=port, sent=sent, loop=loop, unfiltered=unfiltered, faults=faults, fault_log=fault_log, truth=truth,
            rest_rate=rest_rate, max_age=max_age, start_after=start_after,
        )
    )  # fmt: skip


@app.command()
def record(
    products: Annotated[str, typer.Option(help="such as BTC-USD,ETH-USD")],
    output: Annotated[Path, typer.Option(help="folder that the recording is written to")],
    exchange: Annotated[str, typer.Option(help="coinbase, binance, kraken; empty: PULSESTREAM_EXCHANGE")] = "",
    url: Annotated[str, typer.Option(help="its WebSocket; empty: PULSESTREAM_EXCHANGE_URL, or the public one")] = "",
    seconds: Annotated[float | None, typer.Option(min=0.1, help="stop after so many; without: at Ctrl-C")] = None,
    rotate_mb: Annotated[float, typer.Option(min=0.001, help="megabytes on the disk after which a file ends")] = 256,
    rotate_minutes: Annotated[float, typer.Option(min=0.01, help="minutes after which a file ends")] = 60,
) -> None:
    """Write an exchange's frames to files, exactly as received.

    Each frame with its receipt time, compressed with zstd, on the disk every second: after a crash all but the last
    second can be read. `pulsestream exchange --frames DIR` plays a recording.

    Examples:
    pulsestream record --exchange coinbase --products BTC-USD,ETH-USD --output rec --seconds 3600;
    pulsestream record --exchange simulator --url ws://127.0.0.1:9443 --products BTC-USD --output rec;
    zstdcat rec/*.frames.zst
    """
    from producers.recorder import RecordOptions, run
    from producers.recording import Rotation

    settings = _start("record")
    names = tuple(name.strip() for name in products.split(",") if name.strip())
    rotation = Rotation(int(rotate_mb * 1_000_000), rotate_minutes * 60)
    options = RecordOptions(exchange or settings.exchange, names, output, seconds, url, rotation)
    recorded = run(settings, options)
    typer.echo(f"{recorded.frames} frames in {recorded.files} files, {recorded.bytes} bytes, in {output}")


@app.command()
def tail(
    tenant: Annotated[str, typer.Argument(help="slug, such as demo")],
    dataset: Annotated[str, typer.Argument(help="ticks, trades, events, stats, bars, alerts or dlq")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="stop after so many; 0: never")] = 0,
    *,
    beginning: Annotated[bool, typer.Option("--beginning", help="from the first record kept")] = False,
) -> None:
    """Print a tenant's records as they arrive.

    Decoded, one JSON object a line; looking changes nothing.

    Examples: pulsestream tail demo alerts; pulsestream tail demo ticks --beginning -n 10
    """
    from pulsestream.commands.tail import tail as follow

    follow(_client("tail"), tenant, dataset, limit=limit, beginning=beginning, out=sys.stdout)


@app.command()
def backfill(
    product: Annotated[str, typer.Argument(help="such as BTC-USD")],
    begin: Annotated[str, typer.Option("--from", help="2026-01-31T12:00:00Z, or a date: its midnight UTC")],
    end: Annotated[str, typer.Option("--to", help="likewise; the time itself is left out")],
    exchange: Annotated[str, typer.Option(help="default: the running stack's")] = "",
    tenant: Annotated[str | None, typer.Option(help="only this tenant; default: all that are subscribed")] = None,
    candles: Annotated[list[str] | None, typer.Option(help="period, such as 1m or 1h; can be repeated")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.1, max=1000, help="requests a second; default: 2, or the exchange's limit")
    ] = None,
    *,
    trades: Annotated[bool, typer.Option("--trades/--no-trades", help="each trade, or candles only")] = True,
    restart: Annotated[bool, typer.Option("--restart", help="send everything again, also what is done")] = False,
) -> None:
    """Send a product's history to the tenants subscribed to it.

    Trades and the exchange's candles take the topics of live data, with the same ids: what is stored already stays as
    it is. Killed or stopped, it continues where it ended when the same command is run again.

    Examples: pulsestream backfill BTC-USD --from 2026-01-30 --to 2026-01-31 --candles 1m;
    pulsestream backfill ETH-USD --from 2026-01-31T12:00:00Z --to 2026-01-31T13:00:00Z --exchange kraken --tenant acme
    """
    from producers.backfill_plan import Choice, Span
    from pulsestream.commands.backfill import run
    from pulsestream.commands.times import parse_time

    span = Span(product, parse_time("--from", begin), parse_time("--to", end), tenant)
    choice = Choice(trades=trades, periods=tuple(dict.fromkeys(candles or ())), restart=restart, rate=rate)
    if not run(_client("backfill"), exchange, span, choice, sys.stdout):
        raise typer.Exit(130)


@app.command()
def backtest(
    rules: Annotated[Path, typer.Argument(help="YAML file of rules")],
    sources: SourceNames,
    begin: Begin = None,
    end: End = None,
    bar_price: Annotated[
        Literal["close", "low", "high", "ohlc"], typer.Option(help="what rules over prices see of a bar")
    ] = "close",
    basis: BasisChoice = "auto",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="one transition a line")] = False,
) -> None:
    """Try alert rules on the past.

    Prints each transition that the live evaluator makes of recorded frames, bars of trades, or a tenant's stored ticks
    and trades, and what each rule comes to. Needs no running stack, but for db:TENANT.

    Examples: pulsestream backtest rules.yaml rec/; pulsestream backtest rules.yaml btcusd-second-20161007-trade.csv
    --bar-price low; pulsestream backtest rules.yaml db:demo --from 2026-01-30 --to 2026-01-31 --json
    """
    from pulsestream.commands.backtest import run
    from pulsestream.commands.rules import load_rules
    from streams.engine.evaluation import Choice

    definitions, opened = load_rules(rules), _sources(sources, begin, end)
    choice = Choice(basis, bar_price, frozenset(opened.traded() if basis == "auto" else ()))
    run(definitions, opened, choice, as_json=as_json, out=sys.stdout, err=sys.stderr)


@app.command()
def stats(
    sources: SourceNames,
    windows: Annotated[str, typer.Option(help="such as 1m,5m; default: all, or none where --bars is given")] = "",
    bars: Annotated[str, typer.Option(help="bars of these periods, such as 1m,1h")] = "",
    begin: Begin = None,
    end: End = None,
    basis: BasisChoice = "auto",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="one statistic a line, with every field")] = False,
) -> None:
    """Compute rolling statistics of the past.

    The live statistics, or bars, over recorded frames, bars of trades, or a tenant's stored ticks and trades. Those of
    windows without records are left out. Needs no running stack, but for db:TENANT.

    Examples: pulsestream stats rec/ --windows 1m,5m --json; pulsestream stats btcusd-second-20161007-trade.csv
    """
    from pulsestream.commands.stats import parse_lines, run
    from streams.engine.evaluation import Choice

    wanted, opened = parse_lines(windows, bars), _sources(sources, begin, end)
    choice = Choice(basis, traded=frozenset(opened.traded() if basis == "auto" else ()))
    run(opened, choice, wanted, as_json=as_json, out=sys.stdout, err=sys.stderr)


@app.command()
def doctor() -> None:
    """Check the installation and say what to do.

    Broker, topics, database, migrations, outbox and lag; exit code 1 if anything is not well.

    Example: pulsestream doctor
    """
    from pulsestream.commands.doctor import examine, report

    findings = examine(_client("doctor"))
    typer.echo(report(findings))
    if any(not finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def health(
    url: Annotated[str, typer.Argument(help="default: /readyz of PULSESTREAM_OPS_PORT, else of the API's port")] = "",
) -> None:
    """Say whether the process with these settings is ready.

    Exit code 1 if it is not, with what is missing. `python -m pulsestream.commands.health` does the same with a
    quarter of the work, for health checks that run all the time.

    Examples: PULSESTREAM_OPS_PORT=9100 pulsestream health; pulsestream health http://127.0.0.1:8000/readyz
    """
    from pulsestream.commands.health import main

    raise typer.Exit(main([url] if url else []))


@tenant_app.command("register")
def tenant_register(
    slug: Annotated[str, typer.Argument(help="3 to 32 of a-z, 0-9 and inner hyphens")],
    name: Annotated[str, typer.Option(help="display name")] = "",
    token: Annotated[str | None, typer.Option(help="invitation, where registration asks for one")] = None,
) -> None:
    """Register a tenant; its API key is printed once.

    Examples: pulsestream tenant register acme --name "Acme Trading";
    pulsestream tenant register acme --token ps_invite_…
    """
    from pulsestream.commands.tenant import register

    typer.echo(register(api_client(), slug, name or slug, token))


@tenant_app.command("invite")
def tenant_invite(
    tier: Annotated[Literal["free", "pro", "enterprise"], typer.Option(help="of the tenants")] = "free",
    expires: Annotated[str, typer.Option(help="how long it is good: 30m, 12h, 7d")] = "7d",
    uses: Annotated[int, typer.Option(min=1, max=10_000, help="how many tenants")] = 1,
    note: Annotated[str, typer.Option(help="for whom, as `pulsestream tenant invitations` shows it")] = "",
) -> None:
    """Make an invitation to register a tenant; its text is printed once.

    What PULSESTREAM_REGISTRATION=token asks for. PULSESTREAM_DATABASE_URL must name ps_relay or a superuser; without
    it, the stack that runs here is meant.

    Example: pulsestream tenant invite --tier pro --expires 7d --note "Acme Trading"
    """
    from pulsestream.commands.invitation import invite
    from pulsestream.commands.times import parse_span

    typer.echo(invite(_with_database("tenant"), tier, parse_span("--expires", expires), uses, note))


@tenant_app.command("invitations")
def tenant_invitations(
    *, as_json: Annotated[bool, typer.Option("--json", help="one invitation a line")] = False
) -> None:
    """List the invitations with what is left of them, over the database.

    Example: pulsestream tenant invitations --json
    """
    from pulsestream.commands.invitation import listed

    listed(_with_database("tenant"), as_json=as_json, out=sys.stdout)


@tenant_app.command("revoke-invitation")
def tenant_revoke_invitation(
    invitation: Annotated[str, typer.Argument(help="id, as `pulsestream tenant invitations` shows it")],
) -> None:
    """Revoke an invitation, over the database; tenants that were made with it stay.

    Example: pulsestream tenant revoke-invitation 03kV8sLq2ZxYb
    """
    from pulsestream.commands.invitation import revoke

    typer.echo(revoke(_with_database("tenant"), invitation))


@tenant_app.command("subscribe")
def tenant_subscribe(
    products: Annotated[list[str], typer.Argument(help="EXCHANGE:PRODUCT, such as coinbase:BTC-USD")],
    key: ApiKey,
) -> None:
    """Set which products a tenant gets; those not named are dropped.

    Example: pulsestream tenant subscribe simulator:BTC-USD simulator:ETH-USD --key ps_live_…
    """
    from pulsestream.commands.tenant import subscribe

    typer.echo(subscribe(_client("tenant"), products, key))


@tenant_app.command("list")
def tenant_list(
    status: Annotated[
        Literal["active", "suspended", "deleting", "deleted"] | None, typer.Option(help="only these")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="one tenant a line")] = False,
) -> None:
    """List all tenants, over the database.

    PULSESTREAM_DATABASE_URL must name ps_relay or a superuser; without it, the stack that runs here is meant. The same
    holds for show, suspend, resume and tier.

    Examples: pulsestream tenant list; pulsestream tenant list --status suspended --json
    """
    from pulsestream.commands.operators import listed

    listed(_with_database("tenant"), status, as_json=as_json, out=sys.stdout)


@tenant_app.command("show")
def tenant_show(
    slug: Slug, *, as_json: Annotated[bool, typer.Option("--json", help="all of it as one object")] = False
) -> None:
    """Show a tenant: status, tier, use of its quotas, topics, keys, and a week of usage, over the database.

    Example: pulsestream tenant show acme
    """
    from pulsestream.commands.operators import show

    show(_with_database("tenant"), slug, as_json=as_json, out=sys.stdout)


@tenant_app.command("suspend")
def tenant_suspend(slug: Slug, reason: Annotated[str, typer.Option(help="why; the audit keeps it")] = "") -> None:
    """Suspend a tenant: its keys are refused and it is fed no more, until it is resumed. Nothing of it is lost.

    Example: pulsestream tenant suspend acme --reason "invoice of March"
    """
    from pulsestream.commands.operators import suspend

    typer.echo(suspend(_with_database("tenant"), slug, reason))


@tenant_app.command("resume")
def tenant_resume(slug: Slug) -> None:
    """Bring a suspended tenant back, with its keys, subscriptions and rules.

    Example: pulsestream tenant resume acme
    """
    from pulsestream.commands.operators import resume

    typer.echo(resume(_with_database("tenant"), slug))


@tenant_app.command("tier")
def tenant_tier(slug: Slug, tier: Annotated[Literal["free", "pro", "enterprise"], typer.Argument()]) -> None:
    """Give a tenant another tier; what it has beyond the new quotas it keeps, but rows go with the next retention.

    Example: pulsestream tenant tier acme pro
    """
    from pulsestream.commands.operators import change_tier

    typer.echo(change_tier(_with_database("tenant"), slug, tier))


@tenant_app.command("delete")
def tenant_delete(
    slug: Slug, confirm: Annotated[str, typer.Option(help="the slug again, against mistakes", show_default=False)]
) -> None:
    """Delete a tenant: it is suspended, and after PULSESTREAM_DELETION_GRACE_DAYS all that it had is erased for good.

    The tenant's Owner does the same with DELETE /api/v1/tenant.

    Example: pulsestream tenant delete acme --confirm acme
    """
    from pulsestream.commands.operators import delete

    _confirmed(slug, confirm)
    typer.echo(delete(_with_database("tenant"), slug))


@tenant_app.command("restore")
def tenant_restore(slug: Slug) -> None:
    """Bring back a tenant that is being deleted, before its grace period is over.

    Example: pulsestream tenant restore acme
    """
    from pulsestream.commands.operators import restore

    typer.echo(restore(_with_database("tenant"), slug))


@tenant_app.command("erase")
def tenant_erase(
    slug: Slug,
    confirm: Annotated[str, typer.Option(help="the slug again, against mistakes")] = "",
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="change nothing, say what would go")] = False,
) -> None:
    """End the grace period of a tenant that is being deleted: the relay erases it now.

    With --dry-run of any tenant: topics, logins, rules and groups of the broker by name, rows by table. That takes the
    broker, too, as user ps-relay or an administrator.

    Examples: pulsestream tenant erase acme --dry-run; pulsestream tenant erase acme --confirm acme
    """
    from pulsestream.commands.operators import erase, would_erase

    if dry_run:
        would_erase(_with_database("tenant"), slug, sys.stdout)
        return
    _confirmed(slug, confirm)
    typer.echo(erase(_with_database("tenant"), slug))


def _confirmed(slug: str, confirm: str) -> None:
    if slug != confirm:
        raise UsageError(f"--confirm {confirm!r} is not {slug!r}: nothing was done. Write the slug twice")


@dlq_app.command("list")
def dlq_list(
    key: ApiKey,
    where: Annotated[
        list[str] | None,
        typer.Option(help="reason=…, topic=…, key=…, from=TIME, to=TIME, state=open|replayed|discarded|any"),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="at most so many; 0: all")] = 100,
    *,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="default: newest first")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one dead letter a line")] = False,
) -> None:
    """List dead letters, by default the open ones.

    Examples: pulsestream dlq list; pulsestream dlq list --where reason=unknown_schema --where topic=events
    --where from=2026-01-31T12:00:00Z; pulsestream dlq list --where state=any --limit 0 --json
    """
    from pulsestream.commands.dlq import listed, parse_where

    wanted = parse_where(where or (), "state")
    with opened(key) as api:
        listed(api, wanted, limit, oldest_first=oldest_first, as_json=as_json, out=sys.stdout)


@dlq_app.command("show")
def dlq_show(
    letter_id: Annotated[str, typer.Argument(help="id of a dead letter")],
    key: ApiKey,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="everything, as the API gives it")] = False,
    as_bytes: Annotated[bool, typer.Option("--bytes", help="nothing but the record's value, as it was")] = False,
) -> None:
    """Show a dead letter with its record: the original bytes, and decoded as far as they can be.

    Examples: pulsestream dlq show 6f1d2c3b4a5968778695a4b3c2d1e0f0;
    pulsestream dlq show 6f1d2c3b4a5968778695a4b3c2d1e0f0 --bytes > record.bin
    """
    from pulsestream.commands.dlq import show, show_bytes

    with opened(key) as api:
        if as_bytes:
            show_bytes(api, letter_id, sys.stdout.buffer)
        else:
            show(api, letter_id, as_json=as_json, out=sys.stdout)


@dlq_app.command("replay")
def dlq_replay(
    key: ApiKey,
    ids: LetterIds = None,
    where: Where = None,
    *,
    everything: EveryLetter = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="send nothing, say what would become of each now")] = False,
    force: Annotated[bool, typer.Option("--force", help="send those too that would be refused now")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="what became of each letter, one a line")] = False,
) -> None:
    """Send records again to their topics, as they were.

    What would be refused again is told with the reason and stays open. Safe to repeat and to interrupt: a record has
    one effect. Exit code 1 if a letter stays open, or would.

    Examples: pulsestream dlq replay --all --dry-run; pulsestream dlq replay --where reason=unknown_schema;
    pulsestream dlq replay 6f1d2c3b4a5968778695a4b3c2d1e0f0
    """
    from pulsestream.commands.dlq import Chosen, parse_where, settle

    chosen = Chosen.of(ids or (), parse_where(where or ()), everything=everything)
    more = {"dry_run": dry_run, "force": force}
    with opened(key) as api:
        went_well = settle(api, "replay", chosen, more, as_json=as_json, out=sys.stdout, err=sys.stderr)
    if not went_well:
        raise typer.Exit(1)


@dlq_app.command("discard")
def dlq_discard(
    key: ApiKey,
    reason: Annotated[str, typer.Option(help="why; it is kept with the letter")],
    ids: LetterIds = None,
    where: Where = None,
    *,
    everything: EveryLetter = False,
    as_json: Annotated[bool, typer.Option("--json", help="what became of each letter, one a line")] = False,
) -> None:
    """Settle dead letters without sending their records again; they can still be listed and shown.

    Examples: pulsestream dlq discard --where reason=undecodable --reason "test data";
    pulsestream dlq discard 6f1d2c3b4a5968778695a4b3c2d1e0f0 --reason "sent again by hand"
    """
    from pulsestream.commands.dlq import Chosen, parse_where, settle

    chosen = Chosen.of(ids or (), parse_where(where or ()), everything=everything)
    with opened(key) as api:
        went_well = settle(api, "discard", chosen, {"reason": reason}, as_json=as_json, out=sys.stdout, err=sys.stderr)
    if not went_well:
        raise typer.Exit(1)


@audit_app.command("list")
def audit_list(
    key: ApiKey,
    action: Annotated[str | None, typer.Option(help="such as rule.delete or access.denied")] = None,
    actor: Annotated[str | None, typer.Option(help="id of a key")] = None,
    target: Annotated[str | None, typer.Option(help="such as subscriptions or rule:019c1f6e-…")] = None,
    begin: Annotated[str | None, typer.Option("--from", help="2026-01-31T12:00:00Z")] = None,
    end: Annotated[str | None, typer.Option("--to", help="likewise; the time itself is left out")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="at most so many; 0: all")] = 100,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="one row a line, with what was before and after")] = False,
) -> None:
    """List what was changed in a tenant and what was refused, the newest first.

    Examples: pulsestream audit list; pulsestream audit list --action access.denied --from 2026-01-31T12:00:00Z --json
    """
    from pulsestream.commands.audit import listed

    filters = {"action": action, "actor": actor, "target": target, "from": begin, "to": end}
    with opened(key) as api:
        listed(api, filters, limit, as_json=as_json, out=sys.stdout)


@audit_app.command("verify")
def audit_verify(key: ApiKey) -> None:
    """Check that a tenant's audit is what was written: no row edited, removed, added or moved.

    Exit code 1 where it is not. Keep the hash that it prints: `pulsestream audit list --json` shows that of each row.

    Example: pulsestream audit verify --key ps_live_…
    """
    from pulsestream.commands.audit import verify

    with opened(key) as api:
        if not verify(api, out=sys.stdout):
            raise typer.Exit(1)


@audit_app.command("verify-all")
def audit_verify_all(
    named: Annotated[
        list[str] | None, typer.Argument(metavar="TENANT", help="default: all", show_default=False)
    ] = None,
    kept: Annotated[Path | None, typer.Option(help="lines of earlier runs with --json, kept elsewhere")] = None,
    *,
    heads: Annotated[bool, typer.Option("--heads", help="hold them against the ends that the relay published")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one line a tenant, to be kept")] = False,
) -> None:
    """Check the audit of every tenant over the database.

    What --json prints, kept where the database's owner cannot write, shows later with --kept also a chain that was made
    anew as a whole, and one that is gone. --heads does so with what the relay publishes to Kafka every hour.
    PULSESTREAM_DATABASE_URL must name ps_relay or a superuser, and for --heads PULSESTREAM_KAFKA_BOOTSTRAP a broker;
    without them, the stack that runs here is meant. Exit code 1 where a chain is broken.

    Examples: pulsestream audit verify-all --heads; pulsestream audit verify-all --json >> heads.jsonl;
    pulsestream audit verify-all --kept heads.jsonl
    """
    from pulsestream.commands.audit import verify_all

    lines = () if kept is None else _lines(kept)
    if not verify_all(_with_database("audit"), named or (), lines, heads=heads, as_json=as_json, out=sys.stdout):
        raise typer.Exit(1)


@audit_app.command("accept")
def audit_accept(
    slug: Slug, confirm: Annotated[str, typer.Option(help="the slug again, against mistakes", show_default=False)]
) -> None:
    """Publish where a tenant's audit ends now, in the place of an end that no longer fits.

    Only for what you know the reason of, such as a database that was restored from a backup: before this, verify-all
    --heads shows the difference, and afterwards nothing does. Where the database and the broker are: as with it.

    Example: pulsestream audit accept acme --confirm acme
    """
    from pulsestream.commands.audit import accept

    _confirmed(slug, confirm)
    typer.echo(accept(_with_database("audit"), slug))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _start(process: str) -> Settings:
    settings = load_settings()
    report = reporting(settings.sentry_dsn.get_secret_value(), process, version("pulsestream"))
    log.configure(process, settings.log_level, settings.log_format, report=report)
    return settings


def _client(process: str) -> Settings:
    """Return settings for a command that talks to a running stack: the local one where no broker is named."""
    from pulsestream.local.attach import attach

    settings = load_settings()
    log.configure(process, "warning", "console")
    return attach(settings)


def _sources(names: list[str], begin: str | None, end: str | None) -> "Sources":
    """Open the sources of an offline command; only db:TENANT asks for settings."""
    from pulsestream.commands.sources import Sources
    from pulsestream.commands.times import parse_time
    from schemas.validate import MAX_TIME
    from streams.engine.reading import Span

    log.configure("offline", "warning", "console")
    since = 0 if begin is None else parse_time("--from", begin)
    until = MAX_TIME if end is None else parse_time("--to", end)
    if since >= until:
        raise UsageError(f"--from {begin} is not before --to {end}: nothing lies between them")
    return Sources.open(names, Span(since, until), database_url)


def _with_database(process: str) -> Settings:
    """Return settings that name a database: those given, or those of the stack that runs here."""
    settings = load_settings()
    if not settings.database_url.get_secret_value():
        return _client(process)
    log.configure(process, "warning", "console")
    return settings


def _fail(error: PulseStreamError, code: int) -> NoReturn:
    typer.echo(f"pulsestream: {error}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
