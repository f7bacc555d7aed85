-- What each tenant used of the API on each day (UTC). The API's processes count in memory and add their counts in batches,
-- of many tenants at once; so a function adds them, and a tenant sees its own rows only.
CREATE TABLE usage (
    tenant   text NOT NULL REFERENCES tenants,
    day      date NOT NULL,
    requests bigint NOT NULL, -- with a valid key
    events   bigint NOT NULL, -- acknowledged
    bytes    bigint NOT NULL, -- of the bodies that brought them, unfolded
    refused  bigint NOT NULL, -- of the requests, those beyond a rate limit
    PRIMARY KEY (tenant, day)
);

-- The last batch of each process, so that one that is sent again, since its answer was lost, is not added twice.
CREATE TABLE usage_batches (
    process text PRIMARY KEY,
    number  bigint NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['usage', 'usage_batches'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY owner ON %I TO ps_owner USING (true) WITH CHECK (true)', name);
    END LOOP;
END $$;
CREATE POLICY own_tenant ON usage FOR SELECT TO ps_api USING (tenant = current_tenant());
GRANT SELECT ON usage TO ps_api;

-- Returns false where this batch was added before. Rows in order of their tenants, so that no two processes deadlock.
CREATE FUNCTION add_usage(by_process text, batch bigint, of_day date, of_tenants text[], more_requests bigint[],
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
    ORDER BY tenant
    ON CONFLICT (tenant, day) DO UPDATE SET
        requests = held.requests + excluded.requests,
        events = held.events + excluded.events,
        bytes = held.bytes + excluded.bytes,
        refused = held.refused + excluded.refused;
    RETURN true;
END $$;
REVOKE ALL ON FUNCTION add_usage FROM PUBLIC;
GRANT EXECUTE ON FUNCTION add_usage TO ps_api;
