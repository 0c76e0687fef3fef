"""Long jobs that may be interrupted: atomic writes, locks, checksums, and folders to go on from."""
