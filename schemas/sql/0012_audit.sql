-- The audit: what was changed and what was refused, in one chain of rows a tenant. `entry` is the whole row as JSON, and
-- `hash` is SHA-256 over the hash of the row before (32 zero bytes before the first) and the bytes of `entry`. The other
-- columns repeat members of `entry`, to search by. `audit_heads` holds where each chain ends, so that a cut tail shows.
-- No reference to tenants: the audit outlives them.
CREATE TABLE audit (
    tenant text NOT NULL,
    seq    bigint NOT NULL, -- counts from 1 without a gap
    at     timestamptz NOT NULL, -- never before that of the row before
    action text NOT NULL,
    actor  text, -- id of a key; null: nobody had one
    target text NOT NULL,
    entry  text NOT NULL,
    hash   bytea NOT NULL,
    PRIMARY KEY (tenant, seq)
);
CREATE INDEX audit_by_time ON audit (tenant, at, seq);
CREATE INDEX audit_by_action ON audit (tenant, action, seq);
CREATE INDEX audit_by_actor ON audit (tenant, actor, seq);
CREATE INDEX audit_by_target ON audit (tenant, target, seq);

CREATE TABLE audit_heads (
    tenant text PRIMARY KEY,
    seq    bigint NOT NULL,
    at     timestamptz NOT NULL,
    hash   bytea NOT NULL
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['audit', 'audit_heads'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY own_tenant ON %I FOR SELECT TO ps_api USING (tenant = current_tenant())', name);
        EXECUTE format('CREATE POLICY owner ON %I TO ps_owner USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT ON %I TO ps_api', name);
    END LOOP;
END $$;

-- Not even the owner, nor a superuser, changes a row by accident.
CREATE FUNCTION refuse_change_of_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is append-only: % of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit();
CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON audit_heads
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit();
CREATE TRIGGER one_row_further BEFORE UPDATE ON audit_heads
    FOR EACH ROW WHEN (NEW.seq <> OLD.seq + 1 OR NEW.tenant <> OLD.tenant)
    EXECUTE FUNCTION refuse_change_of_audit();

-- The one way to a row. It belongs to the tenant of the transaction, whose appends take turns at the head until they
-- commit: call it last. `content` holds what else an entry says (actor, request_id, before, after, denial).
CREATE FUNCTION append_audit(action text, actor text, target text, content jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
DECLARE
    owned text := nullif(current_tenant(), '');
    head  audit_heads;
    entry text;
BEGIN
    IF owned IS NULL THEN
        RAISE EXCEPTION 'a row of the audit belongs to a tenant, and the transaction has none'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO audit_heads VALUES (owned, 0, '-infinity', decode(repeat('00', 32), 'hex')) ON CONFLICT DO NOTHING;
    SELECT * INTO head FROM audit_heads WHERE tenant = owned FOR UPDATE;
    head.seq := head.seq + 1;
    head.at := greatest(head.at, clock_timestamp());
    entry := (content || jsonb_build_object(
        'tenant', owned,
        'seq', head.seq,
        'at', to_char(head.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'action', action,
        'target', target))::text;
    head.hash := sha256(head.hash || convert_to(entry, 'UTF8'));
    INSERT INTO audit VALUES (owned, head.seq, head.at, action, actor, target, entry, head.hash);
    UPDATE audit_heads SET seq = head.seq, at = head.at, hash = head.hash WHERE tenant = owned;
    RETURN head.seq;
END $$;
REVOKE ALL ON FUNCTION append_audit FROM PUBLIC;
GRANT EXECUTE ON FUNCTION append_audit TO ps_api;
