"""Yesterday's calls once more: what a policy would have refused, cut and charged."""
