"""Run folders: the files of a training run, independent of the agent."""
