"""What was used: the only place with SQL."""
