-- What tenants log in to Kafka with: each row one SCRAM user of the broker, `t.{tenant}.{id}`. The API writes what should
-- be, the relay brings the broker to it and says so here. Nothing here leads to the password, and what logs in as well as
-- it (`salted_password`) is here only until the broker has it.
CREATE TABLE kafka_credentials (
    tenant          text NOT NULL REFERENCES tenants,
    id              text NOT NULL,
    name            text NOT NULL,
    salt            bytea NOT NULL,
    iterations      integer NOT NULL,
    salted_password bytea,          -- NULL once the broker has it, or the credential has ended
    created_at      timestamptz NOT NULL DEFAULT now(),
    created_by      text NOT NULL,  -- id of the API key that made it
    expires_at      timestamptz,
    revoked_at      timestamptz,
    replaced_by     text,           -- id of what a rotation made in its place
    rights          text,           -- what the broker was told of it last; NULL: nothing yet
    active_at       timestamptz,    -- since when the broker takes it
    lost_at         timestamptz,    -- the broker knew it no more
    removed_at      timestamptz,    -- since when the broker knows nothing of it
    PRIMARY KEY (tenant, id)
);
CREATE INDEX kafka_credentials_there ON kafka_credentials (tenant, id) WHERE removed_at IS NULL;

ALTER TABLE kafka_credentials ENABLE ROW LEVEL SECURITY;
ALTER TABLE kafka_credentials FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON kafka_credentials TO ps_api
    USING (tenant = current_tenant()) WITH CHECK (tenant = current_tenant());
CREATE POLICY every_tenant ON kafka_credentials TO ps_relay USING (true) WITH CHECK (true);
CREATE POLICY owner ON kafka_credentials TO ps_owner USING (true) WITH CHECK (true);

-- The API cannot read back what it wrote for the broker; the relay changes nothing that tenants decide.
GRANT SELECT (tenant, id, name, created_at, created_by, expires_at, revoked_at, replaced_by, active_at, lost_at, removed_at),
    INSERT (tenant, id, name, salt, iterations, salted_password, created_by, expires_at),
    UPDATE (expires_at, revoked_at, replaced_by) ON kafka_credentials TO ps_api;
GRANT SELECT, UPDATE (salted_password, rights, active_at, lost_at, removed_at) ON kafka_credentials TO ps_relay;
