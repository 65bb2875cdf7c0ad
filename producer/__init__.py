"""Archive to ledger (scan), ledger to Redis (feed)."""
