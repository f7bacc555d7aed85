-- Invitations: who has one may register a tenant of its tier, where PULSESTREAM_REGISTRATION asks for one. Operators make
-- them; of the secret only the SHA-256 is stored, which is enough for 256 random bits. They belong to no tenant yet.
CREATE TABLE invitations (
    id          text PRIMARY KEY,
    secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
    tier        text NOT NULL CHECK (tier IN ('free', 'pro', 'enterprise')),
    uses        integer NOT NULL CHECK (uses > 0),
    used        integer NOT NULL DEFAULT 0 CHECK (used BETWEEN 0 AND uses),
    note        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    revoked_at  timestamptz
);

ALTER TABLE invitations ENABLE ROW LEVEL SECURITY;
ALTER TABLE invitations FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON invitations TO ps_owner USING (true) WITH CHECK (true);
CREATE POLICY operators ON invitations TO ps_relay USING (true) WITH CHECK (true);
GRANT SELECT (id, tier, uses, used, note, created_at, expires_at, revoked_at), INSERT, UPDATE (revoked_at)
    ON invitations TO ps_relay;

-- Uses an invitation once and returns its tier; null where it is unknown, used up, expired or revoked. In the transaction
-- of the registration, so that one that fails uses nothing.
CREATE FUNCTION use_invitation(invitation text, hash bytea) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
    UPDATE invitations SET used = used + 1
    WHERE id = invitation AND secret_hash = hash AND used < uses AND revoked_at IS NULL AND expires_at > now()
    RETURNING tier
$$;
REVOKE ALL ON FUNCTION use_invitation FROM PUBLIC;
GRANT EXECUTE ON FUNCTION use_invitation TO ps_api;
