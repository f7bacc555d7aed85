"""API keys: made, listed, rotated, changed and revoked by those who hold one."""
