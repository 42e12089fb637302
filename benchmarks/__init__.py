"""What FairDial adds, measured beside the bare switch in the same run."""
