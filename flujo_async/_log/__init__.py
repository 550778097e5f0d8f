"""What a log means: its hash chain, its keys, its differences and its fold. Pure."""
