"""How operators see and steer FairDial."""
