-- `pulsestream audit verify-all` reads the chains of all tenants, as the relay's role.
CREATE POLICY every_tenant ON audit FOR SELECT TO ps_relay USING (true);
CREATE POLICY every_tenant ON audit_heads FOR SELECT TO ps_relay USING (true);
GRANT SELECT ON audit, audit_heads TO ps_relay;
