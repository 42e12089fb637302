"""FairDial keeps a VoIP provider's fair-use policy in the call path of an Asterisk switch."""
