"""Calls that FairDial sees over ARI: the client, its events, and a handler for each kind of call."""
