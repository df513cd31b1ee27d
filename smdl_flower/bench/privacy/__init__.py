"""``smdl bench --privacy``: how a run's participants stand up to those who read what they send."""
