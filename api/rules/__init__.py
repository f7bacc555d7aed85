"""Rules: what a tenant wants to be alerted to, carried to the streams by the outbox."""
