-- Keys that are made, rotated and revoked over the API: who made them, what took their place, when they were used last.
ALTER TABLE api_keys
    ADD COLUMN created_by   text,        -- id of the key that made it; NULL: made at registration
    ADD COLUMN replaced_by  text,        -- id of the key that a rotation made in its place
    ADD COLUMN last_used_at timestamptz; -- to the minute; NULL: never
CREATE INDEX api_keys_by_age ON api_keys (tenant, created_at, id);

-- What a key was made as stays as it is, and hashes are read by find_api_key only: for the one key that is named.
REVOKE ALL ON api_keys FROM ps_api, ps_relay;
GRANT SELECT (tenant, id, name, role, created_at, created_by, expires_at, revoked_at, replaced_by, last_used_at),
    INSERT (tenant, id, name, role, hmac, pepper_version, created_by, expires_at),
    UPDATE (name, expires_at, revoked_at, replaced_by) ON api_keys TO ps_api;

-- A process of the API writes down at once which keys of all tenants it took. The rows are taken in order, so that two
-- processes do not wait for each other; a process whose clock is ahead writes no time that is still to come.
CREATE FUNCTION note_key_use(ids text[], times timestamptz[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
    WITH used AS (
        SELECT key.id, least(noted.at, now()) AS at
        FROM api_keys AS key
        JOIN unnest(ids, times) AS noted (id, at) ON noted.id = key.id
        WHERE key.last_used_at IS NULL OR key.last_used_at < least(noted.at, now())
        ORDER BY key.id
        FOR NO KEY UPDATE OF key)
    UPDATE api_keys AS key SET last_used_at = greatest(key.last_used_at, used.at) FROM used WHERE key.id = used.id
$$;
REVOKE ALL ON FUNCTION note_key_use FROM PUBLIC;
GRANT EXECUTE ON FUNCTION note_key_use TO ps_api;
