-- What search needs beside the primary keys: the order in which rows came to be seen, and indexes of events.

-- The transaction that stored a row, or changed it last. Transactions end in another order than they begin, so a reader
-- that follows this order goes no further than `ingested_horizon()`: before it no transaction is under way any more.
-- Rows of before this migration count as stored by one transaction, 0. No NOT NULL: the sink's staging tables leave the
-- column out.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['ticks', 'trades', 'events', 'stats', 'bars', 'alerts'] LOOP
        EXECUTE format('ALTER TABLE %I ADD COLUMN ingested bigint DEFAULT 0', name);
        EXECUTE format('CREATE INDEX %I ON %I (tenant, ingested)', name || '_by_ingestion', name);
    END LOOP;
END $$;

-- A server counts its transactions from its own beginning, so a dump that is restored on another one would go on with
-- lower numbers. What is written is a count since a moment, above that moment's seconds x 2^20: it rises as long as
-- there are fewer than a million transactions a second. `system` is the server that `shift` holds for.
CREATE TABLE ingestion_clock (
    system bigint PRIMARY KEY,
    shift  bigint NOT NULL
);

CREATE FUNCTION set_ingestion_clock() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    here  bigint := (SELECT system_identifier FROM pg_control_system());
    ahead bigint := floor(extract(epoch FROM clock_timestamp()))::bigint * 1048576 - txid_current();
    name  text;
BEGIN
    IF EXISTS (SELECT FROM ingestion_clock WHERE system = here) THEN
        RETURN;
    END IF;
    DELETE FROM ingestion_clock;
    INSERT INTO ingestion_clock (system, shift) VALUES (here, ahead);
    FOREACH name IN ARRAY ARRAY['ticks', 'trades', 'events', 'stats', 'bars', 'alerts'] LOOP
        EXECUTE format('ALTER TABLE %I ALTER COLUMN ingested SET DEFAULT txid_current() + %s', name, ahead);
    END LOOP;
END $$;
SELECT set_ingestion_clock();

CREATE FUNCTION ingested_horizon() RETURNS bigint LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    here  bigint := (SELECT system_identifier FROM pg_control_system());
    ahead bigint := (SELECT shift FROM ingestion_clock WHERE system = here);
BEGIN
    IF ahead IS NULL THEN
        RAISE EXCEPTION 'this database was restored from another server: run `pulsestream migrate`'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN txid_snapshot_xmin(txid_current_snapshot()) + ahead;
END $$;
REVOKE ALL ON FUNCTION ingested_horizon, set_ingestion_clock FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ingested_horizon TO ps_api;

-- Texts that are searched by prefix are compared by their bytes, whatever the database's collation is.
DROP INDEX events_by_type;
CREATE INDEX events_by_type ON events (tenant, type COLLATE "C", time, event_id);
CREATE INDEX events_by_source ON events (tenant, source COLLATE "C", time, event_id);
CREATE INDEX events_by_product ON events (tenant, product COLLATE "C", time, event_id) WHERE product IS NOT NULL;

-- What an event's data contains, by tenant: every path in the index begins with the tenant, so that what is frequent
-- with others costs nothing. (jsonb_build_object is not immutable, jsonb_set is.)
CREATE INDEX events_by_data ON events USING gin (jsonb_set('{}', ARRAY[tenant], data) jsonb_path_ops);

-- Row level security lets no operator that might tell of what it saw (`@>` on jsonb) near an index before the tenant is
-- checked. This view checks the tenant itself, taken from the transaction's setting only, so the planner may begin with
-- the data. `|| ''` keeps it from also reading the whole tenant out of another index. The owner never logs in.
CREATE POLICY owner ON events FOR SELECT TO ps_owner USING (true);
CREATE VIEW own_events AS SELECT * FROM events WHERE tenant || '' = current_tenant();
GRANT SELECT ON own_events TO ps_api;
