-- What tenants are and want. Each change writes its row and an outbox row in one transaction; the relay publishes the
-- outbox in order to the compacted control topics.
CREATE SEQUENCE control_version;

CREATE FUNCTION current_tenant() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    RETURN current_setting('pulsestream.tenant', true);

CREATE TABLE tenants (
    tenant     text PRIMARY KEY,
    name       text NOT NULL,
    tier       text NOT NULL DEFAULT 'free' CHECK (tier IN ('free', 'pro', 'enterprise')),
    status     text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'deleted')),
    shard      integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    version    bigint NOT NULL DEFAULT nextval('control_version')
);

CREATE TABLE api_keys (
    tenant         text NOT NULL REFERENCES tenants,
    id             text NOT NULL UNIQUE,
    name           text NOT NULL,
    role           text NOT NULL CHECK (role IN ('owner', 'admin', 'viewer')),
    hmac           bytea NOT NULL,
    pepper_version integer NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz,
    revoked_at     timestamptz,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE subscriptions (
    tenant   text NOT NULL REFERENCES tenants,
    exchange text NOT NULL,
    product  text NOT NULL,
    datasets text[] NOT NULL,
    since    timestamptz NOT NULL DEFAULT now(),
    version  bigint NOT NULL DEFAULT nextval('control_version'),
    PRIMARY KEY (tenant, exchange, product)
);

-- Every version of every rule; the newest of a rule_id is in force. effective_at is the broker's append time, written
-- by the relay once the version is on its topic.
CREATE TABLE rules (
    tenant       text NOT NULL REFERENCES tenants,
    rule_id      text NOT NULL,
    version      bigint NOT NULL,
    name         text NOT NULL,
    enabled      boolean NOT NULL DEFAULT true,
    deleted      boolean NOT NULL DEFAULT false,
    definition   jsonb NOT NULL,
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    effective_at timestamptz,
    PRIMARY KEY (tenant, rule_id, version)
);

-- The tenant topics that should exist; the reconciler makes them and marks them active.
CREATE TABLE tenant_topics (
    tenant       text NOT NULL REFERENCES tenants,
    dataset      text NOT NULL,
    status       text NOT NULL DEFAULT 'provisioning' CHECK (status IN ('provisioning', 'active', 'refused')),
    topic_id     text,
    detail       text,
    requested_at timestamptz NOT NULL DEFAULT now(),
    active_at    timestamptz,
    PRIMARY KEY (tenant, dataset)
);

CREATE TABLE outbox (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant       text NOT NULL,
    topic        text NOT NULL,
    key          text NOT NULL,
    value        bytea,
    created_at   timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz
);
CREATE INDEX outbox_waiting ON outbox (id) WHERE published_at IS NULL;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['tenants', 'api_keys', 'subscriptions', 'rules', 'tenant_topics', 'outbox'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY own_tenant ON %I TO ps_api USING (tenant = current_tenant()) WITH CHECK (tenant = current_tenant())', name);
        EXECUTE format('CREATE POLICY every_tenant ON %I TO ps_relay USING (true) WITH CHECK (true)', name);
        EXECUTE format('CREATE POLICY owner ON %I TO ps_owner USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT ON %I TO ps_relay', name);
    END LOOP;
END $$;

GRANT SELECT, INSERT, UPDATE ON tenants, api_keys, subscriptions, rules TO ps_api;
GRANT DELETE ON subscriptions TO ps_api;
GRANT SELECT, INSERT ON tenant_topics TO ps_api;
GRANT INSERT ON outbox TO ps_api;
GRANT USAGE ON SEQUENCE control_version TO ps_api;
GRANT UPDATE (published_at) ON outbox TO ps_relay;
GRANT DELETE ON outbox TO ps_relay;
GRANT UPDATE (effective_at) ON rules TO ps_relay;
GRANT UPDATE (status, topic_id, detail, active_at) ON tenant_topics TO ps_relay;

-- The one look across tenants that the API has: whose key is this? It never returns more than one row, and that only
-- to who names the id.
CREATE FUNCTION find_api_key(key_id text)
RETURNS TABLE (tenant text, role text, hmac bytea, pepper_version integer, expires_at timestamptz, revoked_at timestamptz,
               tenant_status text, tier text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public
AS $$
    SELECT k.tenant, k.role, k.hmac, k.pepper_version, k.expires_at, k.revoked_at, t.status, t.tier
    FROM api_keys AS k JOIN tenants AS t USING (tenant)
    WHERE k.id = key_id
$$;
REVOKE ALL ON FUNCTION find_api_key FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_api_key TO ps_api;
