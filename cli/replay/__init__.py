"""The audit: what was recorded, computed again from the log and compared."""
