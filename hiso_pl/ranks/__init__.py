"""The ranks of a launch: their environment, processes and store, how they meet, and who did not come."""
