"""Run folders: what a training run writes and everything that reports reads. Knows no agent."""
