-- Retention: the relay removes what a tenant's tier no longer keeps, and sizes the chunks that are still to come. And a
-- tenant sees the positions of its own topics.
ALTER TABLE event_ids ADD COLUMN claimed_at timestamptz NOT NULL DEFAULT now(); -- when the sink stored the event
CREATE INDEX event_ids_by_age ON event_ids USING brin (claimed_at); -- ids come in this order: next to nothing a row

DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        ('ticks', 'tenant, exchange_time, event_id, appended_at'),
        ('trades', 'tenant, exchange, product, exchange_time, event_id, appended_at'),
        ('events', 'tenant, time, event_id, appended_at'),
        ('stats', 'tenant, at, event_id, appended_at'),
        ('bars', 'tenant, start, event_id, appended_at'),
        ('alerts', 'tenant, at, alert_id, appended_at'),
        ('trade_hours', 'tenant, exchange, product, hour'),
        ('event_ids', 'tenant, event_id, claimed_at')) AS tables (name, columns)
    LOOP
        EXECUTE format('CREATE POLICY upkeep ON %I TO ps_relay USING (true)', wanted.name);
        EXECUTE format('GRANT SELECT (%s), DELETE ON %I TO ps_relay', wanted.columns, wanted.name);
    END LOOP;
END $$;

-- What only a table's owner may do with a hypertable, for the relay. Without the extension nobody calls these.
-- A chunk that is held takes no rows until the transaction ends, so none can come between the last look and the drop.
CREATE FUNCTION hold_chunk(chunk regclass) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM timescaledb_information.chunks AS known
                   WHERE known.hypertable_schema = 'public'
                       AND format('%I.%I', known.chunk_schema, known.chunk_name)::regclass = chunk) THEN
        RAISE EXCEPTION '% is no chunk of a table of ours', chunk;
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', chunk);
END $$;

CREATE FUNCTION drop_chunks_between(hypertable regclass, first timestamptz, last timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
    RETURN (SELECT count(*) FROM drop_chunks(hypertable, older_than => last, newer_than => first));
END $$;

CREATE FUNCTION set_chunk_span(hypertable regclass, span interval) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
    PERFORM set_chunk_time_interval(hypertable, span);
END $$;

REVOKE ALL ON FUNCTION hold_chunk, drop_chunks_between, set_chunk_span FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hold_chunk, drop_chunks_between, set_chunk_span TO ps_relay;

-- Positions and gaps belong to topics, and a tenant's topics carry its name: ps.{tenant}.{dataset}.v{n}.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['sink_offsets', 'sink_gaps'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY own_topics ON %I FOR SELECT TO ps_api USING (split_part(topic, ''.'', 2) = current_tenant())',
            name);
        EXECUTE format('GRANT SELECT ON %I TO ps_api', name);
    END LOOP;
END $$;
CREATE INDEX sink_offsets_by_tenant ON sink_offsets (split_part(topic, '.', 2));
