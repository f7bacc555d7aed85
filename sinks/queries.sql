-- The sink's statements, by name. {table}, {staging}, {columns} and {updates} are identifiers of ours, put in by
-- psycopg.sql; every value is bound.

-- name: session
SELECT set_config('application_name', 'pulsestream-sink', false),
       set_config('TimeZone', 'UTC', false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('lock_timeout', '5s', false),
       set_config('idle_in_transaction_session_timeout', '60s', false);

-- name: staging
CREATE TEMPORARY TABLE IF NOT EXISTS {staging} (LIKE {table}) ON COMMIT DELETE ROWS;

-- name: begin_positions
INSERT INTO sink_offsets (topic_id, partition, topic, next_offset)
SELECT wanted.topic_id, wanted.partition, wanted.topic, 0
FROM unnest(%(topic_ids)s::text[], %(partitions)s::integer[], %(topics)s::text[]) AS wanted (topic_id, partition, topic)
ON CONFLICT (topic_id, partition) DO NOTHING;

-- name: read_positions
SELECT held.topic_id, held.partition, held.next_offset
FROM sink_offsets AS held
JOIN unnest(%(topic_ids)s::text[], %(partitions)s::integer[]) AS wanted (topic_id, partition)
    USING (topic_id, partition);

-- name: move_positions
UPDATE sink_offsets AS held
SET next_offset = wanted.next_offset, updated_at = now()
FROM unnest(%(topic_ids)s::text[], %(partitions)s::integer[], %(expected)s::bigint[], %(next_offsets)s::bigint[])
    AS wanted (topic_id, partition, expected, next_offset)
WHERE held.topic_id = wanted.topic_id
    AND held.partition = wanted.partition
    AND held.next_offset = wanted.expected;

-- name: evict_holders
-- A sink that was stopped in the middle of a transaction keeps its rows locked; who waits for them owns them now.
SELECT count(pg_terminate_backend(session.pid))
FROM pg_stat_activity AS session
WHERE session.usename = current_user
    AND session.datname = current_database()
    AND session.pid <> pg_backend_pid()
    AND session.backend_xid IN (
        SELECT held.xmax
        FROM sink_offsets AS held
        JOIN unnest(%(topic_ids)s::text[], %(partitions)s::integer[]) AS wanted (topic_id, partition)
            USING (topic_id, partition));

-- name: record_gap
INSERT INTO sink_gaps (topic_id, partition, from_offset, to_offset, topic, cause)
VALUES (%(topic_id)s, %(partition)s, %(from_offset)s, %(to_offset)s, %(topic)s, %(cause)s)
ON CONFLICT (topic_id, partition, from_offset) DO NOTHING;

-- name: copy
COPY {table} ({columns}) FROM STDIN (FORMAT BINARY);

-- name: clear_staging
DELETE FROM {staging};

-- name: insert_staged
INSERT INTO {table} ({columns})
SELECT {columns} FROM {staging}
ON CONFLICT DO NOTHING;

-- name: upsert_staged_stats
INSERT INTO stats AS held ({columns})
SELECT {columns} FROM {staging}
ON CONFLICT (tenant, at, event_id) DO UPDATE SET ({columns}) = ROW ({updates}), ingested = EXCLUDED.ingested
WHERE (held.as_of_topic COLLATE "C", held.as_of_partition, held.as_of_offset)
    < (EXCLUDED.as_of_topic COLLATE "C", EXCLUDED.as_of_partition, EXCLUDED.as_of_offset);

-- name: upsert_staged_bars
INSERT INTO bars AS held ({columns})
SELECT {columns} FROM {staging}
ON CONFLICT (tenant, start, event_id) DO UPDATE SET ({columns}) = ROW ({updates}), ingested = EXCLUDED.ingested
WHERE (coalesce(held.as_of_topic, '') COLLATE "C", coalesce(held.as_of_partition, -1),
        coalesce(held.as_of_offset, -1), held.received_time)
    < (coalesce(EXCLUDED.as_of_topic, '') COLLATE "C", coalesce(EXCLUDED.as_of_partition, -1),
        coalesce(EXCLUDED.as_of_offset, -1), EXCLUDED.received_time);

-- name: find_known_trades
-- Whether any staged id may be stored or comes twice: of live trades, whose ids rise, none does.
WITH ranges AS (
    SELECT tenant, exchange, product, min(trade_id) AS first_id, max(trade_id) AS last_id,
        count(*) <> count(DISTINCT event_id) AS repeated
    FROM {staging}
    GROUP BY tenant, exchange, product
)
SELECT bool_or(ranges.repeated OR (
    SELECT true
    FROM trades AS held
    WHERE held.tenant = ranges.tenant
        AND held.exchange = ranges.exchange
        AND held.product = ranges.product
        AND held.trade_id BETWEEN ranges.first_id AND ranges.last_id
        AND held.exchange_time BETWEEN %(oldest)s - INTERVAL '1 minute' AND %(newest)s + INTERVAL '1 minute'
    LIMIT 1) IS NOT NULL)
FROM ranges;

-- name: count_staged_trades
INSERT INTO trade_hours AS held (tenant, exchange, product, hour, trades, first_id, last_id)
SELECT tenant, exchange, product, date_trunc('hour', exchange_time, 'UTC'), count(*), min(trade_id), max(trade_id)
FROM {staging}
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4
ON CONFLICT (tenant, exchange, product, hour) DO UPDATE
SET trades = held.trades + EXCLUDED.trades,
    first_id = least(held.first_id, EXCLUDED.first_id),
    last_id = greatest(held.last_id, EXCLUDED.last_id);

-- name: insert_staged_trades
-- An id that is stored stays as it is, though another source rounds its time differently: so the key alone does not
-- say. The look-up is a subquery with a limit because the planner never turns that into a scan of the whole table.
WITH fresh AS (
    INSERT INTO trades ({columns})
    SELECT DISTINCT ON (staged.tenant, staged.event_id) {columns}
    FROM {staging} AS staged
    WHERE (
        SELECT true
        FROM trades AS held
        WHERE held.tenant = staged.tenant
            AND held.exchange = staged.exchange
            AND held.product = staged.product
            AND held.trade_id = staged.trade_id
            AND held.event_id = staged.event_id
            AND held.exchange_time BETWEEN staged.exchange_time - INTERVAL '1 minute'
                AND staged.exchange_time + INTERVAL '1 minute'
            AND held.exchange_time BETWEEN %(oldest)s - INTERVAL '1 minute' AND %(newest)s + INTERVAL '1 minute'
        LIMIT 1) IS NULL
    ORDER BY staged.tenant, staged.event_id
    ON CONFLICT DO NOTHING
    RETURNING tenant, exchange, product, trade_id, exchange_time
), counted AS (
    INSERT INTO trade_hours AS held (tenant, exchange, product, hour, trades, first_id, last_id)
    SELECT tenant, exchange, product, date_trunc('hour', exchange_time, 'UTC'), count(*), min(trade_id), max(trade_id)
    FROM fresh
    GROUP BY 1, 2, 3, 4
    ORDER BY 1, 2, 3, 4
    ON CONFLICT (tenant, exchange, product, hour) DO UPDATE
    SET trades = held.trades + EXCLUDED.trades,
        first_id = least(held.first_id, EXCLUDED.first_id),
        last_id = greatest(held.last_id, EXCLUDED.last_id)
)
SELECT count(*) FROM fresh;

-- name: upsert_staged_feeds
INSERT INTO feeds AS held ({columns})
SELECT {columns} FROM {staging}
ON CONFLICT (key) DO UPDATE SET ({columns}) = ROW ({updates})
WHERE held.version <= EXCLUDED.version;

-- name: remove_feeds
DELETE FROM feeds WHERE key = ANY (%(keys)s);

-- name: claim_event_ids
INSERT INTO event_ids (tenant, event_id, body, time)
SELECT wanted.tenant, wanted.event_id, wanted.body, timestamptz 'epoch' + wanted.micros * interval '1 microsecond'
FROM unnest(%(tenants)s::text[], %(event_ids)s::text[], %(bodies)s::bytea[], %(micros)s::bigint[])
    AS wanted (tenant, event_id, body, micros)
ORDER BY wanted.tenant, wanted.event_id
ON CONFLICT (tenant, event_id) DO NOTHING
RETURNING tenant, event_id;

-- name: read_event_bodies
SELECT held.tenant, held.event_id, held.body
FROM event_ids AS held
JOIN unnest(%(tenants)s::text[], %(event_ids)s::text[]) AS wanted (tenant, event_id) USING (tenant, event_id);
