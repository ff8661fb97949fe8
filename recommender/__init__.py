"""Cloud configuration recommender: from a few profiling runs to what to rent, how to pay, how sure it is and what next.

The public names are imported from their modules on first use, so that `import recommender` costs almost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recommender.automatic import Auto
    from recommender.candidates import Candidates, Configuration, Exclusion
    from recommender.catalogue import Catalogue, TypeFilter, load_catalogue, similar
    from recommender.datasets import fetch_dataset
    from recommender.errors import (
        InfeasibleError,
        InputError,
        InsufficientEvidenceError,
        MissingDataError,
        RecommenderError,
        UnknownNameError,
    )
    from recommender.evaluation import evaluate
    from recommender.explanation import Explanation, explain
    from recommender.models import PerformanceModel, Prediction
    from recommender.models.conformal import Conformal
    from recommender.pending import batch
    from recommender.pricing import PurchaseOption, Usage, parse_purchase
    from recommender.problem import Problem, build_problem
    from recommender.profiling import profile_command
    from recommender.question import Question
    from recommender.recommendation import NextRun, Quantiles, Recommendation, Row
    from recommender.report.plots import time_against_cost
    from recommender.report.regret_plots import write_plots
    from recommender.repricing import changed_prices, reprice
    from recommender.runs import Runs, append_run, read_runs, write_runs
    from recommender.search.experiment_design import plan
    from recommender.strategies import ModelBased, Strategy, calibrated, strategies, strategy
    from recommender.study import Study, studies
    from recommender.summary import summarise

_MODULE_OF = {
    "Auto": "automatic",
    **dict.fromkeys(("Candidates", "Configuration", "Exclusion"), "candidates"),
    **dict.fromkeys(("Catalogue", "TypeFilter", "load_catalogue", "similar"), "catalogue"),
    "fetch_dataset": "datasets",
    **dict.fromkeys(
        (
            "InfeasibleError",
            "InputError",
            "InsufficientEvidenceError",
            "MissingDataError",
            "RecommenderError",
            "UnknownNameError",
        ),
        "errors",
    ),
    "evaluate": "evaluation",
    **dict.fromkeys(("Explanation", "explain"), "explanation"),
    **dict.fromkeys(("PerformanceModel", "Prediction"), "models"),
    "Conformal": "models.conformal",
    "plan": "search.experiment_design",
    "batch": "pending",
    **dict.fromkeys(("PurchaseOption", "Usage", "parse_purchase"), "pricing"),
    **dict.fromkeys(("Problem", "build_problem"), "problem"),
    "profile_command": "profiling",
    "Question": "question",
    **dict.fromkeys(("NextRun", "Quantiles", "Recommendation", "Row"), "recommendation"),
    "time_against_cost": "report.plots",
    "write_plots": "report.regret_plots",
    **dict.fromkeys(("Runs", "append_run", "read_runs", "write_runs"), "runs"),
    **dict.fromkeys(("changed_prices", "reprice"), "repricing"),
    **dict.fromkeys(("ModelBased", "Strategy", "calibrated", "strategies", "strategy"), "strategies"),
    **dict.fromkeys(("Study", "studies"), "study"),
    "summarise": "summary",
}

__all__ = [
    "Auto",
    "Candidates",
    "Catalogue",
    "Configuration",
    "Conformal",
    "Exclusion",
    "Explanation",
    "InfeasibleError",
    "InputError",
    "InsufficientEvidenceError",
    "MissingDataError",
    "ModelBased",
    "NextRun",
    "PerformanceModel",
    "Prediction",
    "Problem",
    "PurchaseOption",
    "Quantiles",
    "Question",
    "Recommendation",
    "RecommenderError",
    "Row",
    "Runs",
    "Strategy",
    "Study",
    "TypeFilter",
    "UnknownNameError",
    "Usage",
    "append_run",
    "batch",
    "build_problem",
    "calibrated",
    "changed_prices",
    "evaluate",
    "explain",
    "fetch_dataset",
    "load_catalogue",
    "parse_purchase",
    "plan",
    "profile_command",
    "read_runs",
    "reprice",
    "similar",
    "strategies",
    "strategy",
    "studies",
    "summarise",
    "time_against_cost",
    "write_plots",
    "write_runs",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'recommender' has no attribute {name!r}")
    return getattr(import_module(f"recommender.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
