"""The only place that runs model-written code: steps in, outcomes and printed output out.

    with Sandbox() as sandbox:
        sandbox.run_steps(["tom = 5 + 4", "print(tom)"])      # one solution, stops at the first step not ok
        sandbox.execute(("tom = 5 + 4",), "print(tom * 2)")   # one step in the state its prefix leaves

docs/sandbox.md says what each tier guarantees and what it does not.
"""

from ponderosa.sandbox.execution import TIERS, Execution, Limits, Tier
from ponderosa.sandbox.pool import Sandbox, tiers_available
from ponderosa.sandbox.subset import choose_tier

__all__ = ["TIERS", "Execution", "Limits", "Sandbox", "Tier", "choose_tier", "tiers_available"]
