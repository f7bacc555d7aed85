-- A tail waits for the transactions of its own database only: those of others on the same server store none of its rows.
-- A transaction under way counts as another database's where it holds the lock on its own number there. One that holds
-- none, because it began or ended in this very moment, counts as ours: the horizon may be too low, and never too high.
CREATE OR REPLACE FUNCTION ingested_horizon() RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
AS $$
DECLARE
    here  bigint := (SELECT system_identifier FROM pg_control_system());
    ahead bigint := (SELECT shift FROM ingestion_clock WHERE system = here);
    seen  txid_snapshot := txid_current_snapshot();
    first bigint;
BEGIN
    IF ahead IS NULL THEN
        RAISE EXCEPTION 'this database was restored from another server: run `pulsestream migrate`'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    first := (
        SELECT min(running.xid)
        FROM txid_snapshot_xip(seen) AS running (xid)
        WHERE NOT EXISTS (
            SELECT FROM pg_locks AS held JOIN pg_stat_activity AS session USING (pid)
            WHERE held.locktype = 'transactionid'
                AND held.mode = 'ExclusiveLock'
                AND held.transactionid::text::bigint = running.xid & 4294967295
                AND session.datname <> current_database()));
    RETURN coalesce(first, txid_snapshot_xmax(seen)) + ahead;
END $$;
