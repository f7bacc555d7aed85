-- Deletion of tenants: `deleting` from the owner's request on, `deleted` once the relay has erased all that the tenant had.
-- The row of `tenants` stays for good, so that the slug is never given again; so do the audit and the report in `erasures`.
ALTER TABLE tenants DROP CONSTRAINT tenants_status_check;
ALTER TABLE tenants
    ADD COLUMN delete_after timestamptz,
    ADD COLUMN was_suspended boolean NOT NULL DEFAULT false, -- when its deletion began: what a restore brings back
    ADD CONSTRAINT tenants_status_check CHECK (status IN ('active', 'suspended', 'deleting', 'deleted')),
    ADD CONSTRAINT tenants_delete_after CHECK ((status = 'deleting') = (delete_after IS NOT NULL));
CREATE INDEX tenants_to_erase ON tenants (delete_after) WHERE delete_after IS NOT NULL;
GRANT UPDATE (name, delete_after, was_suspended) ON tenants TO ps_relay;

-- How far an erasure is, and what went. Counts are written in the transactions that remove the rows.
CREATE TABLE erasures (
    tenant      text PRIMARY KEY REFERENCES tenants,
    step        text NOT NULL,
    begun_at    timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    topics      text[] NOT NULL DEFAULT '{}',
    users       text[] NOT NULL DEFAULT '{}', -- of the broker
    rules       text[] NOT NULL DEFAULT '{}', -- access rules of the broker
    groups      text[] NOT NULL DEFAULT '{}', -- consumer groups of the broker
    removed     jsonb NOT NULL DEFAULT '{}'   -- rows by table
);
ALTER TABLE erasures ENABLE ROW LEVEL SECURITY;
ALTER TABLE erasures FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON erasures TO ps_owner USING (true) WITH CHECK (true);
CREATE POLICY every_tenant ON erasures TO ps_relay USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON erasures TO ps_relay;

-- Lets the relay remove a deleted tenant's rows of a table, which the relay finds in the catalogue by their columns: `tenant`,
-- or `topic` where positions of topics are meant. A migration that makes such a table ends with a call of this. Where the
-- relay could not delete before, it can those rows only.
CREATE FUNCTION let_erase(wanted regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    owner_of text := (SELECT CASE WHEN bool_or(attname = 'tenant') THEN 'tenant' ELSE 'split_part(topic, ''.'', 2)' END
                      FROM pg_attribute WHERE attrelid = wanted AND NOT attisdropped);
    keys     text := (SELECT string_agg(DISTINCT quote_ident(attname), ', ')
                      FROM pg_attribute LEFT JOIN pg_index ON indrelid = attrelid AND indisprimary
                      WHERE attrelid = wanted AND NOT attisdropped
                          AND (attname IN ('tenant', 'topic') OR attnum = ANY (indkey)));
BEGIN
    IF NOT has_table_privilege('ps_relay', wanted, 'DELETE') THEN
        EXECUTE format(
            'CREATE POLICY erased_only ON %s AS RESTRICTIVE FOR DELETE TO ps_relay USING (%s IN '
            '(SELECT gone.tenant FROM tenants AS gone WHERE gone.delete_after <= now()))', wanted, owner_of);
    END IF;
    EXECUTE format('GRANT SELECT (%s), DELETE ON %s TO ps_relay', keys, wanted);
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = wanted AND polpermissive AND polcmd = '*'
                   AND (SELECT oid FROM pg_roles WHERE rolname = 'ps_relay') = ANY (polroles)) THEN
        EXECUTE format('CREATE POLICY erasure ON %s TO ps_relay USING (true)', wanted);
    END IF;
END $$;
REVOKE ALL ON FUNCTION let_erase FROM PUBLIC;

SELECT let_erase(pg_class.oid)
FROM pg_class
CROSS JOIN LATERAL (
    SELECT bool_or(attname = 'tenant') OR count(*) FILTER (WHERE attname IN ('topic', 'topic_id')) = 2 AS of_tenants
    FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped) AS columns
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND of_tenants
    AND relname NOT IN ('tenants', 'audit', 'audit_heads', 'erasures');

-- Counts that come late are of no tenant any more.
CREATE OR REPLACE FUNCTION add_usage(by_process text, batch bigint, of_day date, of_tenants text[], more_requests bigint[],
                          more_events bigint[], more_bytes bigint[], more_refused bigint[])
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
    DELETE FROM usage_batches WHERE at < now() - INTERVAL '7 days' AND process <> by_process;
    INSERT INTO usage_batches AS held (process, number) VALUES (by_process, batch)
    ON CONFLICT (process) DO UPDATE SET number = excluded.number, at = now() WHERE held.number < excluded.number;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO usage AS held (tenant, day, requests, events, bytes, refused)
    SELECT tenant, of_day, counted.requests, counted.events, counted.bytes, counted.refused
    FROM unnest(of_tenants, more_requests, more_events, more_bytes, more_refused)
        AS counted (tenant, requests, events, bytes, refused)
    JOIN tenants USING (tenant)
    WHERE tenants.status IN ('active', 'suspended')
    ORDER BY tenant
    ON CONFLICT (tenant, day) DO UPDATE SET
        requests = held.requests + excluded.requests,
        events = held.events + excluded.events,
        bytes = held.bytes + excluded.bytes,
        refused = held.refused + excluded.refused;
    RETURN true;
END $$;
