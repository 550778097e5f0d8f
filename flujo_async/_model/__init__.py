"""The words of the package: facts, states, leases and policies, without I/O and without a clock."""
