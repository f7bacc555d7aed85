"""The pure part of the streams: panes, statistics, rules and the alert state machine. No I/O, no clock."""
