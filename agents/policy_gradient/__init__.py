"""A language model trained by reward: REINFORCE, RLOO, GRPO, PPO, with the KL to a reference where it is wanted."""
