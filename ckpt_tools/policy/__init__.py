"""Which names a checkpoint may hold, and what may be done with them. Data first, then one judge."""

from ckpt_tools.policy.judge import Judgement, Tier, judge_pickle, package_of, tier_of, well_known

__all__ = ["Judgement", "Tier", "judge_pickle", "package_of", "tier_of", "well_known"]
