-- What operators do with tenants, as the relay's role: `pulsestream tenant list | show | suspend | resume | tier`. Each
-- change is a row of the tenant's audit.
GRANT UPDATE (tier, status, version) ON tenants TO ps_relay;
GRANT UPDATE (since, version) ON subscriptions TO ps_relay;
GRANT INSERT ON outbox TO ps_relay;
GRANT USAGE ON SEQUENCE control_version TO ps_relay;
GRANT EXECUTE ON FUNCTION append_audit TO ps_relay;
GRANT SELECT (tenant, id, name, role, created_at, expires_at, revoked_at, last_used_at) ON api_keys TO ps_relay;
CREATE POLICY every_tenant ON usage TO ps_relay USING (true);
GRANT SELECT ON usage TO ps_relay;
