"""The audit: who changed what, and who was refused, in a chain of rows that shows whatever is done to it later."""
