"""The live view: ticks, statistics and alerts as they happen, over WebSocket or Server-Sent Events."""
