-- One role for each service, each with what it needs and no more. Roles belong to the whole server, so another
-- database on it may have made them already. Passwords are the operator's: ALTER ROLE … PASSWORD.
--   ps_owner     owns the tables, runs migrations, never logs in
--   ps_sink      writes data tables of every tenant; BYPASSRLS, because COPY FROM refuses row level security
--   ps_api       sees one tenant at a time through row level security
--   ps_relay     publishes the outbox, provisions topics
--   ps_notifier  reads alerts of every tenant
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        ('ps_owner', 'NOLOGIN'),
        ('ps_sink', 'LOGIN BYPASSRLS'),
        ('ps_api', 'LOGIN'),
        ('ps_relay', 'LOGIN'),
        ('ps_notifier', 'LOGIN')) AS roles (name, options)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I %s', wanted.name, wanted.options);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database's migration was faster
            END;
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') THEN
        CREATE EXTENSION IF NOT EXISTS timescaledb;
    END IF;
END $$;

GRANT CREATE, USAGE ON SCHEMA public TO ps_owner;
GRANT USAGE ON SCHEMA public TO ps_sink, ps_api, ps_relay, ps_notifier;
GRANT SELECT, REFERENCES ON schema_migrations TO ps_owner;
GRANT SELECT ON schema_migrations TO ps_sink, ps_api, ps_relay, ps_notifier;
