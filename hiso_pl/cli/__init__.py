"""The program: its commands, its parser, how an error is said, and LightningCLI of a run; nothing else."""
