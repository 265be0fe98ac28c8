"""Plans: what is to be changed in a checkpoint, from where, and at what loss; and the ledger of what was done."""

from ckpt_tools.plans.model import Outcome, PartPlan, Plan, Request, Step

__all__ = ["Outcome", "PartPlan", "Plan", "Request", "Step"]
