-- What the sink stores. The primary key is (tenant, event time, id): unique for the same record (its time never
-- changes), in the order that searches walk, and with the time column that a hypertable's unique key must hold.
CREATE TABLE ticks (
    tenant        text NOT NULL,
    event_id      text NOT NULL,
    exchange      text NOT NULL,
    product       text NOT NULL,
    sequence      bigint,
    trade_id      bigint,
    side          text,
    price         double precision NOT NULL,
    size          double precision,
    best_bid      double precision,
    best_bid_size double precision,
    best_ask      double precision,
    best_ask_size double precision,
    quote_time    timestamptz,
    open_24h      double precision,
    high_24h      double precision,
    low_24h       double precision,
    volume_24h    double precision,
    volume_30d    double precision,
    exchange_time timestamptz NOT NULL,
    received_time timestamptz NOT NULL,
    appended_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant, exchange_time, event_id)
);
CREATE INDEX ticks_by_product ON ticks (tenant, product, exchange_time, event_id);

CREATE TABLE events (
    tenant        text NOT NULL,
    event_id      text NOT NULL,
    type          text NOT NULL,
    source        text NOT NULL,
    product       text,
    time          timestamptz NOT NULL,
    received_time timestamptz NOT NULL,
    data          jsonb NOT NULL,
    appended_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant, time, event_id)
);
CREATE INDEX events_by_type ON events (tenant, type, time, event_id);

-- A client's retry has another offset, and another time where the edge gave it: ids of events are kept apart.
CREATE TABLE event_ids (
    tenant   text NOT NULL,
    event_id text NOT NULL,
    body     bytea NOT NULL,
    time     timestamptz NOT NULL,
    PRIMARY KEY (tenant, event_id)
);

CREATE TABLE stats (
    tenant            text NOT NULL,
    event_id          text NOT NULL,
    exchange          text NOT NULL,
    product           text NOT NULL,
    "window"          text NOT NULL,
    at                timestamptz NOT NULL,
    basis             text NOT NULL,
    count             bigint NOT NULL,
    open              double precision,
    high              double precision,
    low               double precision,
    close             double precision,
    volume            double precision,
    quote_volume      double precision,
    buy_volume        double precision,
    vwap              double precision,
    mean              double precision,
    stddev            double precision,
    coverage_seconds  double precision,
    reference_price   double precision,
    change            double precision,
    change_pct        double precision,
    volatility        double precision,
    stddev_log_return double precision,
    spread_mean       double precision,
    spread_bps        double precision,
    quote_age         double precision,
    range_position    double precision,
    as_of_topic       text NOT NULL,
    as_of_partition   integer NOT NULL,
    as_of_offset      bigint NOT NULL,
    revision          integer NOT NULL,
    appended_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant, at, event_id)
);
CREATE INDEX stats_by_product ON stats (tenant, product, "window", at, event_id);

CREATE TABLE alerts (
    tenant       text NOT NULL,
    alert_id     text NOT NULL,
    seq          bigint NOT NULL,
    rule_id      text NOT NULL,
    rule_name    text NOT NULL,
    rule_version integer NOT NULL,
    exchange     text NOT NULL,
    product      text NOT NULL,
    state        text NOT NULL,
    at           timestamptz NOT NULL,
    value        double precision,
    threshold    double precision,
    reason       text NOT NULL,
    severity     text NOT NULL,
    labels       jsonb NOT NULL,
    "window"     text,
    last_prices  jsonb NOT NULL,
    appended_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant, at, alert_id)
);
CREATE INDEX alerts_by_rule ON alerts (tenant, rule_id, at, alert_id);

-- The feeds' ledger: state of each connection (key conn:…) and each gap (key gap:…). It belongs to no tenant.
CREATE TABLE feeds (
    key           text PRIMARY KEY,
    exchange      text NOT NULL,
    product       text,
    state         text NOT NULL,
    at            timestamptz NOT NULL,
    gap_kind      text,
    gap_from_id   bigint,
    gap_to_id     bigint,
    gap_opened    timestamptz,
    gap_closed    timestamptz,
    gap_cause     text,
    last_trade_id bigint,
    version       bigint NOT NULL
);

-- Where the sink goes on. A row is moved only from the value that the sink expects: a zombie finds another and stops.
CREATE TABLE sink_offsets (
    topic_id    text NOT NULL,
    partition   integer NOT NULL,
    topic       text NOT NULL,
    next_offset bigint NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic_id, partition)
) WITH (fillfactor = 50); -- each row changes with every transaction: room to do so in its own page

-- Records that left a topic before the sink could read them: from_offset up to, not including, to_offset.
CREATE TABLE sink_gaps (
    topic_id    text NOT NULL,
    partition   integer NOT NULL,
    from_offset bigint NOT NULL,
    to_offset   bigint NOT NULL,
    topic       text NOT NULL,
    cause       text NOT NULL,
    found_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic_id, partition, from_offset)
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['ticks', 'events', 'event_ids', 'stats', 'alerts'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY own_tenant ON %I FOR SELECT TO ps_api USING (tenant = current_tenant())', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I TO ps_sink', name);
    END LOOP;
END $$;

GRANT SELECT ON ticks, events, stats, alerts, feeds TO ps_api;
CREATE POLICY every_tenant ON alerts FOR SELECT TO ps_notifier USING (true);
GRANT SELECT ON alerts TO ps_notifier;
GRANT SELECT, INSERT, UPDATE ON sink_offsets, sink_gaps, feeds TO ps_sink;
GRANT DELETE ON feeds TO ps_sink; -- a null record on the feeds topic
