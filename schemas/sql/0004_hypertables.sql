-- Hypertables where the extension exists (the Apache edition is enough); plain tables with the same keys otherwise.
DO $$
DECLARE
    wanted record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        RETURN;
    END IF;
    FOR wanted IN SELECT * FROM (VALUES
        ('ticks', 'exchange_time', INTERVAL '1 day'),
        ('events', 'time', INTERVAL '7 days'),
        ('stats', 'at', INTERVAL '1 day'),
        ('alerts', 'at', INTERVAL '30 days')) AS tables (name, time_column, span)
    LOOP
        PERFORM create_hypertable(wanted.name::regclass, wanted.time_column::name,
                                  chunk_time_interval => wanted.span, create_default_indexes => false);
    END LOOP;
END $$;
