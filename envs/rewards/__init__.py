"""Reward mechanisms: one file each, formulas only."""
