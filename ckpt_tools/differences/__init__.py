"""What differs between two checkpoints, or a checkpoint and a configuration, and what that means."""
