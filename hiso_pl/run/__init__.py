"""A run's folder, its checkpoints, where it goes on from, and files that are whole or not there."""
