"""Learned with Stable-Baselines3: PPO, A2C, DQN and MaskablePPO over the native vector environments."""
