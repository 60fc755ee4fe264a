"""From a policy or an environment to its figures: exact where possible, else estimated with an interval."""
