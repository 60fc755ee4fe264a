"""A language model trained by reward: REINFORCE, RLOO, GRPO, PPO, with a KL penalty to a reference policy."""
