"""Alerts as they stand now, and marks on them: acknowledged, snoozed."""
