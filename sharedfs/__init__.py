"""What every package may use of a file system that many nodes share: whole files, locks, its clock, typed JSON."""
