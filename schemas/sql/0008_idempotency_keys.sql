-- Idempotency keys of ingestion (draft-ietf-httpapi-idempotency-key-header): what a key was first used for, and when.
-- The ids of its events are derived from that moment, so the row stays as it is until the key may be used anew.
CREATE TABLE idempotency_keys (
    tenant      text NOT NULL REFERENCES tenants,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,
    used_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (used_at); -- for the relay, which removes the oldest

ALTER TABLE idempotency_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE idempotency_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON idempotency_keys TO ps_api
    USING (tenant = current_tenant()) WITH CHECK (tenant = current_tenant());
CREATE POLICY every_tenant ON idempotency_keys TO ps_relay USING (true);
GRANT SELECT, INSERT, UPDATE (fingerprint, used_at) ON idempotency_keys TO ps_api;
GRANT SELECT (tenant, key, used_at), DELETE ON idempotency_keys TO ps_relay;
