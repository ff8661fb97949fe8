"""Any strategy of one model, with intervals that hold on the workloads of the archive."""

from __future__ import annotations

from dataclasses import replace

from recommender.errors import InputError
from recommender.models.conformal import Conformal
from recommender.strategies import ModelBased, Strategy


def calibrated(chosen: Strategy) -> ModelBased:
    """The same strategy with its spread scaled until the archive's workloads, left out in turn, are covered.

    Raises
    ------
    InputError
        For a strategy that is not one model (auto, cloudbandit).
    """
    if not isinstance(chosen, ModelBased):
        raise InputError("only a strategy with one model can be calibrated: name one, such as --strategy ernest")
    return replace(chosen, model=Conformal(chosen.model))
