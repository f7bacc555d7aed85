-- Trades and bars, and what `GET /api/v1/feeds` tells. The keys are like those of the other tables: tenant, event time,
-- id. Two sources of one trade may round its time differently, so the sink also looks an id up, by trades_by_id.
CREATE TABLE trades (
    tenant        text NOT NULL,
    event_id      text NOT NULL,
    exchange      text NOT NULL,
    product       text NOT NULL,
    trade_id      bigint NOT NULL,
    price         double precision NOT NULL,
    size          double precision NOT NULL,
    side          text NOT NULL,
    exchange_time timestamptz NOT NULL,
    received_time timestamptz NOT NULL,
    sequence      bigint,
    appended_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant, exchange_time, event_id)
);
CREATE INDEX trades_by_product ON trades (tenant, product, exchange_time, event_id);
CREATE INDEX trades_by_id ON trades (tenant, exchange, product, trade_id);

CREATE TABLE bars (
    tenant          text NOT NULL,
    event_id        text NOT NULL,
    exchange        text NOT NULL,
    product         text NOT NULL,
    period          text NOT NULL,
    start           timestamptz NOT NULL,
    open            double precision NOT NULL,
    high            double precision NOT NULL,
    low             double precision NOT NULL,
    close           double precision NOT NULL,
    volume          double precision NOT NULL,
    quote_volume    double precision,
    vwap            double precision,
    trades          bigint,
    buy_volume      double precision,
    complete        boolean NOT NULL,
    revision        integer NOT NULL,
    as_of_topic     text,
    as_of_partition integer,
    as_of_offset    bigint,
    origin          text NOT NULL,
    received_time   timestamptz NOT NULL,
    appended_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant, start, event_id)
);
CREATE INDEX bars_by_product ON bars (tenant, product, start, event_id);
CREATE INDEX bars_by_period ON bars (tenant, product, period, start, event_id);

-- How many trades of an hour (of their event times) are stored, and their first and last ids. The sink counts in the
-- transaction that stores them; counting them when somebody asks would take seconds.
CREATE TABLE trade_hours (
    tenant   text NOT NULL,
    exchange text NOT NULL,
    product  text NOT NULL,
    hour     timestamptz NOT NULL,
    trades   bigint NOT NULL,
    first_id bigint NOT NULL,
    last_id  bigint NOT NULL,
    PRIMARY KEY (tenant, exchange, product, hour)
) WITH (fillfactor = 70); -- the row of the present hour changes with every transaction

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['trades', 'bars', 'trade_hours'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY own_tenant ON %I FOR SELECT TO ps_api USING (tenant = current_tenant())', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I TO ps_sink', name);
    END LOOP;
END $$;
GRANT SELECT ON trades, bars, trade_hours TO ps_api;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        PERFORM create_hypertable('trades'::regclass, 'exchange_time'::name,
                                  chunk_time_interval => INTERVAL '1 day', create_default_indexes => false);
        PERFORM create_hypertable('bars'::regclass, 'start'::name,
                                  chunk_time_interval => INTERVAL '7 days', create_default_indexes => false);
    END IF;
END $$;

ALTER TABLE feeds
    ADD COLUMN gap_missing bigint,
    ADD COLUMN complete_until timestamptz,
    ADD COLUMN appended_at timestamptz; -- when the broker took the record: a producer that lives goes on saying so
CREATE INDEX feeds_by_product ON feeds (exchange, product, gap_closed);
CREATE INDEX feeds_states ON feeds (exchange) WHERE gap_kind IS NULL;

-- The ledger belongs to no tenant, but names products, and tenants whose own topic took no records (cause:tenant).
-- A tenant sees what is said of its products and of their exchanges, and of itself.
ALTER TABLE feeds ENABLE ROW LEVEL SECURITY;
ALTER TABLE feeds FORCE ROW LEVEL SECURITY;
CREATE POLICY own_products ON feeds FOR SELECT TO ps_api USING (
    (gap_cause IS NULL OR strpos(gap_cause, ':') = 0 OR split_part(gap_cause, ':', 2) = current_tenant())
    AND EXISTS (
        SELECT FROM subscriptions AS own
        WHERE own.tenant = current_tenant()
            AND own.exchange = feeds.exchange
            AND (feeds.product IS NULL OR own.product = feeds.product)));
