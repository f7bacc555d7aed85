-- Tickets of the live view that were used, until they are too old to be taken anyway.
CREATE TABLE live_tickets (
    tenant     text NOT NULL REFERENCES tenants,
    nonce      bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, nonce)
);

ALTER TABLE live_tickets ENABLE ROW LEVEL SECURITY;
ALTER TABLE live_tickets FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON live_tickets TO ps_api
    USING (tenant = current_tenant()) WITH CHECK (tenant = current_tenant());
GRANT SELECT, INSERT, DELETE ON live_tickets TO ps_api;
