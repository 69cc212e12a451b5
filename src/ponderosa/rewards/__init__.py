"""Rewards for reinforcement learning with verifiable rewards: one graded attempt in, a number out.

    reward       what a reward is, and what it is told besides the attempt and its verdict
    accuracy     for a right answer: plain; by length with plateaus (Phi-4-reasoning-plus); by length without
    repetition   a penalty for repeated n-grams
    faults       what is wrong with how a solution is written; work: was its answer worked for
    recipe       a weighted sum of named rewards, a user's own among them

Pure: nothing here grades, runs or samples.
"""

from ponderosa.rewards.recipe import RewardConfig, RewardSum, Score, build_reward_sum, hash_rewards
from ponderosa.rewards.reward import Reward, RewardContext

__all__ = [
    "Reward",
    "RewardConfig",
    "RewardContext",
    "RewardSum",
    "Score",
    "build_reward_sum",
    "hash_rewards",
]
