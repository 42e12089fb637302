"""What a policy means: pure code. No I/O, clock, log or randomness; time is always an argument.

Modules here import nothing else of ours, so that a live call, a check from the command line and a
replay of yesterday's records all run through the same decision. A test holds that rule.
"""
