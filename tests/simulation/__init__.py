"""FairDial's own code under a simulated switch, store and clock, with faults; every run repeats from its seed."""
